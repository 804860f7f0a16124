/* kill_each.c: kills a process after each single instruction of each operation, and looks at what it leaves.
 *
 *   gcc -std=gnu11 -O2 -Isrc/fastshm tests/battery/kill_each.c -o kill_each -lpthread && ./kill_each [STEP [NAME]]
 *
 * A child does one operation on a segment that this process has mapped, too, and is traced: after n steps it is killed, for
 * n = STEP, 2 STEP, ... until the operation ends by itself. Then the survivor wants the object's lock (within a deadline), asks
 * for all invariants, and looks whether the operation is wholly there or not at all. At the end all is dropped, and not a byte
 * may be left. A second child is killed, after a number of instructions drawn by chance, while it repairs what the first left: after
 * each first death when STEP is 1, else after every fourth.
 *
 * An operation joins by one line in `operations`.
 */
#include "check.h"
#include "identity.h"
#include "segment.h"

#include <sys/ptrace.h>
#include <sys/wait.h>

static fs_heap heap;
static fs_self me;

static void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s (errno %d)\n", what, why, errno);
    exit(2);
}

static void wish(int r) {
    if (r != FS_OK) {
        errno = -r;
        die("preparation", "return code in errno");
    }
}

/* --- objects ------------------------------------------------------------------------------------------------------------- */

static uint64_t *slot_word(int slot) { return fs_slot_word(&heap, (uint64_t)slot); }

enum { TABLE = 0, VECTOR, ARRAY, CELL, INNER, SPARE, EXTRA };

static fs_object *object(int slot) { return (fs_object *)(heap.base + *slot_word(slot)); }
static fs_table *table(void) { return (fs_table *)object(TABLE); }
static fs_vector *vector(void) { return (fs_vector *)object(VECTOR); }
static fs_array *array(void) { return (fs_array *)object(ARRAY); }

static void make(int slot, uint64_t bytes, uint32_t kind) {
    fs_object *o;
    if (*slot_word(slot))
        wish(fs_drop(&me, slot_word(slot)));
    wish(fs_object_new(&me, bytes, kind, slot_word(slot), &o));
}

static fs_value number(int64_t n) { return (fs_value){FS_V_INT, 0, (uint64_t)n, NULL, 0, NULL, 0}; }

static fs_value text(char letter, uint64_t size) {
    static char bytes[64][5000];
    static int turn;
    char *b = bytes[turn++ % 64];
    memset(b, letter, size);
    return (fs_value){FS_V_ASCII_BLOB, 0, 0, b, size, NULL, 0};
}

static fs_value inner(void) { return (fs_value){FS_V_OBJECT, 0, *slot_word(INNER), NULL, 0, NULL, 0}; }

static fs_value bundle(void) {
    static uint64_t refs[2];
    refs[0] = refs[1] = *slot_word(INNER);
    return (fs_value){FS_V_PICKLE_BUNDLE, 0, 0, "pickle of two", 13, refs, 2};
}

static fs_key key(const char *letters) {
    fs_key k = {0};
    k.bytes = (const unsigned char *)letters;
    k.length = (uint32_t)strlen(letters);
    k.total = k.length;
    k.form = FS_K_STR;
    fs_key_prepare(&k, table()->seed);
    return k;
}

static const char *LONG = "a key that is too long to lie in its entry";

static void put(const char *k, fs_value v) {
    fs_key K = key(k);
    wish(fs_table_put(&me, table(), &K, &v, FS_PUT, UINT64_MAX, NULL, NULL));
}

static void put_many(int from, int to) {
    char name[16];
    for (int i = from; i < to; i++) {
        snprintf(name, sizeof name, "k%d", i);
        put(name, number(i));
    }
}

static void fill_table(void) {
    make(INNER, sizeof(fs_vector), FS_VECTOR);
    make(TABLE, sizeof(fs_table), FS_TABLE);
    put("int", number(1));
    put("wide", text('x', 300));
    put(LONG, text('y', 40));
    put("inner", inner());
}

static void fill_to_growth(void) {
    fill_table();
    for (int i = 0; table()->used < table()->capacity || i < 40; i++)
        put_many(i, i + 1);
}

static void fill_and_delete(void) {
    fs_key k;
    fill_to_growth();
    for (int i = 0; i < 8; i += 2) {
        char name[16];
        snprintf(name, sizeof name, "k%d", i);
        k = key(name);
        wish(fs_table_remove(&me, table(), &k, NULL, UINT64_MAX));
    }
}

