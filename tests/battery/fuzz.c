/* fuzz.c: damages a segment, and then attaches, walks and uses it in every way.
 *
 *   clang -fsanitize=fuzzer,address,undefined ...      libFuzzer drives it: ./fuzz CORPUS -runs=N
 *   gcc -fsanitize=address,undefined -DFUZZ_ALONE ...  or it drives itself:  ./fuzz SEED SECONDS RUNS [DAMAGE]
 *                                                      and ./fuzz FILE... runs kept inputs
 *
 * A template is a whole segment with objects of every kind, at rest or as a death in the middle of one of `deaths` leaves it.
 * An input, of any bytes, names a template, then up to 8 places to be damaged (at the start, or, as another process would,
 * between two steps or two loads of what follows), then what to do. Whatever it says, the sanitizers must be silent, nothing may go on
 * for a second, and every call must end with a code that it knows. An input that damages nothing must find everything whole.
 *
 * Something joins by one line in `actions`, and in `deaths` if it changes several words.
 */
#include "kernel.h"

#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>

static void between_slowly(void);
static int stop_at, pending_count, finely;

static inline void between(void) {
    if (__builtin_expect(stop_at | pending_count, 0))
        between_slowly();
}

/* Where only damage is looked for, not deaths: that a word is not read again after it was checked. */
static inline void between_loads(void) {
    if (__builtin_expect(finely, 0))
        between_slowly();
}

#include "platform.h"
#undef fs_crash_order
#define fs_crash_order() (between(), __atomic_signal_fence(__ATOMIC_SEQ_CST))
#undef fs_load_acquire
#define fs_load_acquire(p) (between(), __atomic_load_n((p), __ATOMIC_ACQUIRE))
#undef fs_load_ordered
#define fs_load_ordered(p) (between(), __atomic_load_n((p), __ATOMIC_SEQ_CST))
#undef fs_load_relaxed
#define fs_load_relaxed(p) (between_loads(), __atomic_load_n((p), __ATOMIC_RELAXED))

#include "check.h"
#include "segment.h"

#define SIZE (1u << 20)
#define MOST_TEMPLATES 256 /* a byte of the input names one */
#define OURS 2 /* the process's and the thread's number */

/* Handle slots: of objects; of six raw blocks; of what is waited for. */
enum { TABLE, LARGE, VECTOR, ARRAY, BYTES, CELL, MUTEX, GATED, INNER, COUNTER, SPARE, EXTRA, OBJECTS };
enum { SEMAPHORE = OBJECTS + 6, EVENT, BOUNDED, WAITERS, BARRIER, SLOTS, WAITED = SLOTS - SEMAPHORE };

typedef struct {
    uint64_t offset, serial, size;
    uint32_t kind;
} handle;

static fs_heap heap;
static fs_self me;
static handle handles[SLOTS];
static uint8_t held[SLOTS]; /* which of them there still are */
static uint64_t tickets[2][2]; /* offset, serial */

static void broken(const char *why) {
    fprintf(stderr, "FAILED: %s\n", why);
    abort();
}

/* --- building ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    char *bytes;
    uint64_t committed;
    fs_heap heap;
    uint64_t *free_slots;
    uint32_t *words, word_count;   /* numbers of the words that mean something */
    uint32_t *blocks, block_count; /* offsets */
    int waited; /* has what is waited for */
} template;

static template templates[MOST_TEMPLATES];
static unsigned template_count;

static void wish(int r) {
    if (r != FS_OK) {
        fprintf(stderr, "building: %d\n", r);
        abort();
    }
}

static uint64_t *slot_word(int slot) { return fs_slot_word(&heap, (uint64_t)slot); }
static fs_object *object(int slot) { return (fs_object *)(heap.base + *slot_word(slot)); }

static void make(int slot, uint64_t bytes, uint32_t kind) {
    fs_object *o;
    wish(fs_object_new(&me, bytes, kind, slot_word(slot), &o));
    held[slot] = 1;
    handles[slot] = (handle){fs_offset(&heap, o), o->serial, bytes, kind};
}

static fs_value number(uint64_t n) { return (fs_value){FS_V_INT, 0, n, NULL, 0, NULL, 0, 0}; }

static fs_value text(uint64_t size) {
    static const char letters[4096];
    return (fs_value){FS_V_ASCII_BLOB, 0, 0, letters, size > sizeof letters ? sizeof letters : size, NULL, 0, 0};
}

static fs_value word_of_text(void) { return (fs_value){FS_V_ASCII, 3, 0x636261, NULL, 0, NULL, 0, 0}; }

static fs_value inner(void) { return (fs_value){FS_V_OBJECT, 0, handles[INNER].offset, NULL, 0, NULL, 0, 0}; }

static fs_value bundle(void) {
    static uint64_t refs[2];
    refs[0] = handles[INNER].offset;
    refs[1] = handles[ARRAY].offset;
    return (fs_value){FS_V_PICKLE_BUNDLE, 0, 0, "pickle of two", 13, refs, 2, 0};
}

/* The same, with buffers in its bytes. */
static fs_value buffers(void) {
    fs_value v = bundle();
    v.kind = FS_V_PICKLE_BUFFERS;
    return v;
}

static fs_value some(uint8_t a) {
    switch (a % 6 + (a % 6 < 2 && !(held[INNER] && held[ARRAY])) * 3) {
    case 0:
        return inner();
    case 1:
        return a & 64 ? buffers() : bundle();
    case 2:
        return text(a * 7u);
    case 3:
        return word_of_text();
    default:
        return number(a);
    }
}

/* Keys 0 to 63: short ones, long ones, and some that only Python would compare. */
static fs_key key(uint8_t a, uint64_t seed) {
    static char bytes[8][64];
    static int turn;
    char *b = bytes[turn++ % 8];
    fs_key k = {0};
    a %= 64;
    if (a % 8 == 7) {
        fs_key_of_word(&k, FS_K_INT, FS_D_SAME, a, seed);
        return k;
    }
    snprintf(b, sizeof bytes[0], a % 8 == 6 ? "a key that is too long for an entry %d" : a % 8 == 5 ? "k%d!" : "k%d", a);
    k.bytes = (const unsigned char *)b;
    k.total = strlen(b);
    k.length = (uint32_t)k.total - (a % 8 == 5); /* with something to show */
    k.display = a % 8 == 5 ? FS_D_PICKLE : FS_D_SAME;
    k.form = a % 8 == 4 ? FS_K_OTHER : FS_K_STR;
    fs_key_prepare(&k, seed);
    return k;
}

static fs_table *table(int slot) { return (fs_table *)(heap.base + handles[slot].offset); }
static fs_vector *vector(void) { return (fs_vector *)(heap.base + handles[VECTOR].offset); }
static fs_array *array(int slot) { return (fs_array *)(heap.base + handles[slot].offset); }

static void put(int slot, uint8_t k, fs_value v) {
    fs_key K = key(k, table(slot)->seed);
    wish(fs_table_put(&me, table(slot), &K, &v, FS_PUT, table(slot)->keys_changed, NULL, NULL));
}

static void make_array(int slot, uint64_t count, uint32_t size, uint32_t code) {
    make(slot, FS_ARRAY_DATA + count * size, FS_ARRAY);
    fs_array *a = array(slot);
    a->count = count;
    a->itemsize = size;
    a->typecode = code;
}

