/* threads.c: threads at one mapping: everything that shares memory, at once, for a sanitizer to watch.
 *
 *   gcc -std=gnu11 -O1 -g -fsanitize=thread -Isrc/fastshm tests/battery/threads.c -o threads -lpthread
 *   ./threads SEED OPERATIONS [THREADS]
 *
 * Each thread does so many operations, drawn from `operations`, on the same few objects, as processes would; at the end all
 * invariants are asked for, and what was counted must be there. An operation joins by one line.
 */
#include "check.h"
#include "identity.h"
#include "segment.h"

#include <sys/wait.h>

#define MOST_THREADS 8
#define OBJECTS 16 /* handle slots of the objects */
#define SLOTS 3   /* of each thread's own */

static fs_heap heap;
static uint64_t table_at, vector_at, array_at, cell_at, mutex_at, inner_at, counter_at;
static uint64_t semaphore_at, event_at, bounded_at, waiters_at, condition_at, barrier_at;
static uint64_t seed, operations_each, counted; /* counted: additions to the cell and to "n" in the table */
static uint32_t failures;

static void fail(const char *what, int r) {
    fprintf(stderr, "%s: %d\n", what, r);
    __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
}

typedef struct {
    fs_self me;
    uint64_t state;
    int number;
} worker;

static uint64_t chance(worker *w) { /* splitmix64 */
    uint64_t z = w->state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static fs_table *table(void) { return (fs_table *)(heap.base + table_at); }
static fs_vector *vector(void) { return (fs_vector *)(heap.base + vector_at); }
static fs_array *array(void) { return (fs_array *)(heap.base + array_at); }
static fs_counter *counter(void) { return (fs_counter *)(heap.base + counter_at); }
static fs_cell *cell(void) { return (fs_cell *)(heap.base + cell_at); }
static fs_object *mutex(void) { return (fs_object *)(heap.base + mutex_at); }
static fs_semaphore *semaphore(void) { return (fs_semaphore *)(heap.base + semaphore_at); }
static fs_semaphore *event(void) { return (fs_semaphore *)(heap.base + event_at); }
static fs_bounded *bounded(void) { return (fs_bounded *)(heap.base + bounded_at); }
static fs_waiters *waiters(void) { return (fs_waiters *)(heap.base + waiters_at); }
static fs_lock *condition(void) { return &((fs_object *)(heap.base + condition_at))->lock; }
static fs_barrier *barrier(void) { return (fs_barrier *)(heap.base + barrier_at); }

static uint64_t *slot_of(const worker *w, int n) { return fs_slot_word(&heap, OBJECTS + (uint64_t)(SLOTS * w->number + n)); }
static uint64_t pin_of(const worker *w, int n) { return fs_offset(&heap, slot_of(w, n)); }

static void expect(const char *what, int r, int other) {
    if (r != FS_OK && r != other)
        fail(what, r);
}

static int repeated(int r) { return r == FS_BUSY || r == FS_INTERRUPTED; } /* waiting, or the heap held by the living */

static fs_value number(uint64_t n) { return (fs_value){FS_V_INT, 0, n, NULL, 0, NULL, 0, 0}; }

static const char letters[400] = "letters";

static fs_value some(worker *w) {
    static __thread uint64_t refs[2];
    uint64_t r = chance(w);
    switch (r % 5) {
    case 0:
        return (fs_value){FS_V_ASCII_BLOB, 0, 0, letters, r >> 8 & 255, NULL, 0, 0};
    case 1:
        return (fs_value){FS_V_OBJECT, 0, inner_at, NULL, 0, NULL, 0, 0};
    case 2:
        refs[0] = inner_at;
        refs[1] = cell_at;
        return (fs_value){r >> 8 & 1 ? FS_V_PICKLE_BUNDLE : FS_V_PICKLE_BUFFERS, 0, 0, letters, 20, refs, 2, 0};
    default:
        return number(r);
    }
}

enum { KEPT = 64 }; /* bytes for a key */

static fs_key key_named(const char *name, char *kept) {
    fs_key k = {0};
    k.length = (uint32_t)strlen(name);
    kept += KEPT - k.length; /* where it ends, so does what may be read */
    memcpy(kept, name, k.length);
    k.bytes = (const unsigned char *)kept;
    k.total = k.length;
    k.form = FS_K_STR;
    fs_key_prepare(&k, table()->seed);
    return k;
}

static fs_key key(worker *w, char *kept) {
    char name[64];
    unsigned n = chance(w) % 60;
    snprintf(name, sizeof name, n % 7 == 0 ? "a key that is too long to lie in its entry %u" : n % 7 == 1 ? "of three words: %u" : "k%u", n);
    return key_named(name, kept);
}

/* --- operations ---------------------------------------------------------------------------------------------------------- */

static void t_put(worker *w) {
    char kept[KEPT];
    fs_key k = key(w, kept);
    fs_value v = some(w);
    int r;
    while (repeated(r = fs_table_put(&w->me, table(), &k, &v, FS_PUT, UINT64_MAX, NULL, NULL)))
        ;
    expect("put", r, FS_OK);
}
static void t_add(worker *w) {
    char kept[KEPT];
    fs_key k = key_named("n", kept);
    fs_value one = number(1);
    uint64_t result;
    int r;
    while (repeated(r = fs_table_put(&w->me, table(), &k, &one, FS_ADD, UINT64_MAX, NULL, &result)))
        ;
    expect("add", r, FS_OK);
    __atomic_fetch_add(&counted, 1, __ATOMIC_RELAXED);
}
static void t_peek(worker *w) {
    char kept[KEPT], bytes[512];
    fs_key k = key(w, kept);
    fs_peek p;
    p.view.version = 1;
    for (int i = 0; i < 4; i++) {
        int r = fs_peek_at(&heap, table(), &k, &p);
        if (r == FS_OK && fs_owning(p.seen.kind) && !fs_needs_pin(p.seen.kind) && p.seen.size <= sizeof bytes)
            fs_copy_racy(bytes, p.seen.data, p.seen.size);
        if ((r == FS_OK || r == FS_MISSING) && fs_peek_valid(table(), &p, r == FS_OK))
            return;
    }
}
static void t_read(worker *w) {
    char kept[KEPT];
    fs_key k = key(w, kept);
    fs_witness seen;
    fs_copy c;
    uint64_t pin = pin_of(w, 0);
    int r;
    while (repeated(r = fs_table_read(&w->me, table(), &k, &pin, &c, &seen)))
        ;
    expect("read", r, FS_MISSING);
    fs_seen s = {c.kind, 0, c.value, NULL, 0};
    if (r == FS_OK && fs_owning(c.kind) && (fs_value_look(&heap, &s) != FS_OK || (s.size && memcmp(s.data, letters, s.size))))
        fail("a view", FS_CORRUPT);
    while (repeated(fs_drop(&w->me, slot_of(w, 0))))
        ;
}
static void t_remove(worker *w) {
    char kept[KEPT];
    fs_key k = key(w, kept);
    int r;
    while (repeated(r = fs_table_remove(&w->me, table(), &k, NULL, UINT64_MAX)))
        ;
    expect("remove", r, FS_MISSING);
}
static int copied(void *out, const fs_seen *seen) { return fs_copy_out(NULL, seen, NULL, out); }
static void t_take(worker *w) {
    char kept[KEPT];
    fs_key k = key(w, kept);
    fs_copy c = {0};
    int r;
    while (repeated(r = fs_table_take(&w->me, table(), &k, copied, &c))) {
        free(c.data); /* it could not be taken out */
        c.data = NULL;
    }
    if (r != FS_TYPE)
        expect("take", r, FS_MISSING);
    free(c.data);
}
static void t_update(worker *w) {
    char kept[5][KEPT];
    fs_key k[5];
    fs_value v[5];
    int r;
    for (int i = 0; i < 5; i++) {
        k[i] = key(w, kept[i]);
        v[i] = some(w);
    }
    while (repeated(r = fs_table_merge(&w->me, table(), k, v, 5, FS_PUT, UINT64_MAX)))
        ;
    expect("update", r, FS_OK);
}
static void t_copy(worker *w) {
    fs_snapshot s = {0};
    fs_extent extent;
    int r;
    while (repeated(r = fs_table_copy(&w->me, table(), 0, 0, 0, NULL, 0, &s, &extent)))
        ;
    expect("copy", r, FS_OK);
    free(s.buffer);
}
static void v_change(worker *w, int what, int64_t i) {
    fs_value v = some(w);
    int r;
    while (repeated(r = fs_vector_change(&w->me, vector(), what, i, &v, 1, FS_ANY_STAMP)))
        ;
    expect("vector", r, FS_RANGE);
}
static void v_append(worker *w) { v_change(w, FS_EXTEND, 0); }
static void v_insert(worker *w) { v_change(w, FS_INSERT_ITEM, (int64_t)(chance(w) % 9)); }
static void v_set(worker *w) { v_change(w, FS_SET_ITEM, (int64_t)(chance(w) % 30)); }
static void v_delete(worker *w) { v_change(w, FS_DELETE_ITEM, (int64_t)(chance(w) % 9)); }
static void v_peek(worker *w) {
    fs_seen s;
    fs_glance g = {0};
    char bytes[512];
    int64_t i = (int64_t)(chance(w) % 34) - 4;
    int r = fs_vector_peek(&heap, vector(), i, &g, &s);
    if (r == FS_OK && fs_owning(s.kind) && !fs_needs_pin(s.kind) && s.size <= sizeof bytes)
        fs_copy_racy(bytes, s.data, s.size);
    if (r == FS_OK || r == FS_RANGE)
        fs_vector_peek_valid(vector(), i, &g);
}
static void v_copy(worker *w) {
    fs_items s = {0};
    uint64_t stamp, pins[SLOTS];
    int r;
    for (int i = 0; i < SLOTS; i++)
        pins[i] = pin_of(w, i);
    while (repeated(r = fs_vector_copy(&w->me, vector(), 0, 2, 1, pins, SLOTS, &s, &stamp)))
        ;
    expect("slice", r, FS_RANGE);
    free(s.buffer);
    for (int i = 0; i < SLOTS; i++)
        while (repeated(fs_drop(&w->me, slot_of(w, i))))
            ;
}
static void v_words(worker *w) {
    fs_self hasty = {&heap, w->me.id, 0};
    fs_known k = {0};
    uint64_t about, value, n = chance(w);
    int64_t i = (int64_t)(n % 34) - 4;
    fs_vector_learn(&heap, vector(), &k);
    int seen = fs_vector_word_peek(vector(), &k, i, &about, &value);
    if (fs_enter(&hasty, &vector()->o.lock) != FS_OK)
        return;
    if (n & 64)
        fs_vector_append_word(&hasty, vector(), &k, FS_V_INT, n);
    else if (seen && n & 128)
        fs_vector_pop_word(&hasty, vector(), &k, about, value);
    else
        fs_vector_set_word(&hasty, vector(), &k, i, FS_V_INT, n);
}
static void v_seek(worker *w) {
    fs_value wanted = some(w);
    uint64_t at, stamp;
    fs_slot *slots = NULL;
    uint64_t count;
    if (fs_vector_seek_peek(&heap, vector(), &wanted, &at, &stamp) == FS_BUSY)
        while (repeated(fs_vector_seek(&w->me, vector(), &wanted, &at, &stamp)))
            ;
    fs_vector_slots_peek(&heap, vector(), 0, INT64_MAX, 1, &slots, &count, &stamp);
    free(slots);
}
static void v_rearrange(worker *w) {
    static const int64_t plan[] = {1, 0, -1};
    fs_value v = some(w);
    fs_span s;
    int r = fs_vector_enter(&w->me, vector(), &s);
    if (r < 0)
        return;
    uint64_t stamp = vector()->stamp, n = s.n;
    fs_vector_leave(&w->me, vector(), r);
    if (n < 2)
        return;
    do
        r = fs_vector_rearrange(&w->me, vector(), plan, 3, &v, stamp);
    while (repeated(r));
    expect("rearrange", r, FS_CHANGED);
}
static void v_exchange(worker *w) {
    fs_value v[3] = {some(w), some(w), some(w)};
    int64_t start = (int64_t)(chance(w) % 9);
    int r;
    do
        r = fs_vector_exchange(&w->me, vector(), start, start + (int64_t)(chance(w) % 4), v, chance(w) % 4);
    while (repeated(r));
    expect("exchange", r, FS_OK);
}
static void a_write(worker *w) {
    uint64_t items[10];
    int entered, r;
    for (int i = 0; i < 10; i++)
        items[i] = chance(w);
    while (repeated(entered = fs_array_enter(&w->me, array())))
        ;
    while (repeated(r = fs_array_write(&w->me, array(), 8, 0, 2, 10, items)))
        ;
    expect("slice of an array", r, FS_OK);
    fs_array_leave(&w->me, &array()->o, entered);
}
static void a_item(worker *w) {
    char *p = (char *)array() + FS_ARRAY_DATA + chance(w) % 20 * 8;
    uint64_t version = fs_read_begin(&array()->o.lock);
    fs_item_read(p, 8);
    fs_read_valid(&array()->o.lock, version);
    int entered;
    while (repeated(entered = fs_array_enter(&w->me, array())))
        ;
    fs_item_write(p, 8, fs_item_read(p, 8) + 1);
    fs_array_leave(&w->me, &array()->o, entered);
}
static void c_add(worker *w) {
    fs_cell *c = cell();
    int entered;
    while (repeated(entered = fs_enter(&w->me, &c->o.lock)))
        ;
    fs_item_change(&c->value, FS_SIGNED, 8, FS_PLUS, 1);
    fs_array_leave(&w->me, &c->o, entered);
    fs_item_notify(&c->turn, 1);
    __atomic_fetch_add(&counted, 1, __ATOMIC_RELAXED);
}
static void c_wait(worker *w) {
    uint64_t was;
    fs_patience p = {fs_now() + 1000000, 0};
    int r = fs_cell_look(&w->me, &cell()->o, 0, 8, 1, &was);
    if (r >= 0)
        while ((r = fs_cell_wait(&w->me, cell(), 8, was, &p)) == FS_INTERRUPTED)
            ;
    if (r != FS_OK && r != FS_TIMEOUT && r != FS_INTERRUPTED)
        fail("wait", r);
}
static void n_count(worker *w) {
    uint64_t value;
    fs_counter_add(counter(), 3, w->me.id, 2);
    int r = chance(w) % 2 ? fs_counter_exchange(counter(), 3, 0, &value) : fs_counter_value(counter(), 3, &value);
    if (r != FS_OK && r != FS_BUSY)
        fail("counter", r);
}
static void c_read(worker *w) {
    (void)w;
    uint64_t version = fs_read_begin(&cell()->o.lock);
    fs_item_read(&cell()->value, 8);
    fs_read_valid(&cell()->o.lock, version);
}
static void section(worker *w) { /* what get_lock() gives, and an operation inside */
    fs_lock *l = &cell()->o.lock;
    int entered;
    while (repeated(entered = fs_enter(&w->me, l)))
        ;
    fs_hold_begin(l, entered, 0);
    c_add(w);
    fs_hold_end(&w->me, l);
}
static void token(worker *w) {
    static uint64_t guarded; /* by the lock alone */
    fs_lock *l = &mutex()->lock;
    while (repeated(fs_lock_wait(&heap, l, w->me.id, -1)))
        ;
    guarded++;
    fs_leave_slow(l);
}
static void make_and_drop(worker *w) {
    fs_object *o;
    int r;
    while (repeated(r = fs_object_new(&w->me, 200 + chance(w) % 4000, FS_ARRAY, slot_of(w, 1), &o)))
        ;
    expect("make", r, FS_OK);
    while (repeated(fs_drop(&w->me, slot_of(w, 1))))
        ;
}
static void ticket(worker *w) {
    uint64_t offset = 0, number = 0;
    int r;
    while (repeated(r = fs_ticket_new(&w->me, inner_at, &offset, &number)))
        ;
    expect("ticket", r, FS_OK);
    while (repeated(r = fs_ticket_use(&w->me, offset, number, inner_at, slot_of(w, 2))))
        ;
    expect("ticket's use", r, FS_OK);
    while (repeated(fs_drop(&w->me, slot_of(w, 2))))
        ;
}
static void v_extend(worker *w) {
    fs_value v[4] = {some(w), number(1), number(2), number(3)};
    int r;
    while (repeated(r = fs_vector_change(&w->me, vector(), FS_EXTEND, 0, v, 4, FS_ANY_STAMP)))
        ;
    expect("extend", r, FS_OK);
}
static void v_take(worker *w) {
    fs_copy c = {0};
    int r;
    while (repeated(r = fs_vector_take(&w->me, vector(), -1, copied, &c))) {
        free(c.data);
        c.data = NULL;
    }
    if (r != FS_TYPE)
        expect("pop", r, FS_RANGE);
    free(c.data);
}

/* --- what is waited for: nobody waits for long, because the others may be at their end ------------------------------------ */

static uint64_t passed[3], guarded[3], acted; /* passed: counted by atomics. The others: plain, guarded by what is tried */
enum { BY_SEMAPHORE, BY_BOUNDED, BY_CONDITION };

static void guard(int by) {
    uint64_t was = guarded[by];
    if (was % 8 == 0)
        sched_yield();
    guarded[by] = was + 1;
    __atomic_fetch_add(&passed[by], 1, __ATOMIC_RELAXED);
}
static fs_patience patience(worker *w) { return (fs_patience){fs_now() + (int64_t)(chance(w) % 1500000), 0}; }

static void s_pass(worker *w) {
    fs_patience p = {-1, 0};
    (void)w;
    if (!fs_semaphore_try(semaphore()))
        while (fs_semaphore_wait(semaphore(), &p) == FS_INTERRUPTED)
            ;
    guard(BY_SEMAPHORE);
    expect("semaphore", fs_semaphore_give(semaphore()), FS_OK);
}
static void b_pass(worker *w) {
    fs_patience p = {-1, 0};
    int r = fs_bounded_try(&w->me, bounded());
    while (repeated(r) || r == FS_MISSING)
        r = fs_bounded_wait(&w->me, bounded(), &p);
    expect("bounded semaphore", r, FS_OK);
    guard(BY_BOUNDED);
    while (repeated(r = fs_bounded_give(&w->me, bounded())))
        ;
    expect("its release", r, FS_OK);
}
static void b_value(worker *w) {
    uint32_t value = 0;
    int r;
    while (repeated(r = fs_bounded_value(&w->me, bounded(), &value)))
        ;
    expect("its value", r == FS_OK && value > 1 ? FS_CORRUPT : r, FS_OK);
}
static void e_change(worker *w) { (chance(w) % 2 ? fs_event_set : fs_event_clear)(event()); }
static void e_wait(worker *w) {
    fs_patience p = patience(w);
    uint32_t since = fs_load_relaxed(&event()->value);
    while (!(since & 1) && fs_event_wait(event(), since, &p) == FS_INTERRUPTED)
        ;
}
static void w_enter(worker *w) {
    while (repeated(fs_lock_wait(&heap, condition(), w->me.id, -1)))
        ;
    guard(BY_CONDITION);
}
static void w_wait(worker *w) {
    fs_patience p = patience(w);
    uint64_t seat = 0;
    int r, gone = 0;
    w_enter(w);
    while (repeated(r = fs_waiters_join(&w->me, waiters(), &seat)))
        ;
    expect("a seat", r, FS_OK);
    fs_leave_slow(condition());
    while (repeated(r = fs_waiters_wait(&w->me, waiters(), seat, &p)))
        ;
    if (r == FS_TIMEOUT) {
        while (repeated(r = fs_waiters_give_up(&w->me, waiters(), seat)))
            ;
        gone = r == FS_OK;
    }
    expect("waiting", r, FS_EXISTS);
    w_enter(w);
    while (!gone && repeated(r = fs_waiters_done(&w->me, waiters(), seat, chance(w) % 8 == 0)))
        ;
    fs_leave_slow(condition());
}
static void w_notify(worker *w) {
    int r;
    w_enter(w);
    while (repeated(r = fs_waiters_notify(&w->me, waiters(), chance(w) % 4 ? 1 : 100)))
        ;
    expect("notify", r, FS_OK);
    fs_waiters_count(&heap, waiters());
    fs_leave_slow(condition());
}
static void r_pass(worker *w) { /* two of them, and the action counts */
    fs_patience p = patience(w), never = {-1, 0};
    uint64_t place = 0, index;
    int fate = FS_STAYS, r;
    while ((r = fs_barrier_arrive(&w->me, barrier(), 1, &place, &index, &fate)) == FS_MISSING || repeated(r))
        if (r == FS_MISSING)
            fs_barrier_wait(&w->me, barrier(), FS_NO_PLACE, &never);
    if (r == FS_CHANGED) {
        while (repeated(r = fs_barrier_reset(&w->me, barrier())))
            ;
        return;
    }
    expect("arriving", r, FS_OK);
    if (fate == FS_ACTS) {
        acted++;
        while (repeated(r = fs_barrier_acted(&w->me, barrier(), place)))
            ;
        expect("the action's end", r, FS_CHANGED);
        return;
    }
    while (repeated(r = fs_barrier_wait(&w->me, barrier(), place, &p)) || r == FS_TIMEOUT)
        while (r == FS_TIMEOUT && repeated(fs_barrier_late(&w->me, barrier())))
            ;
    expect("in the barrier", r, FS_CHANGED);
    if (r == FS_OK && !acted) /* what was done before is seen */
        fail("an action is not seen", 0);
    while (repeated(r = fs_barrier_leave(&w->me, barrier(), place)))
        ;
    expect("leaving", r, FS_OK);
}
static void r_abort(worker *w) {
    int r = FS_OK;
    while (chance(w) % 16 == 0 && repeated(r = fs_barrier_abort(&w->me, barrier())))
        ;
    expect("abort", r, FS_OK);
}
static void make_waited(worker *w) {
    fs_object *o;
    uint64_t seat;
    int r;
    while (repeated(r = fs_object_new(&w->me, sizeof(fs_waiters), FS_WAITERS, slot_of(w, 1), &o)))
        ;
    while (r == FS_OK && repeated(r = fs_waiters_join(&w->me, (fs_waiters *)o, &seat)))
        ;
    expect("a condition", r, FS_OK);
    while (repeated(fs_drop(&w->me, slot_of(w, 1))))
        ;
}

/* --- the segment's own ---------------------------------------------------------------------------------------------------- */

static void large(worker *w) {
    fs_block *b;
    int r;
    while (repeated(r = fs_alloc_to(&w->me, 100000 + chance(w) % 400000, FS_RAW, slot_of(w, 1), &b)))
        ;
    expect("a large block", r, FS_OK);
    while (repeated(fs_drop(&w->me, slot_of(w, 1))))
        ;
}
static void reap(worker *w) { fs_reap(&w->me); }
static void bury(worker *w) {
    if (chance(w) % 16 == 0)
        fs_bury(&w->me);
}
static void check(worker *w) {
    fs_census census;
    const char *what = NULL;
    if (chance(w) % 32 == 0 && fs_check(&w->me, &census, &what) == FS_CORRUPT)
        fail(what ? what : "check", FS_CORRUPT);
}

static void (*const operations[])(worker *) = {
    t_put, t_put, t_add, t_peek, t_peek, t_read, t_remove, t_take, t_update, t_copy, v_append, v_append, v_insert, v_set,
    v_delete, v_delete, v_peek, v_copy, v_words, v_seek, v_rearrange, v_exchange, a_write, a_item, c_add, c_read, c_wait, n_count, section, token, make_and_drop, ticket,
    reap, bury, check, v_extend, v_take, large,
    s_pass, s_pass, b_pass, b_pass, b_value, e_change, e_wait, w_wait, w_wait, w_notify, w_notify, r_pass, r_pass, r_abort, make_waited,
};

/* --- threads ------------------------------------------------------------------------------------------------------------- */

static void *work(void *argument) {
    worker *w = argument;
    if (fs_me(&heap, &w->me) != FS_OK) {
        fail("identity", 0);
        return NULL;
    }
    w->me.wait = 1;
    for (uint64_t i = 0; i < operations_each; i++)
        operations[chance(w) % (sizeof operations / sizeof *operations)](w);
    return NULL;
}

static uint64_t made(const fs_self *me, uint64_t slot, uint64_t bytes, uint32_t kind) {
    fs_object *o;
    if (fs_object_new(me, bytes, kind, fs_slot_word(&heap, slot), &o) != FS_OK)
        exit(2);
    return fs_offset(&heap, o);
}

int main(int count, char **arguments) {
    pthread_t threads[MOST_THREADS];
    worker workers[MOST_THREADS];
    seed = count > 1 ? strtoull(arguments[1], NULL, 0) : 1;
    operations_each = count > 2 ? strtoull(arguments[2], NULL, 0) : 10000;
    int many = count > 3 ? atoi(arguments[3]) : 4;
    char name[64];
    snprintf(name, sizeof name, "/dev/shm/fastshm-threads-%d", getpid());
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd == -1 || ftruncate(fd, 1 << 28) == -1 || fs_identity_start() != FS_OK ||
        fs_segment_create(&heap, fd, 1 << 28, 0, 0) != FS_OK || fs_heap_register(&heap) != FS_OK)
        return 2;
    unlink(name);
    fs_self me;
    if (many > MOST_THREADS || fs_me(&heap, &me) != FS_OK)
        return 2;
    me.wait = 1;
    if (fs_slots_reserve(&me, heap.free_count + 1) != FS_OK)
        return 2;
    heap.free_count = 0; /* the slots are used by number: OBJECTS for the objects, SLOTS for each thread */
    table_at = made(&me, 0, sizeof(fs_table), FS_TABLE);
    vector_at = made(&me, 1, sizeof(fs_vector), FS_VECTOR);
    array_at = made(&me, 2, FS_ARRAY_DATA + 20 * 8, FS_ARRAY);
    array()->count = 20;
    array()->itemsize = 8;
    array()->typecode = 'q';
    cell_at = made(&me, 3, sizeof(fs_cell), FS_CELL);
    cell()->typecode = 'q';
    mutex_at = made(&me, 4, sizeof(fs_object), FS_MUTEX);
    inner_at = made(&me, 5, sizeof(fs_vector), FS_VECTOR);
    semaphore_at = made(&me, 6, sizeof(fs_semaphore), FS_SEMAPHORE);
    semaphore()->value = 1;
    event_at = made(&me, 7, sizeof(fs_semaphore), FS_EVENT);
    bounded_at = made(&me, 8, sizeof(fs_bounded), FS_BOUNDED);
    if (fs_bounded_start(&me, bounded(), 1) != FS_OK)
        return 2;
    waiters_at = made(&me, 9, sizeof(fs_waiters), FS_WAITERS);
    condition_at = made(&me, 10, sizeof(fs_object), FS_MUTEX);
    barrier_at = made(&me, 11, sizeof(fs_barrier) + 2 * 8, FS_BARRIER);
    barrier()->parties = barrier()->room = 2;
    counter_at = made(&me, 12, fs_counter_bytes(8), FS_COUNTER);
    fs_counter_start(counter(), 8, 0);
    for (int i = 0; i < many; i++) {
        workers[i] = (worker){.state = seed * 1000 + (uint64_t)i, .number = i};
        pthread_create(&threads[i], NULL, work, &workers[i]);
    }
    for (int i = 0; i < many; i++)
        pthread_join(threads[i], NULL);
    char kept[KEPT];
    fs_key k = key_named("n", kept);
    fs_copy c = {0};
    fs_witness seen;
    int r = fs_table_read(&me, table(), &k, NULL, &c, &seen);
    if ((r == FS_OK ? c.value : 0) + cell()->value != counted)
        fail("additions are lost", r);
    uint32_t value = 0;
    if (fs_bounded_value(&me, bounded(), &value) != FS_OK || value != 1 || semaphore()->value != 1)
        fail("permits are lost", (int)value);
    if (fs_waiters_count(&heap, waiters()) || fs_barrier_inside(&heap, barrier()))
        fail("somebody is left waiting", 0);
    for (int by = 0; by < 3; by++)
        if (guarded[by] != passed[by])
            fail("two were inside at once", by);
    fs_census census;
    const char *what = NULL;
    if ((r = fs_check(&me, &census, &what)) != FS_OK)
        fail(what ? what : "check", r);
    for (uint64_t slot = 0; slot < OBJECTS; slot++)
        fs_drop(&me, fs_slot_word(&heap, slot));
    if (fs_reap(&me) != FS_OK || fs_check(&me, &census, &what) != FS_OK || census.tables + census.vectors + census.cells + census.counters + census.semaphores + census.conditions)
        fail("objects are left when all is dropped", 0);
    printf("%llu tried, %u failed\n", (unsigned long long)operations_each * (unsigned)many, failures);
    fs_unmap(&heap);
    return failures != 0;
}