static void fill_vector(void) {
    fs_value v[] = {number(1), text('x', 300), number(3), text('y', 20), number(5), number(6)};
    make(INNER, sizeof(fs_vector), FS_VECTOR);
    make(VECTOR, sizeof(fs_vector), FS_VECTOR);
    wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, v, 6, FS_ANY_STAMP));
    fs_value o = inner();
    wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, &o, 1, FS_ANY_STAMP));
}

static void fill_vector_to_growth(void) {
    fill_vector();
    while (vector()->start + vector()->n < vector()->capacity) {
        fs_value v = number(9);
        wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, &v, 1, FS_ANY_STAMP));
    }
}

static void make_array(void) {
    make(ARRAY, FS_ARRAY_DATA + 64 * 8, FS_ARRAY);
    fs_array *a = array();
    a->data = *slot_word(ARRAY) + FS_ARRAY_DATA;
    a->count = 64;
    a->itemsize = 8;
    a->typecode = 'q';
}

static void make_cell(void) {
    make(CELL, sizeof(fs_cell), FS_CELL);
    ((fs_cell *)object(CELL))->typecode = 'q';
}

static void make_cycle(void) {
    fill_table();
    make(VECTOR, sizeof(fs_vector), FS_VECTOR);
    fs_value v = {FS_V_OBJECT, 0, *slot_word(VECTOR), NULL, 0, NULL, 0};
    put("vector", v);
    put("many", bundle());
    wish(fs_drop(&me, slot_word(VECTOR)));
}

/* --- operations ---------------------------------------------------------------------------------------------------------- */