static void fill(void) {
    fs_key k;
    fs_block *b;
    make(INNER, sizeof(fs_vector), FS_VECTOR);
    make(TABLE, sizeof(fs_table), FS_TABLE);
    make(LARGE, sizeof(fs_table), FS_TABLE);
    make(VECTOR, sizeof(fs_vector), FS_VECTOR);
    make_array(ARRAY, 20, 8, 'q');
    make_array(BYTES, 3, 24, 0);
    make(CELL, sizeof(fs_cell), FS_CELL);
    ((fs_cell *)object(CELL))->typecode = 'q';
    make(MUTEX, sizeof(fs_object), FS_MUTEX);
    make(COUNTER, fs_counter_bytes(8), FS_COUNTER);
    fs_counter_start((fs_counter *)object(COUNTER), 8, 5);
    make(SPARE, sizeof(fs_cell), FS_GATE);
    make(GATED, sizeof(fs_table), FS_TABLE);
    wish(fs_ref_to(&me, handles[SPARE].offset, &object(GATED)->gate));
    for (uint8_t i = 0; i < 8; i++)
        put(TABLE, i, some(i));
    for (uint8_t i = 0; i < 40; i++)
        put(LARGE, i, i % 5 ? number(i) : text(i * 9u));
    for (uint8_t i = 0; i < 40; i += 3) {
        k = key(i, 0);
        wish(fs_table_remove(&me, table(LARGE), &k, NULL, UINT64_MAX));
    }
    for (uint8_t i = 0; i < 12; i++) {
        fs_value v = some(i);
        wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, &v, 1, FS_ANY_STAMP));
    }
    wish(fs_vector_change(&me, vector(), FS_DELETE_ITEM, 0, NULL, 0, FS_ANY_STAMP));
    wish(fs_ticket_new(&me, handles[INNER].offset, &tickets[0][0], &tickets[0][1]));
    wish(fs_ticket_new(&me, handles[CELL].offset, &tickets[1][0], &tickets[1][1]));
    for (int i = 0; i < 6; i++) { /* holes */
        wish(fs_alloc_to(&me, i % 2 ? 900 : 100, FS_RAW, slot_word(OBJECTS + i), &b));
    }
    for (int i = 0; i < 6; i += 2)
        wish(fs_drop(&me, slot_word(OBJECTS + i)));
    wish(fs_drop(&me, slot_word(OBJECTS + 1)));
}

static uint32_t living_id, dead_id;

/* A process that has died, with handles, and one that lives. */
static void others(void) {
    uint64_t dead, living;
    uint32_t id;
    wish(fs_new_id(&heap, 9, &id));
    living_id = id;
    wish(fs_process_new(&me, id, 77, &living));
    wish(fs_process_copy(&me, heap.process, living));
    wish(fs_new_id(&heap, 9, &id));
    dead_id = id;
    wish(fs_process_new(&me, id, 78, &dead));
    wish(fs_process_copy(&me, heap.process, dead));
    kernel.claims--;
}

static fs_semaphore *semaphore(void) { return (fs_semaphore *)(heap.base + handles[SEMAPHORE].offset); }
static fs_bounded *bounded(void) { return (fs_bounded *)(heap.base + handles[BOUNDED].offset); }
static fs_waiters *waiters(void) { return (fs_waiters *)(heap.base + handles[WAITERS].offset); }
static fs_barrier *barrier(void) { return (fs_barrier *)(heap.base + handles[BARRIER].offset); }

/* At each, somebody who lives, somebody who is dead, and we: our seat and our place are 2. No permit is free. */
static void fill_waited(void) {
    static const int32_t nets[] = {1, 3, -1};
    const uint32_t ids[] = {living_id, dead_id, heap.process_id};
    uint64_t n;
    make(SEMAPHORE, sizeof(fs_semaphore), FS_SEMAPHORE);
    semaphore()->value = 1;
    make(EVENT, sizeof(fs_semaphore), FS_EVENT);
    make(BOUNDED, sizeof(fs_bounded), FS_BOUNDED);
    wish(fs_bounded_start(&me, bounded(), 3));
    make(WAITERS, sizeof(fs_waiters), FS_WAITERS);
    make(BARRIER, sizeof(fs_barrier) + 5 * 8, FS_BARRIER);
    barrier()->parties = barrier()->room = 5;
    for (int i = 0; i < 3; i++) {
        uint32_t id = i < 2 ? ids[i] : me.id;
        fs_share *s = (fs_share *)(heap.base + bounded()->ledger + FS_HEADER);
        fs_share_put(&s[i], ids[i], nets[i]);
        wish(fs_waiters_join(&me, waiters(), &n));
        fs_waiter_at(&heap, waiters(), n)->seat.id = id;
        barrier()->place[i] = i == 1 ? 0 : id; /* a dead one breaks it: that is one of `deaths` */
    }
}

static void append_text(void) {
    fs_value v = text(99);
    wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, &v, 1, FS_ANY_STAMP));
}
static void insert_in_middle(void) {
    fs_value v = text(99);
    wish(fs_vector_change(&me, vector(), FS_INSERT_ITEM, 3, &v, 1, FS_ANY_STAMP));
}
static void delete_in_middle(void) { wish(fs_vector_change(&me, vector(), FS_DELETE_ITEM, 3, NULL, 0, FS_ANY_STAMP)); }
static void extend(void) {
    fs_value v[4] = {text(9), inner(), number(1), bundle()};
    wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, v, 4, FS_ANY_STAMP));
}
static void rearrange(void) {
    static const int64_t plan[] = {3, 2, 2, -1, 0};
    fs_value v = text(20);
    wish(fs_vector_rearrange(&me, vector(), plan, 5, &v, vector()->stamp));
}
static void replace(void) {
    fs_value v[3] = {text(20), number(1), inner()};
    wish(fs_vector_exchange(&me, vector(), 1, 3, v, 3));
}
static void replace_first(void) { wish(fs_vector_exchange(&me, vector(), 0, 3, NULL, 0)); }
static void insert_key(void) { put(TABLE, 22, bundle()); }
static void overwrite(void) { put(TABLE, 2, text(200)); }
static void remove_key(void) {
    fs_key k = key(14, 0);
    wish(fs_table_remove(&me, table(LARGE), &k, NULL, UINT64_MAX));
}
static void grow(void) {
    for (uint8_t i = 41; table(LARGE)->used < 40; i++)
        put(LARGE, i, number(i));
}
static void update(void) {
    fs_key k[6];
    fs_value v[6];
    for (uint8_t i = 0; i < 6; i++) {
        k[i] = key((uint8_t)(5 * i), 0);
        v[i] = some((uint8_t)(i + 1));
    }
    wish(fs_table_merge(&me, table(TABLE), k, v, 6, FS_PUT, table(TABLE)->keys_changed));
}
static void clear(void) { wish(fs_table_empty(&me, table(LARGE))); }
static void write_slice(void) {
    static const uint64_t items[8];
    wish(fs_array_enter(&me, array(ARRAY)));
    wish(fs_array_write(&me, array(ARRAY), 8, 1, 2, 8, items));
    fs_array_leave(&me, &array(ARRAY)->o, FS_OK);
}
static void section(void) {
    fs_lock *l = &table(GATED)->o.lock;
    fs_hold_begin(l, fs_enter(&me, l), 0);
    put(GATED, 1, number(1));
    fs_hold_end(&me, l);
}
static void make_and_drop(void) {
    fs_object *o;
    wish(fs_object_new(&me, 700, FS_ARRAY, slot_word(EXTRA), &o));
    wish(fs_drop(&me, slot_word(EXTRA)));
}
static void drop_containers(void) {
    wish(fs_drop(&me, slot_word(LARGE)));
    wish(fs_drop(&me, slot_word(VECTOR)));
    wish(fs_reap(&me));
}
static void bury(void) {
    kernel.claims -= 2;
    wish(fs_bury(&me));
    kernel.claims += 2;
}