static void set_int(void) { put("int", number(2)); }
static void set_other_kind(void) { put("int", text('z', 100)); }
static void set_wide(void) { put("wide", text('z', 500)); }
static void set_wide_to_int(void) { put("wide", number(7)); }
static void set_object(void) { put("int", inner()); }
static void set_bundle(void) { put("inner", bundle()); }
static void insert_int(void) { put("new", number(2)); }
static void insert_wide(void) { put("another key that is too long to lie in its entry", text('z', 100)); }
static void grow(void) { put("new", number(2)); }
static void increment(void) {
    fs_key k = key("int");
    fs_value one = number(1);
    uint64_t result;
    wish(fs_table_put(&me, table(), &k, &one, FS_ADD, UINT64_MAX, NULL, &result));
}
static void remove_key(const char *name) {
    fs_key k = key(name);
    wish(fs_table_remove(&me, table(), &k, NULL, UINT64_MAX));
}
static void delete_int(void) { remove_key("int"); }
static void delete_wide(void) { remove_key(LONG); }
static void delete_object(void) {
    remove_key("inner");
    fs_reap(&me);
}
static void take_wide(void) {
    fs_key k = key("wide");
    fs_copy c;
    wish(fs_table_take(&me, table(), &k, &c));
    free(c.data);
}
static void clear_table(void) {
    wish(fs_table_empty(&me, table()));
    fs_reap(&me);
}
static void update(void) {
    fs_key k[] = {key("int"), key("wide"), key("one more"), key("a second key that is too long to lie in its entry"), key("inner")};
    fs_value v[] = {text('p', 200), number(5), text('q', 90), inner(), text('r', 5)};
    wish(fs_table_update(&me, table(), k, v, 5, UINT64_MAX));
}
static void change(int what, int64_t i, fs_value v) { wish(fs_vector_change(&me, vector(), what, i, &v, 1, FS_ANY_STAMP)); }
static void append_int(void) { change(FS_EXTEND, 0, number(8)); }
static void append_wide(void) { change(FS_EXTEND, 0, text('z', 100)); }
static void append_object(void) { change(FS_EXTEND, 0, inner()); }
static void insert_front(void) { change(FS_INSERT_ITEM, 0, text('z', 100)); }
static void insert_middle(void) { change(FS_INSERT_ITEM, 3, text('z', 100)); }
static void set_item(void) { change(FS_SET_ITEM, 1, text('z', 100)); }
static void set_item_int(void) { change(FS_SET_ITEM, 0, number(77)); }
static void delete_first(void) { change(FS_DELETE_ITEM, 0, number(0)); }
static void delete_middle(void) { change(FS_DELETE_ITEM, 1, number(0)); }
static void pop_last(void) {
    change(FS_DELETE_ITEM, -1, number(0));
    fs_reap(&me);
}
static void extend(void) {
    fs_value v[] = {number(1), text('p', 100), inner(), text('q', 30), number(2), bundle()};
    wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, v, 6, FS_ANY_STAMP));
}
static void rearrange(void) {
    int64_t plan[] = {6, 5, 1, 1, -1, 0, -2};
    fs_value v[] = {text('p', 100), inner()};
    wish(fs_vector_rearrange(&me, vector(), plan, 7, v, vector()->stamp));
    fs_reap(&me);
}
static void write_slice(void) {
    int64_t items[20];
    for (int i = 0; i < 20; i++)
        items[i] = 9;
    int entered = fs_array_enter(&me, array());
    wish(fs_array_write(&me, array(), 8, 2, 3, 20, items));
    fs_array_leave(&me, &array()->o, entered);
}
static void cell_add(void) {
    fs_cell *c = (fs_cell *)object(CELL);
    int entered = fs_enter(&me, &c->o.lock);
    fs_item_write(&c->value, 8, fs_item_read(&c->value, 8) + 1);
    fs_array_leave(&me, &c->o, entered);
}
static void user_section(void) {
    fs_cell *c = (fs_cell *)object(CELL);
    int entered = fs_enter(&me, &c->o.lock);
    fs_hold_begin(&c->o.lock, entered, 0);
    fs_item_write(&c->value, 8, 5);
    fs_hold_end(&me, &c->o.lock);
}
static void make_and_drop(void) {
    make(SPARE, 2000, FS_ARRAY);
    wish(fs_drop(&me, slot_word(SPARE)));
}
static void drop_cycle(void) {
    wish(fs_drop(&me, slot_word(TABLE)));
    fs_reap(&me);
}
static void grow_segment(void) {
    fs_block *b;
    wish(fs_alloc_to(&me, 200000, FS_RAW, slot_word(SPARE), &b));
    wish(fs_drop(&me, slot_word(SPARE)));
}
static void ticket(void) {
    uint64_t offset, serial;
    wish(fs_ticket_new(&me, *slot_word(INNER), &offset, &serial));
    wish(fs_ticket_use(&me, offset, serial, *slot_word(INNER), slot_word(EXTRA)));
    wish(fs_drop(&me, slot_word(EXTRA)));
}
static void many_slots(void) {
    wish(fs_slots_reserve(&me, heap.free_count + 1));
    uint64_t slot = heap.free_slots[--heap.free_count];
    wish(fs_object_open(&me, *slot_word(INNER), object(INNER)->serial, fs_slot_word(&heap, slot)));
    wish(fs_drop(&me, fs_slot_word(&heap, slot)));
    fs_slot_unuse(&heap, slot);
}
static void an_heir(void) {
    fs_heir heir;
    wish(fs_heir_make(&me, &heir));
    wish(fs_process_copy(&me, heap.process, heir.process));
    close(heir.live_fd);
}
static void leave(void) { fs_part(&me); }

#define KEEPS (-2) /* memory that a living process keeps for its next handles, or that a message in flight does */

typedef struct {
    const char *name;
    int slot; /* of the object whose lock must be free afterwards, -1, or KEEPS */
    void (*prepare)(void), (*operate)(void);
} operation;