static void take_a_permit(void) { wish(fs_bounded_take(&me, bounded(), 1)); }
static void give_a_permit(void) { wish(fs_bounded_give(&me, bounded())); }
static void enlarge_ledger(void) { wish(fs_ledger_grow(&me, bounded())); }
static void fold_all(void) { wish(fs_ledger_fold(&me, bounded(), 1)); }
static void come(void) {
    uint64_t n;
    wish(fs_waiters_join(&me, waiters(), &n));
}
static void come_many(void) {
    for (uint64_t n = 0; n < FS_WAITERS_FIRST;)
        wish(fs_waiters_join(&me, waiters(), &n));
}
static void notify(void) { wish(fs_waiters_notify(&me, waiters(), 1)); }
static void notify_all(void) { wish(fs_waiters_notify(&me, waiters(), 99)); }
static void be_notified_in_vain(void) {
    uint64_t n;
    wish(fs_waiters_join(&me, waiters(), &n));
    wish(fs_waiters_notify(&me, waiters(), 2));
    wish(fs_waiters_done(&me, waiters(), n, 1));
}
static void arrive(void) {
    uint64_t at, index;
    int fate;
    wish(fs_barrier_arrive(&me, barrier(), 0, &at, &index, &fate));
}
static void arrive_and_act(void) {
    uint64_t at, index;
    int fate;
    barrier()->place[1] = barrier()->place[3] = living_id;
    wish(fs_barrier_arrive(&me, barrier(), 1, &at, &index, &fate));
    wish(fs_barrier_acted(&me, barrier(), at));
}
static void arrive_last(void) {
    uint64_t at, index;
    int fate;
    barrier()->place[1] = barrier()->place[3] = living_id;
    wish(fs_barrier_arrive(&me, barrier(), 0, &at, &index, &fate));
}
static void reset(void) { wish(fs_barrier_reset(&me, barrier())); }
static void find_a_death(void) {
    barrier()->place[1] = dead_id;
    wish(fs_barrier_look(&me, barrier(), FS_NO_PLACE));
}
static void make_and_drop_waited(void) {
    uint64_t n;
    fs_object *o;
    wish(fs_object_new(&me, sizeof(fs_waiters), FS_WAITERS, slot_word(EXTRA), &o));
    wish(fs_waiters_join(&me, (fs_waiters *)o, &n));
    wish(fs_drop(&me, slot_word(EXTRA)));
    wish(fs_object_new(&me, sizeof(fs_bounded), FS_BOUNDED, slot_word(EXTRA), &o));
    wish(fs_bounded_start(&me, (fs_bounded *)o, 3));
    wish(fs_drop(&me, slot_word(EXTRA)));
    wish(fs_reap(&me));
}
static int copied(void *out, const fs_seen *seen) { return fs_copy_out(&me, seen, NULL, out); }
static void take_out(void) {
    static fs_copy c; /* so that it can be found again after a death */
    fs_key k = key(5, 0);
    free(c.data);
    c.data = NULL;
    wish(fs_table_take(&me, table(LARGE), &k, copied, &c));
}
static void use_ticket(void) {
    uint64_t offset = 0, serial = 0;
    wish(fs_ticket_new(&me, handles[INNER].offset, &offset, &serial));
    wish(fs_ticket_use(&me, offset, serial, handles[INNER].offset, slot_word(EXTRA)));
}
static void make_heir(void) {
    fs_heir heir;
    wish(fs_heir_make(&me, &heir));
}

/* What changes several words. In the second half: in a segment with what is waited for. */
static const struct {
    const char *name;
    void (*operate)(void);
} deaths[] = {
    {"append", append_text}, {"insert", insert_in_middle}, {"delete", delete_in_middle}, {"extend", extend},
    {"rearrange", rearrange}, {"replace", replace}, {"replace the first", replace_first}, {"insert a key", insert_key}, {"overwrite", overwrite},
    {"remove a key", remove_key},
    {"grow", grow}, {"update", update}, {"clear", clear}, {"write a slice", write_slice}, {"section", section},
    {"make and drop", make_and_drop}, {"drop containers", drop_containers}, {"bury", bury},
#define FIRST_WAITED 18
    {"take a permit", take_a_permit}, {"give a permit", give_a_permit}, {"enlarge the ledger", enlarge_ledger},
    {"fold", fold_all}, {"come", come}, {"come, many", come_many}, {"notify", notify}, {"notify all", notify_all},
    {"be notified in vain", be_notified_in_vain}, {"arrive", arrive}, {"arrive and act", arrive_and_act},
    {"arrive last", arrive_last}, {"reset", reset}, {"find a death", find_a_death},
    {"make and drop what is waited for", make_and_drop_waited}, {"take out", take_out}, {"use a ticket", use_ticket},
    {"make an heir", make_heir},
};

static int steps; /* while building */
static jmp_buf stopped;

static void note_places(template *t) {
    fs_super *s = (fs_super *)t->bytes;
    uint64_t n = t->committed / 8;
    t->words = malloc(n * 4);
    t->blocks = malloc(n / 8 * 4);
    for (uint64_t i = 0; i < offsetof(fs_super, bin) / 8; i++)
        t->words[t->word_count++] = (uint32_t)i;
    for (uint64_t i = 0; i < FS_BINS; i++)
        if (s->bin[i])
            t->words[t->word_count++] = (uint32_t)((uint64_t *)&s->bin[i] - (uint64_t *)s);
    for (uint64_t at = FS_FIRST; at < t->committed;) {
        fs_block *b = (fs_block *)(t->bytes + at);
        uint64_t room = (uint64_t)b->size * FS_GRAIN, used = b->kind <= FS_QUICK ? 32 : room;
        if (!room || at + room > t->committed)
            break; /* in the middle of a change */
        for (uint64_t i = 0; i < used / 8; i++)
            if (i < 100 || ((uint64_t *)b)[i])
                t->words[t->word_count++] = (uint32_t)(at / 8 + i);
        t->blocks[t->block_count++] = (uint32_t)at;
        at += room;
    }
}

static void keep_template(const char *name, int waited) {
    template *t = &templates[template_count++];
    if (template_count > MOST_TEMPLATES)
        abort();
    t->name = name;
    t->waited = waited;
    t->heap = heap;
    t->committed = kernel.pages;
    t->bytes = malloc(t->committed);
    t->free_slots = malloc(heap.free_room * 8);
    memcpy(t->bytes, heap.base, t->committed);
    memcpy(t->free_slots, heap.free_slots, heap.free_room * 8);
    note_places(t);
}

static void restore(const template *t) {
    kernel_pages(t->committed);
    memcpy(kernel.base, t->bytes, t->committed);
    kernel.naps = 0;
    kernel.now = 1000000000;
    kernel.claims = kernel.ours + 1;
    kernel.alone = 0;
}

/* Our own private things of a segment that was attached before it was damaged. */
static void take_up(const template *t) {
    heap = t->heap;
    heap.chunks = NULL;
    heap.free_slots = malloc(heap.free_room * 8);
    memcpy(heap.free_slots, t->free_slots, heap.free_room * 8);
    heap.live_pins = NULL;
    wish(fs_pin_claims(&heap));
}

static void give_up(void) {
    fs_unpin_claims(&heap, 1);
    free(heap.free_slots);
    free(heap.chunks);
    heap.free_slots = heap.chunks = NULL;
    fs_unpin_claims(&heap, 1);
}

/* Somebody who does it, and dies at it: at rest he has his number, and is dead. */
static void keep_deaths(size_t from, size_t to, int samples, int waited) {
    const template *rest = &templates[template_count - 1];
    uint32_t mine = me.id;
    take_up(rest);
    wish(fs_new_id(&heap, 9, &me.id));
    kernel.claims--;
    keep_template("at rest, too", waited);
    give_up();
    rest++;
    for (size_t d = from; d < to; d++) {
        int all = 0;
        for (int n = 0; n <= samples; n++) { /* the first to count the steps */
            restore(rest);
            take_up(rest);
            steps = 0;
            stop_at = n ? 1 + (all - 1) * n / samples : -1;
            if (!setjmp(stopped)) {
                deaths[d].operate();
                all = steps;
            }
            stop_at = 0;
            if (n) {
                heap.free_count = rest->heap.free_count;
                keep_template(deaths[d].name, waited);
            }
            give_up();
        }
    }
    me.id = mine;
}

static void build(void) {
    size_t count = sizeof deaths / sizeof *deaths;
    uint32_t id;
    kernel_start(SIZE);
    if (fs_segment_create(&heap, 9, SIZE, 0, 0) != FS_OK)
        abort();
    wish(fs_new_id(&heap, 9, &id));
    me = (fs_self){&heap, id, 0};
    kernel.ours = OURS;
    heap.free_count -= SLOTS; /* used by number here */
    fill();
    others();
    keep_template("at rest", 0);
    give_up();
    keep_deaths(0, FIRST_WAITED, 9, 0);
    restore(&templates[0]);
    take_up(&templates[0]);
    fill_waited();
    keep_template("at rest, with what is waited for", 1);
    give_up();
    keep_deaths(FIRST_WAITED, count, 5, 1);
}

/* --- damage -------------------------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *p, *end;
} input;

static uint64_t take(input *in, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes && in->p < in->end; i++)
        v |= (uint64_t)*in->p++ << 8 * i;
    return v;
}

typedef struct {
    uint32_t where, when;
    uint8_t how;
    uint64_t what;
} damage;

static const template *now;
static damage pending[8];
static int damaged;

static void strike(const damage *d) {
    uint64_t *word = (uint64_t *)kernel.base + now->words[d->where % now->word_count], a = d->what;
    const uint64_t *other = (const uint64_t *)kernel.base + now->words[a % now->word_count];
    uint32_t *half = (uint32_t *)word;
    static const uint64_t odd[] = {0, 1, ~0ull, 1ull << 63, INT64_MAX, 1ull << 32, 64, FS_FIRST, SIZE, SIZE - 8, UINT32_MAX, 0x100};
    damaged = 1;
    switch (d->how % 13) {
    case 0:
        *word = a;
        break;
    case 1:
        *word ^= 1ull << a % 64;
        break;
    case 2:
    case 3:
        half[d->how % 13 - 2] = (uint32_t)(a & 0xff);
        break;
    case 4:
        *word = now->blocks[a % now->block_count];
        break;
    case 5:
        *word = *other;
        break;
    case 6:
        *word += (uint64_t)(int64_t)(int8_t)a;
        break;
    case 7:
        half[a & 1] = (uint32_t)(a >> 1);
        break;
    case 8:
        *word = odd[a % (sizeof odd / sizeof *odd)];
        break;
    case 9:
        ((uint8_t *)word)[a & 7] = (uint8_t)(a >> 8);
        break;
    case 10: /* an offset into a block */
        *word = now->blocks[(a >> 8) % now->block_count] + (a & 0xff) * 8;
        break;
    case 11: /* anywhere */
        ((uint64_t *)kernel.base)[(a >> 32) % (now->committed / 8)] = (uint32_t)a;
        break;
    default: /* small */
        *word = a & 0xff;
        break;
    }
}

static void between_slowly(void) {
    if (stop_at && ++steps == stop_at)
        longjmp(stopped, 1);
    for (int i = 0; i < pending_count; i++)
        if (pending[i].when && !--pending[i].when)
            strike(&pending[i]);
}

/* --- use ----------------------------------------------------------------------------------------------------------------- */

static int corrupt;
#define NOWHERE UINT64_MAX
static uint64_t seat, place; /* ours at the condition and in the barrier */

static int known(int r) {
    corrupt |= r == FS_CORRUPT;
    if (r < FS_SYSTEM || r > FS_EXISTS)
        broken("a return code that is none");
    return r;
}

/* A Python handle keeps its private offset. Kind and size are looked at once, when it is bound: see attach_anew. */
static void *bound(int slot) { return held[slot] ? heap.base + handles[slot].offset : NULL; }

static int any_slot(uint8_t a) { return now->waited && a >= 200 ? SEMAPHORE + a % WAITED : a % SPARE; }
static void *any_object(uint8_t a) { return bound(any_slot(a)); }

static uint64_t *vacant(int slot) {
    uint64_t *word = slot_word(slot);
    return known(fs_drop(&me, word)) == FS_OK ? word : NULL;
}

static uint64_t pins[4], offered[4], pin_count; /* offered: to a reader, perhaps fewer than are asked for */

static void reserve_pins(void) {
    pin_count = 0;
    if (known(fs_slots_reserve(&me, 4)) != FS_OK)
        return;
    while (pin_count < 4) {
        uint64_t slot = heap.free_slots[--heap.free_count];
        pins[pin_count++] = fs_slot_offset(&heap, slot);
    }
}

static void offer_pins(uint64_t lacking) {
    for (uint64_t i = 0; i < pin_count; i++)
        offered[i] = i + lacking < pin_count ? pins[i] : 0;
}
static void drop_pins(void) {
    for (uint64_t i = 0; i < pin_count; i++)
        known(fs_drop(&me, (uint64_t *)(heap.base + pins[i])));
    heap.free_count += pin_count; /* the numbers are still there */
    pin_count = 0;
}

static void sum(const void *p, uint64_t n) { /* looks at every byte */
    static volatile uint8_t total;
    for (uint64_t i = 0; i < n; i++)
        total = (uint8_t)(total + ((const uint8_t *)p)[i]);
}

static void t_peek(uint8_t a) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    static unsigned char copy[SIZE];
    fs_peek p;
    fs_key k;
    if (!t)
        return;
    k = key(a >> 1, t->seed);
    p.view.version = 1;
    int r = known(fs_peek_at(&heap, t, &k, &p));
    if (r == FS_OK && fs_owning(p.seen.kind) && !fs_needs_pin(p.seen.kind))
        fs_copy_racy(copy, p.seen.data, p.seen.size);
    if (r == FS_OK || r == FS_MISSING)
        known(fs_peek_valid(t, &p, r == FS_OK));
}

static void t_put(uint8_t a, int how, fs_value v) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    uint64_t result;
    if (t) {
        fs_key k = key(a >> 1, t->seed);
        known(fs_table_put(&me, t, &k, &v, how, t->keys_changed, NULL, &result));
    }
}
static void t_set_ahead(uint8_t a) {
    uint64_t *word = vacant(EXTRA);
    fs_value v = a & 1 && held[INNER] && held[ARRAY] ? buffers() : text(a * 7u);
    if (word && known(fs_value_make(&me, &v, word, &v.made)) == FS_OK)
        t_put(a, FS_PUT, v);
    if (word)
        known(fs_drop(&me, word));
}
static void t_set(uint8_t a) {
    if (a & 128)
        t_set_ahead(a);
    else
        t_put(a, FS_PUT, some(a / 3));
}
static void t_default(uint8_t a) { t_put(a, FS_PUT_IF_ABSENT, some(a / 3)); }
static void t_add(uint8_t a) { t_put(a, FS_ADD, number(1)); }
static void t_fill(uint8_t a) {
    for (uint8_t i = 0; i < 12; i++)
        t_put((uint8_t)(a + 2 * i), FS_PUT, number(i));
}
static void t_remove(uint8_t a) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    if (t) {
        fs_key k = key(a >> 1, t->seed);
        known(fs_table_remove(&me, t, &k, NULL, UINT64_MAX));
    }
}
static void t_take(uint8_t a) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    fs_copy c = {0};
    if (t) {
        fs_key k = key(a >> 1, t->seed);
        known(fs_table_take(&me, t, &k, copied, &c));
        sum(c.data, c.size); /* also when it then could not be taken out */
        free(c.data);
    }
}

/* What a value that was copied out refers to: each of its objects gets a handle. */
static void adopt(uint32_t kind, uint64_t pin) {
    uint64_t count;
    fs_bundle *b = fs_is_bundle(kind) ? fs_bundle_at(&heap, *(uint64_t *)(heap.base + pin), &count) : NULL;
    for (uint64_t i = 0; b && i < count; i++) {
        uint64_t *word = vacant(EXTRA);
        if (word)
            known(fs_ref_to(&me, b->refs[i], word));
    }
}

/* A value that a pin refers to, where it lies. */
static void look_at(uint32_t kind, uint64_t pin) {
    fs_seen s = {kind, 0, *(uint64_t *)(heap.base + pin), NULL, 0};
    if (fs_owning(kind) && s.value && known(fs_value_look(&heap, &s)) == FS_OK)
        sum(s.data, s.size);
}