static const operation operations[] = {
    {"cell add", CELL, make_cell, cell_add},
    {"a user's section", CELL, make_cell, user_section},
    {"array slice", ARRAY, make_array, write_slice},
    {"dict set, one word", TABLE, fill_table, set_int},
    {"dict set, word to block", TABLE, fill_table, set_other_kind},
    {"dict set, block to block", TABLE, fill_table, set_wide},
    {"dict set, block to word", TABLE, fill_table, set_wide_to_int},
    {"dict set, object", TABLE, fill_table, set_object},
    {"dict set, bundle", TABLE, fill_table, set_bundle},
    {"dict insert", TABLE, fill_table, insert_int},
    {"dict insert, key and value in blocks", TABLE, fill_table, insert_wide},
    {"dict insert with growth", TABLE, fill_to_growth, grow},
    {"dict insert with compaction", TABLE, fill_and_delete, grow},
    {"dict increment", TABLE, fill_table, increment},
    {"dict delete", TABLE, fill_table, delete_int},
    {"dict delete, key and value in blocks", TABLE, fill_table, delete_wide},
    {"dict delete, object", TABLE, fill_table, delete_object},
    {"dict pop", TABLE, fill_table, take_wide},
    {"dict clear", TABLE, fill_table, clear_table},
    {"dict update", TABLE, fill_table, update},
    {"dict update with growth", TABLE, fill_to_growth, update},
    {"list append", VECTOR, fill_vector, append_int},
    {"list append, block", VECTOR, fill_vector, append_wide},
    {"list append, object", VECTOR, fill_vector, append_object},
    {"list append with growth", VECTOR, fill_vector_to_growth, append_wide},
    {"list insert in front", VECTOR, fill_vector, insert_front},
    {"list insert in the middle", VECTOR, fill_vector, insert_middle},
    {"list set", VECTOR, fill_vector, set_item},
    {"list set, word", VECTOR, fill_vector, set_item_int},
    {"list delete first", VECTOR, fill_vector, delete_first},
    {"list delete in the middle", VECTOR, fill_vector, delete_middle},
    {"list pop", VECTOR, fill_vector, pop_last},
    {"list extend", VECTOR, fill_vector, extend},
    {"list rearranged (sort, slices)", VECTOR, fill_vector, rearrange},
    {"allocate and free", -1, fill_table, make_and_drop},
    {"allocate with growth of the segment", -1, fill_table, grow_segment},
    {"drop a cycle of containers", -1, make_cycle, drop_cycle},
    {"pickle and unpickle a handle", KEEPS, fill_table, ticket},
    {"more handle slots", KEEPS, fill_table, many_slots},
    {"an heir for a fork", -1, fill_table, an_heir},
    {"leave the segment", -1, fill_table, leave},
};

/* --- what is visible of an object ---------------------------------------------------------------------------------------- */

static uint64_t fold(uint64_t h, const void *p, uint64_t n) { return fs_hash_bytes(p, n, 1, h); }

static uint64_t fold_value(uint64_t h, uint64_t kind, uint64_t length, uint64_t value) {
    fs_seen s = {(uint32_t)kind, (uint32_t)length, value, NULL, 0};
    h = fold(h, &kind, 8);
    if (fs_value_look(&heap, &s) != FS_OK)
        die("value", "damaged");
    if (kind == FS_V_OBJECT)
        value = value == *slot_word(INNER);
    if (kind < FS_V_OWNING || kind == FS_V_OBJECT)
        return fold(h, &value, 8);
    return fold(h, s.data, s.size);
}

static uint64_t picture(int slot) {
    uint64_t h = 1;
    if (slot == TABLE) {
        fs_view v;
        if (fs_view_make(&heap, table(), &v) != FS_OK)
            die("table", "damaged");
        h = fold(h, &table()->used, 8);
        for (uint64_t i = 0; v.entries && i < v.entries->n; i++) {
            fs_entry *e = &v.entries->entry[i];
            if (e->kind) {
                h = fold(h, &e->hash, 8);
                h = fold_value(h, e->kind, e->length, e->value);
            }
        }
    } else if (slot == VECTOR) {
        fs_span s;
        if (fs_span_make(&heap, vector(), &s) != FS_OK)
            die("vector", "damaged");
        for (uint64_t i = 0; i < s.n; i++) {
            fs_slot *x = &s.slots->slot[s.start + i];
            h = fold_value(h, x->about & 255, x->about >> 8 & 255, x->value);
        }
    } else if (slot == ARRAY) {
        h = fold(h, fs_array_data(array()), 64 * 8);
    } else if (slot == CELL) {
        h = fold(h, &((fs_cell *)object(CELL))->value, 8);
    }
    return h;
}

/* --- killing ------------------------------------------------------------------------------------------------------------- */

static const operation *current;

static void work(void) { current->operate(); }

static void repair(void) {
    if (current->slot >= 0) {
        fs_object *o = object(current->slot);
        int r = fs_enter(&me, &o->lock);
        if (r < 0)
            exit(3);
        if (fs_object_settle(&me, o) != FS_OK)
            exit(4);
        fs_settle(&o->lock);
        fs_leave(&me, &o->lock);
    }
    fs_bury(&me);
    fs_reap(&me);
}