static void t_read(uint8_t a) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    fs_copy c;
    fs_witness w;
    if (!t)
        return;
    fs_key k = key(a >> 1, t->seed);
    reserve_pins();
    offer_pins(a & 32 ? 4 : 0);
    if (pin_count && known(fs_table_read(&me, t, &k, a & 64 ? offered : NULL, &c, &w)) == FS_OK) {
        sum(c.data, c.size);
        if (a & 64) {
            adopt(c.kind, pins[0]);
            look_at(c.kind, pins[0]);
        }
        free(c.data);
        if (a & 128)
            known(fs_table_remove(&me, t, &k, &w, UINT64_MAX));
    }
    drop_pins();
}
static void t_copy(uint8_t a) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    fs_snapshot s = {0};
    fs_extent extent = {0};
    if (!t)
        return;
    reserve_pins();
    uint64_t first = a & 4 ? UINT64_MAX : a >> 4;
    extent.moved = t->moved;
    offer_pins(a >> 5);
    if (known(fs_table_copy(&me, t, a & 2, a & 8 ? FS_K_OTHER : 0, first, offered, pin_count, &s, &extent)) == FS_OK) {
        unsigned char *p = s.buffer;
        for (uint64_t i = 0; i < s.count; i++) {
            fs_record *r = (fs_record *)p;
            uint64_t total, size;
            const unsigned char *key = fs_record_key(r, &total), *value = fs_record_value(r, &size);
            sum(key, total);
            sum(value, size);
            if (r->entry.key_length > total)
                broken("a key shorter than it says");
            p += fs_record_size(r);
        }
    }
    free(s.buffer);
    drop_pins();
}
static void t_clear(uint8_t a) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    if (t)
        known(fs_table_empty(&me, t));
}
static void t_update(uint8_t a) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    fs_key k[7];
    fs_value v[7];
    if (!t)
        return;
    for (uint8_t i = 0; i < 7; i++) {
        k[i] = key((uint8_t)(a + 3 * i), t->seed);
        v[i] = some((uint8_t)(a / 2 + i));
    }
    known(fs_table_merge(&me, t, k, v, 1 + a % 7u, FS_PUT, t->keys_changed));
}
static void t_last(uint8_t a) {
    fs_table *t = bound(a & 1 ? LARGE : TABLE);
    if (t && fs_table_enter(&me, t) == FS_OK) {
        fs_view v;
        if (known(fs_view_make(&heap, t, &v)) == FS_OK)
            fs_table_last(&v);
        fs_table_leave(&me, t, FS_OK);
    }
}

static void v_change(uint8_t a, int what) {
    fs_vector *v = bound(VECTOR);
    fs_value val[5] = {some(a), some(3), some((uint8_t)(a / 2)), some(2), some((uint8_t)(a / 3))};
    if (v)
        known(fs_vector_change(&me, v, what, (int64_t)(a % 16) - 4, val, what == FS_EXTEND ? 1 + a % 5u : 1, FS_ANY_STAMP));
}
static void v_set(uint8_t a) { v_change(a, FS_SET_ITEM); }
static void v_insert(uint8_t a) { v_change(a, FS_INSERT_ITEM); }
static void v_delete(uint8_t a) { v_change(a, FS_DELETE_ITEM); }
static void v_extend(uint8_t a) { v_change(a, FS_EXTEND); }
static void v_peek(uint8_t a) {
    fs_vector *v = bound(VECTOR);
    static unsigned char copy[SIZE];
    int64_t i = (int64_t)(a % 16) - 4;
    fs_glance g = {0};
    fs_seen s;
    if (v && known(fs_vector_peek(&heap, v, i, &g, &s)) == FS_OK) {
        if (fs_owning(s.kind) && !fs_needs_pin(s.kind))
            fs_copy_racy(copy, s.data, s.size);
        fs_vector_peek_valid(v, i, &g);
    }
}
static void v_read(uint8_t a) {
    fs_vector *v = bound(VECTOR);
    fs_copy c;
    uint64_t stamp;
    if (!v)
        return;
    reserve_pins();
    offer_pins(a & 32 ? 4 : 0);
    if (pin_count && known(fs_vector_read(&me, v, (int64_t)(a % 16) - 4, a & 64 ? offered : NULL, &c, &stamp)) == FS_OK) {
        sum(c.data, c.size);
        if (a & 64) {
            adopt(c.kind, pins[0]);
            look_at(c.kind, pins[0]);
        }
        free(c.data);
    }
    drop_pins();
}
static void v_take(uint8_t a) {
    fs_vector *v = bound(VECTOR);
    fs_copy c = {0};
    if (v) {
        known(fs_vector_take(&me, v, (int64_t)(a % 16) - 4, copied, &c));
        sum(c.data, c.size);
        free(c.data);
    }
}
static void v_copy(uint8_t a) {
    fs_vector *v = bound(VECTOR);
    fs_items s = {0};
    uint64_t stamp;
    if (!v)
        return;
    reserve_pins();
    int64_t step = a & 1 ? 1 : -2, start = a & 1 ? a >> 4 : INT64_MAX, stop = a & 1 ? INT64_MAX : -INT64_MAX;
    offer_pins(a >> 1 & 7);
    if (known(fs_vector_copy(&me, v, start, stop, step, offered, pin_count, &s, &stamp)) == FS_OK) {
        unsigned char *p = s.buffer;
        for (uint64_t i = 0; i < s.count; i++) {
            fs_item *x = (fs_item *)p;
            sum(p + sizeof *x, x->size);
            p += sizeof *x + ((x->size + 7) & ~(uint64_t)7);
        }
    }
    free(s.buffer);
    drop_pins();
}
static void v_words(uint8_t a) { /* what a handle has kept of the slots was found in a segment that was whole then */
    fs_vector *v = bound(VECTOR);
    static const fs_slot words[3] = {{FS_V_INT, 1}, {FS_V_FLOAT, 2}, {FS_V_NONE, 0}};
    uint64_t about, value;
    fs_known k = {0};
    if (!v)
        return;
    fs_vector_learn(&heap, v, &k);
    int64_t i = (int64_t)(a % 16) - 4;
    if (a & 64) {
        known(fs_vector_change(&me, v, FS_EXTEND_WORDS, 0, words, a % 4u, FS_ANY_STAMP));
        return;
    }
    if (!fs_vector_word_peek(v, &k, i, &about, &value))
        about = value = 0;
    if (known(fs_enter(&me, &v->o.lock)) != FS_OK)
        return;
    if (a & 16)
        fs_vector_append_word(&me, v, &k, FS_V_INT, a);
    else if (a & 32)
        fs_vector_pop_word(&me, v, &k, about, value);
    else
        fs_vector_set_word(&me, v, &k, i, about, a);
}
static void v_seek(uint8_t a) {
    fs_vector *v = bound(VECTOR);
    fs_value wanted = some(a);
    uint64_t at, stamp;
    if (v && !fs_needs_pin(wanted.kind) && known(fs_vector_seek_peek(&heap, v, &wanted, &at, &stamp)) != FS_OK)
        known(fs_vector_seek(&me, v, &wanted, &at, &stamp));
}
static void v_slots(uint8_t a) {
    fs_vector *v = bound(VECTOR);
    fs_slot *slots = NULL;
    uint64_t count, stamp;
    int64_t step = a & 1 ? 1 : -2;
    if (!v)
        return;
    known(fs_vector_slots_peek(&heap, v, a & 1 ? a >> 4 : INT64_MAX, a & 1 ? INT64_MAX : -INT64_MAX, step, &slots, &count, &stamp));
    free(slots);
}
static void v_rearrange(uint8_t a) {
    fs_vector *v = bound(VECTOR);
    fs_value val[2] = {some(a), some(a / 2)};
    int64_t plan[40];
    fs_span s;
    if (!v || fs_vector_enter(&me, v, &s) != FS_OK)
        return;
    uint64_t n = s.n < 38 ? s.n : 38, stamp = v->stamp;
    fs_vector_leave(&me, v, FS_OK);
    for (uint64_t i = 0; i < n; i++)
        plan[i] = (int64_t)(a & 1 ? n - 1 - i : i);
    plan[n] = -1;
    plan[n + 1] = -2;
    known(fs_vector_rearrange(&me, v, plan, a & 2 ? n + 2 : n, val, stamp));
}
static void v_exchange(uint8_t a) {
    fs_vector *v = bound(VECTOR);
    fs_value val[3] = {some(a), some(a / 2), some(a / 3)};
    if (v)
        known(fs_vector_exchange(&me, v, a % 8 - 3, a / 8 % 8 - 1, val, a / 64));
}

static void a_write(uint8_t a) {
    int slot = a & 1 ? ARRAY : BYTES;
    fs_array *o = bound(slot);
    static const uint64_t items[20 * 3];
    uint64_t count = slot == ARRAY ? 20 : 3, step = 1 + (a >> 1 & 3); /* what the handle has kept of it when it was bound */
    if (!o)
        return;
    int entered = known(fs_array_enter(&me, o));
    if (entered >= 0) {
        known(fs_array_write(&me, o, slot == ARRAY ? 8 : 24, 1, step, (count - 1) / step, items));
        fs_array_leave(&me, &o->o, entered);
    }
}
static void a_item(uint8_t a) {
    fs_array *o = bound(ARRAY);
    if (!o)
        return;
    int entered = known(fs_array_enter(&me, o));
    if (entered >= 0) {
        void *p = (char *)o + FS_ARRAY_DATA + a % 20 * 8;
        fs_item_write(p, 8, fs_item_read(p, 8) + 1);
        fs_array_leave(&me, &o->o, entered);
    }
}
static void c_add(uint8_t a) {
    fs_cell *c = bound(CELL);
    if (!c)
        return;
    int entered = known(fs_enter(&me, &c->o.lock));
    if (entered >= 0) {
        fs_item_change(&c->value, FS_SIGNED, 8, a % 7, a);
        fs_array_leave(&me, &c->o, entered);
    }
}
static void c_wait(uint8_t a) {
    fs_cell *c = bound(CELL);
    fs_patience p = {a & 1 ? kernel.now + 3000000 : 0, 0};
    if (!c)
        return;
    known(fs_cell_wait(&me, c, 8, a >> 2, &p));
    fs_item_notify(&c->turn, a & 2 ? 1 : FS_ALL);
}
static void n_count(uint8_t a) {
    fs_counter *c = bound(COUNTER);
    uint64_t value;
    if (!c)
        return;
    fs_counter_add(c, 3, me.id, a);
    known(a & 1 ? fs_counter_exchange(c, 3, a, &value) : fs_counter_value(c, 3, &value));
}
static void o_section(uint8_t a) { /* get_lock(): an operation inside */
    fs_object *o = any_object(a);
    if (!o)
        return;
    int entered = known(fs_enter(&me, &o->lock));
    if (entered < 0)
        return;
    if (entered == FS_TAKEN_OVER && known(fs_object_settle(&me, o)) != FS_OK) {
        fs_leave(&me, &o->lock);
        return;
    }
    fs_hold_begin(&o->lock, entered, a & 64 ? FS_HOLD_QUIET : 0);
    t_set(a);
    v_extend(a);
    if (!fs_is_mine(&me, &o->lock) || !(o->lock.hold & FS_HOLD_COUNT))
        return;
    if (o->block.kind != FS_MUTEX && known(fs_object_settle(&me, o)) != FS_OK) {
        o->lock.hold = 0;
        fs_leave(&me, &o->lock);
    } else {
        fs_hold_end(&me, &o->lock);
    }
}
static void o_try(uint8_t a) {
    fs_object *o = any_object(a);
    if (o && known(fs_lock_try(&heap, &o->lock, me.id)) >= 0)
        fs_leave(&me, &o->lock);
}
static void o_wait(uint8_t a) {
    fs_object *o = any_object(a);
    if (o && known(fs_lock_wait(&heap, &o->lock, me.id, kernel.now + 3000000)) >= 0)
        fs_leave_slow(&o->lock);
}
static void o_open(uint8_t a) {
    handle *h = &handles[any_slot(a)];
    uint64_t *word = vacant(EXTRA);
    if (word)
        known(fs_object_open(&me, h->offset, h->serial, word));
}
static void o_drop(uint8_t a) {
    int slot = now->waited && a >= 200 ? any_slot(a) : a % OBJECTS;
    if (known(fs_drop(&me, slot_word(slot))) == FS_OK)
        held[slot] = 0;
}
static void o_new(uint8_t a) {
    fs_object *o;
    uint64_t *word = vacant(EXTRA);
    if (word)
        known(fs_object_new(&me, FS_ARRAY_DATA + (uint64_t)a * a, a & 1 ? FS_ARRAY : FS_CELL, word, &o));
}
static void h_alloc(uint8_t a) {
    fs_block *b;
    uint64_t *word = vacant(OBJECTS + a % 6);
    if (word && known(fs_alloc_to(&me, 1u << (4 + a / 6 % 16), FS_RAW, word, &b)) == FS_OK && a & 1)
        known(fs_lengthen(&me, b, 2u << (4 + a / 6 % 16)));
}
static void h_free(uint8_t a) { known(fs_drop(&me, slot_word(OBJECTS + a % 6))); }
static void h_lengthen(uint8_t a) {
    fs_block *b = fs_block_at(&heap, *slot_word(OBJECTS + a % 6));
    if (b)
        known(fs_lengthen(&me, b, a * 40u));
}
static void h_flush(uint8_t a) {
    (void)a;
    int r = known(fs_heap_enter(&me));
    if (r >= 0) {
        r = known(fs_flush_quick(&heap));
        if (r == FS_OK)
            fs_heap_leave(&me);
        else
            known(fs_heap_fail(&me, r));
    }
}
static void k_ticket(uint8_t a) {
    uint64_t *word = vacant(EXTRA), offset, serial;
    if (a & 2) {
        if (bound(a / 4 % SPARE))
            known(fs_ticket_new(&me, handles[a / 4 % SPARE].offset, &offset, &serial));
    } else if (word) {
        handle *h = &handles[a & 1 ? CELL : INNER];
        known(fs_ticket_use(&me, tickets[a & 1][0], tickets[a & 1][1], h->offset, word));
    }
}
static void k_slots(uint8_t a) {
    (void)a;
    if (heap.free_room < 600)
        known(fs_slots_reserve(&me, heap.free_count + 1));
}
static void k_heir(uint8_t a) {
    fs_heir heir;
    if (known(fs_heir_make(&me, &heir)) == FS_OK) {
        known(fs_process_copy(&me, heap.process, heir.process));
        if (a & 1) { /* as the child */
            fs_unpin_claims(&heap, 0);
            known(fs_heir_enter(&heap, &heir));
        }
    }
}
static void k_orphan(uint8_t a) {
    (void)a;
    kernel.ours = 0; /* who they were is the parent now */
    fs_unpin_claims(&heap, 0);
    known(fs_heir_orphan(&heap, heap.process, heap.process_id));
    kernel.ours = OURS;
}
static void k_bury(uint8_t a) {
    if (a & 1)
        kernel.claims = kernel.ours; /* all others have died */
    known(fs_bury(&me));
}
static void k_reap(uint8_t a) {
    (void)a;
    known(fs_reap(&me));
}
static void k_settle(uint8_t a) {
    fs_object *o = any_object(a);
    if (!o)
        return;
    int r = fs_enter(&me, &o->lock);
    if (r == FS_OK || r == FS_TAKEN_OVER) {
        known(fs_object_settle(&me, o));
        fs_leave(&me, &o->lock);
    }
}
static void k_check(uint8_t a) {
    fs_census census;
    const char *what;
    (void)a;
    known(fs_check(&me, &census, &what));
}
static void k_refresh(uint8_t a) {
    (void)a;
    fs_at(&heap, heap.limit - 8, 16);
    fs_block_at(&heap, heap.super->committed - 64);
}
static void k_nothing(uint8_t a) { (void)a; }