/* Kills a child after n instructions of `what`. 0 when it ended before. */
static int kill_after(void (*what)(void), long n) {
    fs_fork_before();
    pid_t pid = fork();
    int status;
    if (pid == -1)
        die("fork", "failed");
    if (!pid) {
        if (fs_me(&heap, &me) != FS_OK)
            _exit(5);
        me.wait = 1;
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        what();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    for (long i = 0; i < n; i++) {
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
        waitpid(pid, &status, 0);
        if (WIFEXITED(status)) {
            if (WEXITSTATUS(status))
                die(current->name, "the child failed");
            return 0;
        }
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return 1;
}

static int failures;

static int broken(long n, long rescue, const char *why) {
    printf("%s, killed after %ld", current->name, n);
    if (rescue)
        printf(", its rescuer after %ld", rescue);
    printf(" instructions: %s\n", why);
    return ++failures;
}

static int64_t slowest;

/* Is everything as it must be after one death, or two? */
static void judge(long n, long rescue, uint64_t before, uint64_t after) {
    fs_census census;
    const char *what = NULL;
    int64_t began = fs_now();
    if (current->slot >= 0) {
        fs_object *o = object(current->slot);
        int r = fs_lock_wait(&heap, &o->lock, me.id, began + 2000000000);
        int64_t took = fs_now() - began;
        if (took > slowest)
            slowest = took;
        if (r < 0) {
            broken(n, rescue, "the lock cannot be had");
            exit(1);
        }
        if (fs_object_settle(&me, o) != FS_OK)
            broken(n, rescue, "the object cannot be settled");
        fs_settle(&o->lock);
        o->lock.hold = 0;
        fs_leave(&me, &o->lock);
        uint64_t now = picture(current->slot);
        if (now != before && now != after)
            broken(n, rescue, "half of it is there");
    }
    int r = fs_check(&me, &census, &what);
    if (r != FS_OK) {
        broken(n, rescue, what ? what : "check failed");
        exit(1);
    }
}

static void drop_all(void) {
    for (int slot = 0; slot <= EXTRA; slot++)
        if (*slot_word(slot))
            wish(fs_drop(&me, slot_word(slot)));
    wish(fs_reap(&me));
}

static uint64_t used(void) {
    fs_census census;
    const char *what = NULL;
    if (fs_check(&me, &census, &what) != FS_OK) {
        broken(0, 0, what ? what : "check failed");
        exit(1);
    }
    return census.bytes_used - census.tickets * FS_GRAIN;
}

int main(int count, char **arguments) {
    long step = count > 1 ? atol(arguments[1]) : 1, all = 0, rescues = 0;
    const char *only = count > 2 ? arguments[2] : "";
    char name[64];
    snprintf(name, sizeof name, "/dev/shm/fastshm-kill-each-%d", getpid());
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd == -1 || ftruncate(fd, 1 << 30) == -1 || fs_identity_start() != FS_OK)
        die(name, "cannot be made");
    if (fs_segment_create(&heap, fd, 1 << 30, 0, 0) != FS_OK || fs_heap_register(&heap) != FS_OK)
        die(name, "cannot be made");
    fs_segment_named(&heap, name);
    wish(fs_me(&heap, &me));
    me.wait = 1;
    heap.free_count -= EXTRA + 1; /* the slots used here by number are nobody else's */
    drop_all();
    uint64_t empty = used();
    srand(1);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        current = &operations[i];
        if (!strstr(current->name, only))
            continue;
        long kills = 0, second = 0;
        slowest = 0;
        current->prepare();
        uint64_t before = picture(current->slot);
        if (current->operate != leave)
            work();
        uint64_t after = picture(current->slot);
        for (long n = step;; n += step) {
            drop_all();
            current->prepare();
            int died = kill_after(work, n);
            if (died && current->slot >= 0 && (step == 1 || rand() % 4 == 0)) {
                second += kill_after(repair, 1 + rand() % 2000);
                judge(n, second, before, after);
            } else {
                judge(n, 0, before, after);
            }
            kills += died;
            if (!died)
                break;
        }
        drop_all();
        uint64_t left = used();
        if (left != empty && current->slot != KEEPS)
            broken(0, 0, "bytes are left when all is dropped");
        empty = left;
        printf("%-40s %7ld kills, %6ld of rescuers, lock free after at most %.1f ms\n", current->name, kills, second,
               (double)slowest / 1e6);
        fflush(stdout);
        all += kills;
        rescues += second;
    }
    printf("%ld kills, %ld of rescuers, %d failed\n", all, rescues, failures);
    unlink(name);
    return failures != 0;
}