/* Waiting goes on as _sync.pyx does it, but not for ever: after each long nap, one is back here. With `a` & 64, all others die first:
 * then what they have had is there to be had. */
#define ROUNDS 6
static void survive(uint8_t a) {
    if (a & 64)
        kernel.naps = KERNEL_NAPS;
}
static int in_vain(uint8_t a) { return a & 64 && me.wait; }
static fs_patience patience(uint8_t a) { return (fs_patience){a & 1 ? -1 : a & 2 ? kernel.now + (a << 18) : 0, a & 4 ? 5 : 0}; }

static void s_take(uint8_t a) {
    fs_semaphore *s = bound(SEMAPHORE);
    fs_patience p = patience(a);
    int r = s && !fs_semaphore_try(s) ? FS_INTERRUPTED : FS_OK;
    for (int n = 0; r == FS_INTERRUPTED && n < ROUNDS; n++)
        r = known(fs_semaphore_wait(s, &p));
}
static void s_give(uint8_t a) {
    fs_semaphore *s = bound(SEMAPHORE);
    if (s && a % 4)
        known(fs_semaphore_give(s));
}
static void e_change(uint8_t a) {
    fs_semaphore *e = bound(EVENT);
    if (!e)
        return;
    (a & 1 ? fs_event_set : fs_event_clear)(e);
    fs_event_is_set(e);
}
static void e_wait(uint8_t a) {
    fs_semaphore *e = bound(EVENT);
    fs_patience p = patience(a);
    int r = e ? FS_INTERRUPTED : FS_OK;
    uint32_t since = e ? fs_load_relaxed(&e->value) : 0;
    for (int n = 0; r == FS_INTERRUPTED && n < ROUNDS; n++)
        r = known(fs_event_wait(e, since, &p));
}
static int somebody_has(const fs_bounded *b) { /* permits, or a lock that is waited for */
    fs_ledger l;
    if ((b->o.lock.word | heap.super->heap.word) & FS_LOCK_OWNER)
        return 1;
    for (uint64_t i = 0; fs_ledger_look(&heap, b, &l) == FS_OK && i < l.room; i++)
        if (l.share[i].net > 0 && (l.share[i].id == heap.process_id || kernel_is_alive(l.share[i].id)))
            return 1;
    return 0;
}
static void b_take(uint8_t a) {
    fs_bounded *b = bound(BOUNDED);
    fs_patience p = patience(a);
    survive(a);
    int r = b ? known(fs_bounded_try(&me, b)) : FS_OK;
    if (r == FS_MISSING || r == FS_BUSY)
        r = FS_INTERRUPTED;
    for (int n = 0; r == FS_INTERRUPTED && n < ROUNDS; n++)
        r = known(fs_bounded_wait(&me, b, &p));
    if (b && in_vain(a) && (r == FS_INTERRUPTED || (r == FS_TIMEOUT && p.deadline)) && b->bound && !somebody_has(b))
        broken("permits that nobody holds are waited for");
}
static void b_give(uint8_t a) {
    fs_bounded *b = bound(BOUNDED);
    for (int n = 0; b && n <= a % 4; n++)
        known(fs_bounded_give(&me, b));
}
static void b_value(uint8_t a) {
    fs_bounded *b = bound(BOUNDED);
    uint32_t value;
    (void)a;
    if (b && known(fs_bounded_value(&me, b, &value)) == FS_OK && !damaged && value > 3)
        broken("more permits than there are");
}
static void b_grow(uint8_t a) { /* as many processes would */
    fs_bounded *b = bound(BOUNDED);
    int entered = b ? known(fs_enter(&me, &b->o.lock)) : -1;
    if (entered < 0)
        return;
    known(a & 1 ? fs_ledger_grow(&me, b) : fs_ledger_fold(&me, b, a & 2));
    fs_leave_entered(&me, &b->o.lock, entered);
}

static void w_join(uint8_t a) {
    fs_waiters *w = bound(WAITERS);
    for (int n = 0; w && seat == NOWHERE && n <= a % 40; n++) { /* those in front of the last are of no use to anybody */
        uint64_t at = 0;
        if (known(fs_waiters_join(&me, w, &at)) == FS_OK && n == a % 40)
            seat = at;
    }
}
static void w_notify(uint8_t a) {
    fs_waiters *w = bound(WAITERS);
    if (w)
        known(fs_waiters_notify(&me, w, a < 128 ? a % 8 : INT64_MAX));
}
static void w_count(uint8_t a) {
    fs_waiters *w = bound(WAITERS);
    (void)a;
    if (w)
        fs_waiters_count(&heap, w);
}
static void w_wait(uint8_t a) {
    fs_waiters *w = bound(WAITERS);
    fs_patience p = patience(a);
    int r = FS_INTERRUPTED;
    if (!w || seat == NOWHERE)
        return;
    for (int n = 0; r == FS_INTERRUPTED && n < ROUNDS; n++)
        r = known(fs_waiters_wait(&me, w, seat, &p));
    if (r == FS_TIMEOUT && known(fs_waiters_give_up(&me, w, seat)) == FS_OK)
        seat = NOWHERE;
    else if (r != FS_INTERRUPTED && known(fs_waiters_done(&me, w, seat, a & 8)) == FS_OK)
        seat = NOWHERE;
}
static void w_look(uint8_t a) {
    fs_waiters *w = bound(WAITERS);
    if (w)
        known(fs_waiters_look(&me, w, a % 40));
}

static void r_leave(fs_barrier *b) {
    if (known(fs_barrier_leave(&me, b, place)) == FS_OK)
        place = FS_NO_PLACE;
}
static void r_arrive(uint8_t a) {
    fs_barrier *b = bound(BARRIER);
    uint64_t at = 0, index = 0;
    int fate = FS_STAYS;
    if (!b || place != FS_NO_PLACE)
        return;
    fs_patience p = {-1, a & 4 ? 5 : 0};
    survive(a);
    int r = known(fs_barrier_arrive(&me, b, a & 1, &at, &index, &fate));
    for (int n = 0; r == FS_MISSING && n < ROUNDS; n++) {
        r = known(fs_barrier_wait(&me, b, FS_NO_PLACE, &p));
        if (r == FS_OK || r == FS_INTERRUPTED || r == FS_BUSY)
            r = known(fs_barrier_arrive(&me, b, a & 1, &at, &index, &fate));
    }
    for (uint64_t i = 0; in_vain(a) && i < fs_barrier_room(&heap, b); i++)
        if (b->place[i] && b->place[i] <= FS_LAST_ID && fs_alive(&heap, (uint32_t)b->place[i]))
            a &= (uint8_t)~64; /* all others have died: it is one of our own numbers, which is waited for */
    if (r == FS_MISSING && in_vain(a))
        broken("nobody is waited for");
    if (r != FS_OK || fate == FS_PASSES)
        return;
    place = at;
    if (fate == FS_STAYS)
        return;
    r = known(a & 2 ? fs_barrier_acted(&me, b, place) : fs_barrier_abort(&me, b));
    if (r == FS_OK || r == FS_CHANGED)
        r_leave(b);
}
static void r_stay(uint8_t a) {
    fs_barrier *b = bound(BARRIER);
    fs_patience p = patience(a);
    int r = FS_INTERRUPTED;
    if (!b || place == FS_NO_PLACE)
        return;
    for (int n = 0; (r == FS_INTERRUPTED || r == FS_BUSY) && n < ROUNDS; n++) {
        r = known(fs_barrier_wait(&me, b, place, &p));
        if (r == FS_TIMEOUT) {
            r = known(fs_barrier_late(&me, b));
            r = r == FS_OK ? FS_INTERRUPTED : r;
        }
    }
    if (r != FS_INTERRUPTED || a & 8)
        r_leave(b);
}
static void r_change(uint8_t a) {
    fs_barrier *b = bound(BARRIER);
    if (!b)
        return;
    switch (a % 4) {
    case 0:
        known(fs_barrier_abort(&me, b));
        break;
    case 1:
        known(fs_barrier_late(&me, b));
        break;
    case 2:
        known(fs_barrier_look(&me, b, a & 4 ? FS_NO_PLACE : a / 8));
        break;
    default:
        known(fs_barrier_reset(&me, b));
    }
}
static void o_make_waited(uint8_t a) {
    fs_object *o;
    uint64_t *word = vacant(EXTRA), n;
    if (!word || known(fs_object_new(&me, sizeof(fs_waiters), a & 1 ? FS_WAITERS : FS_BOUNDED, word, &o)) != FS_OK)
        return;
    known(a & 1 ? fs_waiters_join(&me, (fs_waiters *)o, &n) : fs_bounded_start(&me, (fs_bounded *)o, 3));
    if (a & 2 && vacant(EXTRA))
        known(fs_reap(&me));
}

static void (*const actions[])(uint8_t) = {
    t_peek, t_set, t_default, t_add, t_fill, t_remove, t_take, t_read, t_copy, t_clear, t_update, t_last,
    v_set, v_insert, v_delete, v_extend, v_peek, v_read, v_take, v_copy, v_words, v_seek, v_slots, v_rearrange, v_exchange,
    a_write, a_item, c_add, c_wait, n_count, o_section, o_try, o_wait, o_open, o_drop, o_new,
    h_alloc, h_free, h_lengthen, h_flush,
    k_ticket, k_slots, k_heir, k_orphan, k_bury, k_reap, k_settle, k_check, k_refresh, k_nothing,
    s_take, s_give, e_change, e_wait, b_take, b_give, b_value, b_grow, w_join, w_notify, w_count, w_wait, w_look,
    r_arrive, r_arrive, r_stay, r_change, o_make_waited,
};
#define ACTIONS (sizeof actions / sizeof *actions)

/* --- one input ----------------------------------------------------------------------------------------------------------- */

static void attach_anew(void) {
    int why = 0;
    memset(&heap, 0, sizeof heap);
    kernel.ours = 0;
    int r = known(fs_segment_open(&heap, 9, &why));
    kernel.ours = OURS;
    if (r != FS_OK)
        return;
    for (int i = 0; i < SLOTS; i++) {
        handle *h = &handles[i];
        if (!held[i] || (i >= SPARE && i < SEMAPHORE))
            continue;
        r = known(fs_object_open(&me, h->offset, h->serial, slot_word(i)));
        held[i] = r == FS_OK && fs_kind_at(&heap, h->offset, h->kind, h->size);
        corrupt |= !held[i];
    }
    heap.free_count -= SLOTS;
}

static void use(input in) {
    uint8_t which = (uint8_t)take(&in, 1), flags = (uint8_t)take(&in, 1);
    int count = (int)take(&in, 1) % 9;
    now = &templates[which % template_count];
    restore(now);
    take_up(now);
    damaged = corrupt = pending_count = finely = 0;
    memset(held, 1, sizeof held);
    for (int i = SEMAPHORE; i < SLOTS; i++)
        held[i] = (uint8_t)now->waited;
    seat = place = 2;
    if (!strcmp(now->name, "drop containers"))
        held[LARGE] = held[VECTOR] = 0;
    pin_count = 0;
    for (int i = 0; i < count; i++) {
        damage d;
        d.where = (uint32_t)take(&in, 2);
        d.how = (uint8_t)take(&in, 1);
        d.what = take(&in, d.how % 13 == 0 || d.how % 13 == 11 ? 8 : d.how % 13 == 7 ? 5 : 2);
        d.when = flags & 8 ? (uint32_t)take(&in, 1) : 0;
        if (d.when)
            pending[pending_count++] = d;
        else
            strike(&d);
    }
    finely = flags & 64 && pending_count;
    me.wait = flags & 1;
    kernel.alone = flags & 16 && count;
    if (flags & 2) {
        give_up();
        attach_anew();
    }
    if (flags & 4 && heap.process)
        k_check(0);
    for (int n = 0; n < 12 && in.p < in.end && heap.process; n++) {
        uint8_t what = (uint8_t)take(&in, 1), a = (uint8_t)take(&in, 1);
        actions[what % ACTIONS](a);
    }
    if (heap.process) {
        fs_census census;
        const char *what = NULL;
        int r = known(fs_check(&me, &census, &what));
        if (!damaged && r == FS_CORRUPT)
            broken(what ? what : "check");
        if (flags & 32)
            known(fs_part(&me));
    }
    if (!damaged && corrupt && me.wait)
        broken("something is damaged that nobody has damaged");
    give_up();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!template_count)
        build();
    use((input){data, data + size});
    return 0;
}

#ifdef FUZZ_ALONE
#include <sys/time.h>
#undef open
#undef close
#undef clock_gettime

static uint64_t state;

static uint64_t chance(void) { /* splitmix64 */
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint8_t bytes[160];
static uint64_t run, run_seed;

static void tell(int signal) { /* what libFuzzer would write into a file */
    static const char hex[] = "0123456789abcdef";
    char line[2 * sizeof bytes + 1];
    for (size_t i = 0; i < sizeof bytes; i++) {
        line[2 * i] = hex[bytes[i] >> 4];
        line[2 * i + 1] = hex[bytes[i] & 15];
    }
    line[sizeof line - 1] = '\n';
    if (signal == SIGVTALRM)
        (void)!write(2, "a second has passed\n", 20);
    (void)!write(2, line, sizeof line);
    _exit(1);
}

const char *__asan_default_options(void) { return "detect_stack_use_after_return=0"; }
const char *__ubsan_default_options(void) { return "abort_on_error=1:print_stacktrace=1"; }

#ifdef KERNEL_ASAN
static void die(void) { tell(0); }
#endif

static void deadline(void) { /* of its own time: nothing here sleeps */
    static const struct itimerval second = {{0, 0}, {1, 0}};
    setitimer(ITIMER_VIRTUAL, &second, NULL);
}

static void draw(int damage) {
    for (size_t i = 0; i < sizeof bytes; i += 8) {
        uint64_t r = chance();
        memcpy(bytes + i, &r, 8);
    }
    bytes[2] = (uint8_t)(damage ? 1 + chance() % (chance() % 4 ? 2 : 8) : 0);
    if (chance() % 4)
        bytes[1] &= (uint8_t)~2;
    if (!damage)
        bytes[1] |= 1;
}

int main(int count, char **arguments) {
    signal(SIGVTALRM, tell);
    signal(SIGABRT, tell);
#ifdef KERNEL_ASAN
    __sanitizer_set_death_callback(die);
#else
    signal(SIGSEGV, tell);
#endif
    build();
    if (count > 1 && !strchr("0123456789", arguments[1][0])) {
        for (int i = 1; i < count; i++) {
            FILE *f = fopen(arguments[i], "rb");
            size_t n = f ? fread(bytes, 1, sizeof bytes, f) : 0;
            if (!f)
                return 2;
            fclose(f);
            deadline();
            LLVMFuzzerTestOneInput(bytes, n);
        }
        printf("%d tried, 0 failed\n", count - 1);
        return 0;
    }
    run_seed = count > 1 ? strtoull(arguments[1], NULL, 0) : 1;
    double end = seconds() + (count > 2 ? atof(arguments[2]) : 5);
    uint64_t most = count > 3 ? strtoull(arguments[3], NULL, 0) : UINT64_MAX;
    int damage = count > 4 ? atoi(arguments[4]) : 1;
    state = run_seed;
    for (run = 0; run < most && (run % 64 || seconds() < end); run++) {
        draw(damage);
        deadline();
        LLVMFuzzerTestOneInput(bytes, sizeof bytes);
    }
    printf("%llu tried, 0 failed\n", (unsigned long long)run);
    return 0;
}
#endif
