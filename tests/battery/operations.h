/* operations.h: the operations of the C layer that the harnesses try to break, and what is visible of the objects they change.
 *
 * An operation joins by one line in `operations`. Each prepares objects in numbered handle slots of this process, and its picture
 * is either that before or that after. The includer says what a refused step means: refused().
 */
#ifndef FASTSHM_OPERATIONS_H
#define FASTSHM_OPERATIONS_H

#define FS_LARGE_TABLE 64 /* its growth is tried, too */

#include "check.h"
#include "membership.h"
#include "segment.h"

static fs_heap heap;
static fs_self me;

static _Noreturn void refused(int code);

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s (errno %d)\n", what, why, errno);
    exit(2);
}

static void wish(int r) {
    if (r != FS_OK)
        refused(r);
}

/* --- objects ------------------------------------------------------------------------------------------------------------- */

static uint64_t *slot_word(int slot) { return fs_slot_word(&heap, (uint64_t)slot); }

enum { TABLE = 0, VECTOR, ARRAY, CELL, INNER, SPARE, SEMAPHORE, EVENT, BOUNDED, WAITERS, BARRIER, COUNTER, EXTRA };

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

static fs_value number(int64_t n) { return (fs_value){FS_V_INT, 0, (uint64_t)n, NULL, 0, NULL, 0, 0}; }

static fs_value text(char letter, uint64_t size) {
    static char bytes[64][5000];
    static int turn;
    char *b = bytes[turn++ % 64];
    memset(b, letter, size);
    return (fs_value){FS_V_ASCII_BLOB, 0, 0, b, size, NULL, 0, 0};
}

static fs_value inner(void) { return (fs_value){FS_V_OBJECT, 0, *slot_word(INNER), NULL, 0, NULL, 0, 0}; }

static fs_value bundle(void) {
    static uint64_t refs[2];
    refs[0] = refs[1] = *slot_word(INNER);
    return (fs_value){FS_V_PICKLE_BUNDLE, 0, 0, "pickle of two", 13, refs, 2, 0};
}

/* As a view of a bundle is held, with its buffers in place. */
static fs_value buffers(void) {
    fs_value v = bundle();
    v.kind = FS_V_PICKLE_BUFFERS;
    return v;
}

static fs_value ahead(fs_value v) {
    wish(fs_value_make(&me, &v, slot_word(EXTRA), &v.made));
    return v;
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

/* Large, with its own index in the way of growth. */
static void fill_to_the_index(void) {
    uint64_t behind = 0;
    fill_table();
    for (int i = 0; behind != table()->index || table()->used < table()->capacity || table()->used < FS_LARGE_TABLE + 1; i++) {
        put_many(i, i + 1);
        fs_block *b = fs_block_at(&heap, table()->entries);
        behind = table()->entries + (uint64_t)b->size * FS_GRAIN;
        if (i == 4000)
            die("table", "never lies before its index");
    }
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

static void fill_vector_of_words(void) {
    fs_value v[] = {number(0), number(1), number(2), number(3), number(4), number(5)}, last = number(6);
    make(INNER, sizeof(fs_vector), FS_VECTOR);
    make(VECTOR, sizeof(fs_vector), FS_VECTOR);
    wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, v, 6, FS_ANY_STAMP));
    wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, &last, 1, FS_ANY_STAMP)); /* by growth: there is room behind it */
}

static void fill_vector_of_many(void) {
    fs_value v[100];
    make(INNER, sizeof(fs_vector), FS_VECTOR);
    make(VECTOR, sizeof(fs_vector), FS_VECTOR);
    for (uint64_t i = 0; i < 100; i++)
        v[i] = number(i);
    wish(fs_vector_change(&me, vector(), FS_EXTEND, 0, v, 100, FS_ANY_STAMP));
}
static void fill_vector_of_one(void) {
    fill_vector_of_words();
    for (int i = 0; i < 6; i++)
        wish(fs_vector_change(&me, vector(), FS_DELETE_ITEM, 0, NULL, 0, FS_ANY_STAMP));
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
    a->count = 64;
    a->itemsize = 8;
    a->typecode = 'q';
}

static void make_array_with_room(void) {
    make_array();
    array()->count = 40;
}

/* Nothing behind its block that it could grow into. */
static void hem_in(fs_block *b) {
    fs_block *made;
    if (!*slot_word(SPARE)) {
        wish(fs_alloc_to(&me, sizeof(fs_handles) - FS_HEADER, FS_RAW, slot_word(SPARE), &made));
        memset((char *)made + FS_HEADER, 0, sizeof(fs_handles) - FS_HEADER);
        made->kind = FS_HANDLES;
    }
    fs_handles *pieces = (fs_handles *)object(SPARE);
    for (unsigned i = 0; i < FS_HANDLES_CHUNK; i++) {
        fs_block *after = fs_after(&heap, b, b->size);
        if (after && after->kind != FS_FREE)
            return;
        if (!pieces->slot[i])
            wish(fs_alloc_to(&me, (after ? after->size : 1) * FS_GRAIN - FS_HEADER, FS_RAW, &pieces->slot[i], &made));
    }
    die("an array", "is not hemmed in");
}

static void make_full_array(void) {
    make_array();
    hem_in(&array()->o.block);
}

static void append_items(uint64_t count) {
    int64_t items[64];
    for (int i = 0; i < 64; i++)
        items[i] = 100 + i;
    int entered = fs_array_enter(&me, array());
    int r = fs_array_extend(&me, array(), 8, count, items);
    fs_array_leave(&me, &array()->o, entered);
    wish(r);
}

static void make_moved_array(void) {
    make_full_array();
    append_items(64);
    if (!array()->items)
        die("an array", "has not moved");
    hem_in((fs_block *)(heap.base + array()->items));
}

static void make_cell(void) {
    make(CELL, sizeof(fs_cell), FS_CELL);
    ((fs_cell *)object(CELL))->typecode = 'q';
}

static fs_cell *cell(void) { return (fs_cell *)object(CELL); }

static void make_cell_of_twelve(void) {
    make_cell();
    fs_item_write(&cell()->value, 8, 12);
}

static void make_double(void) {
    make_cell();
    cell()->typecode = 'd';
    fs_item_write(&cell()->value, 8, fs_double_item(0.5));
}

static fs_counter *counter(void) { return (fs_counter *)object(COUNTER); }

#define BITS 3 /* of the number of a stripe */

static void make_counter(void) {
    make(COUNTER, fs_counter_bytes(1 << BITS), FS_COUNTER);
    fs_counter_start(counter(), 1 << BITS, 5);
    for (uint32_t id = 1; id < 20; id++)
        fs_counter_add(counter(), BITS, id, id);
}

static fs_semaphore *semaphore(void) { return (fs_semaphore *)object(SEMAPHORE); }
static fs_semaphore *event(void) { return (fs_semaphore *)object(EVENT); }
static fs_bounded *bounded(void) { return (fs_bounded *)object(BOUNDED); }
static fs_waiters *waiters(void) { return (fs_waiters *)object(WAITERS); }
static fs_barrier *barrier(void) { return (fs_barrier *)object(BARRIER); }

static void make_semaphore(void) {
    make(SEMAPHORE, sizeof(fs_semaphore), FS_SEMAPHORE);
    semaphore()->value = 2;
}

static void make_event(void) { make(EVENT, sizeof(fs_semaphore), FS_EVENT); }

static void make_set_event(void) {
    make_event();
    fs_event_set(event());
}

static void make_bounded(void) {
    make(BOUNDED, sizeof(fs_bounded), FS_BOUNDED);
    wish(fs_bounded_start(&me, bounded(), 3));
    wish(fs_bounded_take(&me, bounded(), 0));
}

/* Somebody else's share: the number is given out, and nobody claims it. 0 when there is no room for it. */
static int dead_share(int32_t net) {
    fs_ledger l;
    wish(fs_ledger_look(&heap, bounded(), &l));
    fs_share *unused = fs_share_of(&l, UINT32_MAX, &(int32_t){0});
    if (unused)
        fs_share_put(unused, fs_fetch_add(&heap.super->next_id, 1), net);
    return unused != NULL;
}

static void make_bounded_of_the_dead(void) {
    make_bounded();
    dead_share(-1);
    dead_share(3);
}

static void make_full_ledger(void) {
    make_bounded();
    for (int net = 1; dead_share(net); net = -net)
        ;
}

static void make_waiters(void) {
    uint64_t n;
    make(WAITERS, sizeof(fs_waiters), FS_WAITERS);
    wish(fs_waiters_join(&me, waiters(), &n));
    wish(fs_waiters_join(&me, waiters(), &n));
    wish(fs_waiters_join(&me, waiters(), &n));
    fs_waiter_at(&heap, waiters(), 0)->seat.id = fs_fetch_add(&heap.super->next_id, 1); /* a dead one's */
}

static void make_full_waiters(void) {
    uint64_t n = 0;
    make(WAITERS, sizeof(fs_waiters), FS_WAITERS);
    while (n < FS_WAITERS_FIRST - 1)
        wish(fs_waiters_join(&me, waiters(), &n));
}

static void make_barrier(void) {
    make(BARRIER, sizeof(fs_barrier) + 3 * 8, FS_BARRIER);
    barrier()->parties = barrier()->room = 3;
    barrier()->place[0] = me.id;
}

static void make_nearly_full_barrier(void) {
    make_barrier();
    barrier()->place[2] = me.id;
}

static void make_dead_barrier(void) {
    make_barrier();
    barrier()->place[1] = fs_fetch_add(&heap.super->next_id, 1);
}

static void make_cycle(void) {
    fill_table();
    make(VECTOR, sizeof(fs_vector), FS_VECTOR);
    fs_value v = {FS_V_OBJECT, 0, *slot_word(VECTOR), NULL, 0, NULL, 0, 0};
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
static void set_ahead(void) {
    put("wide", ahead(buffers()));
    wish(fs_drop(&me, slot_word(EXTRA)));
}
static void look_at_key(const char *name) {
    uint64_t pin = fs_slot_offset(&heap, EXTRA);
    fs_key k = key(name);
    fs_copy c;
    fs_witness seen;
    wish(fs_table_read(&me, table(), &k, &pin, &c, &seen));
}
static void look_and_overwrite(void) {
    look_at_key("wide");
    put("wide", buffers());
    wish(fs_drop(&me, slot_word(EXTRA)));
}
static void put_buffers(void) {
    fill_table();
    put("buffers", buffers());
}
static void look_and_remove(void) {
    fs_key k = key("buffers");
    look_at_key("buffers");
    wish(fs_table_remove(&me, table(), &k, NULL, UINT64_MAX));
    wish(fs_drop(&me, slot_word(EXTRA)));
    fs_reap(&me);
}
static void insert_int(void) { put("new", number(2)); }
static void insert_wide(void) { put("another key that is too long to lie in its entry", text('z', 100)); }
static void grow(void) { put("new", number(2)); }
static void set_by_hint(const char *name, fs_value v) {
    fs_key k = key(name);
    fs_peek p;
    fs_hint h;
    p.view.version = 1;
    if (fs_peek_at(&heap, table(), &k, &p) != FS_OK || !fs_peek_valid(table(), &p, 1))
        die("peek", "failed");
    fs_hint_take(&h, &p);
    if (v.kind != FS_V_INT || fs_hint_store(&me, table(), &h, FS_V_INT, v.value) != FS_OK)
        wish(fs_hint_put(&me, table(), &h, &v, FS_PUT, NULL));
}
static void set_int_by_hint(void) { set_by_hint("int", number(2)); }
static void set_wide_by_hint(void) { set_by_hint("wide", text('z', 500)); }
static fs_extent looked_now(void) { return (fs_extent){.keys_changed = table()->keys_changed}; }
static void exchange(void) {
    fs_extent now = looked_now();
    fs_key out[] = {key("int"), key(LONG), key("inner"), key("is not there")};
    fs_key k[] = {key("one more"), key("a second key that is too long to lie in its entry"), key("wide"), key("another")};
    fs_value v[] = {text('p', 200), number(5), text('q', 90), inner()};
    wish(fs_table_exchange(&me, table(), out, 4, k, v, 4, &now, NULL));
    fs_reap(&me);
}
static void exchange_all(void) {
    fs_extent now = looked_now();
    fs_key k[] = {key("one more"), key("a second key that is too long to lie in its entry"), key("wide")};
    fs_value v[] = {text('p', 200), number(5), inner()};
    wish(fs_table_exchange(&me, table(), NULL, 0, k, v, 3, &now, NULL));
    fs_reap(&me);
}
static void exchange_seen(void) {
    fs_key out[] = {key("int"), key(LONG)}, k[] = {key("int"), key("one more")};
    fs_value v[] = {text('p', 200), number(5)};
    static fs_snapshot seen;
    fs_extent extent;
    free(seen.buffer); /* of a try that was refused */
    seen.buffer = NULL;
    wish(fs_table_copy(&me, table(), 0, 0, 0, NULL, 0, &seen, &extent));
    wish(fs_table_exchange(&me, table(), out, 2, k, v, 2, &extent, &seen));
    fs_reap(&me);
}
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
static int make_copy(void *out, const fs_seen *seen) {
    char **copy = out;
    if (!(*copy = malloc(seen->size)))
        return FS_PRIVATE_NOMEM;
    memcpy(*copy, seen->data, seen->size);
    return FS_OK;
}
static void take_wide(void) {
    fs_key k = key("wide");
    char *copy = NULL;
    wish(fs_table_take(&me, table(), &k, make_copy, &copy));
    free(copy);
}
static void clear_table(void) {
    wish(fs_table_empty(&me, table()));
    fs_reap(&me);
}
static void update(void) {
    fs_key k[] = {key("int"), key("wide"), key("one more"), key("a second key that is too long to lie in its entry"), key("inner")};
    fs_value v[] = {text('p', 200), number(5), text('q', 90), inner(), text('r', 5)};
    wish(fs_table_merge(&me, table(), k, v, 5, FS_PUT, UINT64_MAX));
}
static void merge(void) {
    fs_key k[] = {key("int"), key("one more"), key("k3"), key("a second key that is too long to lie in its entry")};
    fs_value v[] = {number(4), number(5), number(6), number(7)};
    wish(fs_table_merge(&me, table(), k, v, 4, FS_ADD, UINT64_MAX));
}
static void change(int what, int64_t i, fs_value v) { wish(fs_vector_change(&me, vector(), what, i, &v, 1, FS_ANY_STAMP)); }
static void append_int(void) { change(FS_EXTEND, 0, number(8)); }
static void append_wide(void) { change(FS_EXTEND, 0, text('z', 100)); }
static void append_object(void) { change(FS_EXTEND, 0, inner()); }
static void append_ahead(void) {
    change(FS_EXTEND, 0, ahead(text('z', 900)));
    wish(fs_drop(&me, slot_word(EXTRA)));
}
static void look_and_delete(void) {
    uint64_t pin = fs_slot_offset(&heap, EXTRA), stamp;
    fs_copy c;
    wish(fs_vector_read(&me, vector(), 1, &pin, &c, &stamp));
    change(FS_DELETE_ITEM, 1, number(0));
    wish(fs_drop(&me, slot_word(EXTRA)));
}
static void insert_front(void) { change(FS_INSERT_ITEM, 0, text('z', 100)); }
static void insert_middle(void) { change(FS_INSERT_ITEM, 3, text('z', 100)); }
static void set_item(void) { change(FS_SET_ITEM, 1, text('z', 100)); }
static void set_item_int(void) { change(FS_SET_ITEM, 0, number(77)); }
static fs_known known_slots(void) {
    fs_known k = {0};
    fs_vector_learn(&heap, vector(), &k);
    return k;
}
/* A word, where nothing is in the way: by the lock that was just taken. */
static void take_vector(void) { wish(fs_enter(&me, &vector()->o.lock)); }
static void done(int is_done) { wish(is_done ? FS_OK : FS_BUSY); }
static void set_word(void) {
    fs_known k = known_slots();
    take_vector();
    done(fs_vector_set_word(&me, vector(), &k, 2, FS_V_INT, 77));
}
static void append_word(void) {
    fs_known k = known_slots();
    take_vector();
    done(fs_vector_append_word(&me, vector(), &k, FS_V_INT, 8));
}
static void pop_word(void) {
    fs_known k = known_slots();
    take_vector();
    done(fs_vector_pop_word(&me, vector(), &k, FS_V_INT, 6));
}
static void extend_words(void) {
    const fs_slot words[] = {{FS_V_INT, 1}, {FS_V_FLOAT, 2}, {FS_V_NONE, 0}, {FS_V_INT, 4}};
    wish(fs_vector_change(&me, vector(), FS_EXTEND_WORDS, 0, words, 4, FS_ANY_STAMP));
}
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
static void replace(int64_t start, int64_t stop, uint64_t count) {
    fs_value v[] = {text('p', 100), number(1), inner(), text('q', 30)};
    wish(fs_vector_exchange(&me, vector(), start, stop, v, count));
    fs_reap(&me);
}
static void splice_more(void) { replace(1, 3, 4); }
static void splice_fewer(void) { replace(1, 5, 1); }
static void splice_as_many(void) { replace(2, 6, 4); }
static void splice_in(void) { replace(2, 2, 3); }
static void splice_out(void) { replace(2, 5, 0); }
static void splice_first(void) { replace(0, 4, 1); }
static void splice_all(void) { replace(0, INT64_MAX, 0); }
static void splice_most(void) { replace(2, 98, 2); }
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
    int r = fs_array_write(&me, array(), 8, 2, 3, 20, items);
    fs_array_leave(&me, &array()->o, entered);
    wish(r);
}
static void fill_array(void) {
    int64_t item = 9;
    int entered = fs_array_enter(&me, array());
    int r = fs_array_fill(&me, array(), 8, &item);
    fs_array_leave(&me, &array()->o, entered);
    wish(r);
}
static void add_to_array(void) {
    int64_t items[30];
    for (int i = 0; i < 30; i++)
        items[i] = i;
    int entered = fs_array_enter(&me, array());
    int r = fs_array_change(&me, array(), 8, FS_SIGNED, 8, FS_PLUS, 7, 30, items);
    fs_array_leave(&me, &array()->o, entered);
    wish(r);
}
static void append_item(void) { append_items(1); }
static void extend_array(void) { append_items(20); }
static void resize_to(uint64_t count) {
    int entered = fs_array_enter(&me, array());
    int r = fs_array_resize(&me, array(), 8, count);
    fs_array_leave(&me, &array()->o, entered);
    wish(r);
}
static void resize_array(void) { resize_to(200); }
static void cut_array(void) { resize_to(5); }
static void look_at_items(void) {
    fs_run run;
    wish(fs_array_pin(&me, array(), slot_word(EXTRA), &run));
    append_items(60);
    wish(fs_drop(&me, slot_word(EXTRA)));
}
static void drop_array(void) {
    wish(fs_drop(&me, slot_word(ARRAY)));
    fs_reap(&me);
}
static void change_cell(int form, int what, uint64_t n) {
    int entered = fs_enter(&me, &cell()->o.lock);
    fs_item_change(&cell()->value, form, 8, what, n);
    fs_array_leave(&me, &cell()->o, entered);
}
static void cell_add(void) { change_cell(FS_SIGNED, FS_PLUS, 1); }
static void cell_subtract(void) { change_cell(FS_SIGNED, FS_MINUS, 1); }
static void cell_and(void) { change_cell(FS_UNSIGNED, FS_AND, 10); }
static void cell_or(void) { change_cell(FS_UNSIGNED, FS_OR, 3); }
static void cell_xor(void) { change_cell(FS_UNSIGNED, FS_XOR, 5); }
static void cell_max(void) { change_cell(FS_SIGNED, FS_MAX, 20); }
static void cell_min(void) { change_cell(FS_SIGNED, FS_MIN, (uint64_t)-3); }
static void cell_add_double(void) { change_cell(FS_DOUBLE, FS_PLUS, fs_double_item(0.25)); }
static void cell_max_double(void) { change_cell(FS_DOUBLE, FS_MAX, fs_double_item(0.75)); }
static void cell_exchange(void) {
    int entered = fs_enter(&me, &cell()->o.lock);
    if (fs_item_read(&cell()->value, 8) == 12)
        fs_item_write(&cell()->value, 8, 7);
    fs_array_leave(&me, &cell()->o, entered);
}
static void cell_tell(void) {
    fs_patience p = {-1, 0};
    fs_turn_watch(&cell()->turn, &p);
    cell_add();
    fs_item_notify(&cell()->turn, 1);
    fs_item_notify(&cell()->turn, FS_ALL);
    wish(fs_cell_wait(&me, cell(), 8, 0, &p));
}
static void count(void) { fs_counter_add(counter(), BITS, me.id, 3); }
static void take_count(void) {
    uint64_t old;
    wish(fs_counter_exchange(counter(), BITS, 9, &old));
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
    uint64_t offset = 0, serial = 0;
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
    int r = fs_process_copy(&me, heap.process, heir.process);
    close(heir.live_fd);
    wish(r);
}
static void acquire(void) {
    if (!fs_semaphore_try(semaphore()))
        wish(FS_MISSING);
}
static void release(void) { wish(fs_semaphore_give(semaphore())); }
static void set_event(void) { fs_event_set(event()); }
static void clear_event(void) { fs_event_clear(event()); }
static void acquire_bounded(void) { wish(fs_bounded_take(&me, bounded(), 1)); }
static void release_bounded(void) { wish(fs_bounded_give(&me, bounded())); }
static void come_and_go(void) {
    uint64_t n;
    wish(fs_waiters_join(&me, waiters(), &n));
    wish(fs_waiters_give_up(&me, waiters(), n));
}
static void notify_one(void) { wish(fs_waiters_notify(&me, waiters(), 1)); }
static void notify_all(void) { wish(fs_waiters_notify(&me, waiters(), 100)); }
static void come_and_be_notified(void) {
    uint64_t n;
    wish(fs_waiters_join(&me, waiters(), &n));
    wish(fs_waiters_notify(&me, waiters(), 3));
    wish(fs_waiters_done(&me, waiters(), n, 1));
}
static void arrive(void) {
    uint64_t place, index;
    int fate;
    wish(fs_barrier_arrive(&me, barrier(), 0, &place, &index, &fate));
    if (fate == FS_STAYS)
        wish(fs_barrier_leave(&me, barrier(), place));
}
static void arrive_last_and_act(void) {
    uint64_t place, index;
    int fate;
    wish(fs_barrier_arrive(&me, barrier(), 1, &place, &index, &fate));
    wish(fs_barrier_acted(&me, barrier(), place));
}
static void abort_barrier(void) { wish(fs_barrier_abort(&me, barrier())); }
static void reset_barrier(void) { wish(fs_barrier_reset(&me, barrier())); }
static void look_for_the_dead(void) { wish(fs_barrier_look(&me, barrier(), FS_NO_PLACE)); }
static void make_and_drop_waiters(void) {
    uint64_t n;
    make(SPARE, sizeof(fs_waiters), FS_WAITERS);
    wish(fs_waiters_join(&me, (fs_waiters *)object(SPARE), &n));
    wish(fs_drop(&me, slot_word(SPARE)));
    make(SPARE, sizeof(fs_bounded), FS_BOUNDED);
    wish(fs_bounded_start(&me, (fs_bounded *)object(SPARE), 3));
    wish(fs_drop(&me, slot_word(SPARE)));
    fs_reap(&me);
}
static void leave(void) { fs_part(&me); }
static void leave_for_good(void) { fs_member_leave(&heap, 0, 0, 0); }
static void join_and_leave(void) {
    int why;
    char path[sizeof heap.path];
    snprintf(path, sizeof path, "%s", heap.path);
    if (fs_part(&me) < 0)
        die("leaving", "refused");
    fs_unmap(&heap);
    wish(fs_segment_open(&heap, open(path, O_RDWR | O_CLOEXEC), &why));
    fs_segment_named(&heap, path);
    wish(fs_me(&heap, &me));
    fs_part(&me);
}
/* Of a creator who died the name is left, and perhaps a whole segment, which nobody uses. */
static void fill_and_forget_fresh(void) {
    char path[sizeof heap.path + 8];
    snprintf(path, sizeof path, "%s-fresh", heap.path);
    unlink(path);
    fill_table();
}
static void create(void) {
    char path[sizeof heap.path + 8];
    snprintf(path, sizeof path, "%s-fresh", heap.path);
    fs_part(&me);
    fs_unmap(&heap);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd == -1 || ftruncate(fd, 1 << 24) == -1)
        die("a fresh segment", "cannot be made");
    wish(fs_segment_create(&heap, fd, 1 << 24, 0, 0));
    wish(fs_me(&heap, &me));
    fs_object *o;
    wish(fs_object_new(&me, sizeof(fs_cell), FS_CELL, slot_word(CELL), &o));
    fs_part(&me);
    unlink(path);
}
static void create_without_a_name(void) {
    char path[sizeof heap.path + 8];
    snprintf(path, sizeof path, "%s-fresh", heap.path);
    fs_part(&me);
    fs_unmap(&heap);
    int fd = fs_file_make_nameless("/dev/shm", 1 << 24);
    if (fd == -1)
        die("a fresh segment", "cannot be made");
    wish(fs_segment_begin(&heap, fd, 1 << 24, 0, 0, 1));
    wish(fs_me(&heap, &me));
    fs_object *o;
    wish(fs_object_new(&me, sizeof(fs_cell), FS_CELL, slot_word(CELL), &o));
    wish(fs_segment_appear(&heap, path));
    fs_part(&me);
    unlink(path);
}

#define KEEPS (-2) /* memory that a living process keeps for its next handles, or that a message in flight does */
#define ALONE (-3) /* ends the process's use of the segment: only for a child */

typedef struct {
    const char *name;
    int slot; /* of the object whose lock must be free afterwards, -1, or KEEPS */
    void (*prepare)(void), (*operate)(void);
} operation;

static const operation operations[] = {
    {"cell add", CELL, make_cell, cell_add},
    {"cell subtract", CELL, make_cell, cell_subtract},
    {"cell and", CELL, make_cell_of_twelve, cell_and},
    {"cell or", CELL, make_cell_of_twelve, cell_or},
    {"cell xor", CELL, make_cell_of_twelve, cell_xor},
    {"cell max", CELL, make_cell_of_twelve, cell_max},
    {"cell min", CELL, make_cell_of_twelve, cell_min},
    {"cell add, double", CELL, make_double, cell_add_double},
    {"cell max, double", CELL, make_double, cell_max_double},
    {"cell compare and exchange", CELL, make_cell_of_twelve, cell_exchange},
    {"cell change, notify, wait", CELL, make_cell, cell_tell},
    {"counter add", COUNTER, make_counter, count},
    {"counter exchange", COUNTER, make_counter, take_count},
    {"a user's section", CELL, make_cell, user_section},
    {"array slice", ARRAY, make_array, write_slice},
    {"array slice, after a move", ARRAY, make_moved_array, write_slice},
    {"array fill", ARRAY, make_array, fill_array},
    {"array add to many", ARRAY, make_array, add_to_array},
    {"array append, with room", ARRAY, make_array_with_room, append_item},
    {"array extend, with room", ARRAY, make_array_with_room, extend_array},
    {"array append, lengthened", ARRAY, make_array, append_item},
    {"array append with a move", ARRAY, make_full_array, append_item},
    {"array extend with a second move", ARRAY, make_moved_array, extend_array},
    {"array resize with a move", ARRAY, make_full_array, resize_array},
    {"array cut short", ARRAY, make_moved_array, cut_array},
    {"array, a view of it and a move", ARRAY, make_moved_array, look_at_items},
    {"array dropped after a move", -1, make_moved_array, drop_array},
    {"dict set, one word", TABLE, fill_table, set_int},
    {"dict set, word to block", TABLE, fill_table, set_other_kind},
    {"dict set, block to block", TABLE, fill_table, set_wide},
    {"dict set, block to word", TABLE, fill_table, set_wide_to_int},
    {"dict set, object", TABLE, fill_table, set_object},
    {"dict set, bundle", TABLE, fill_table, set_bundle},
    {"dict set, made ahead", TABLE, fill_table, set_ahead},
    {"dict, a view of a value that is overwritten", TABLE, fill_table, look_and_overwrite},
    {"dict, a view of a value that is deleted", TABLE, put_buffers, look_and_remove},
    {"dict insert", TABLE, fill_table, insert_int},
    {"dict insert, key and value in blocks", TABLE, fill_table, insert_wide},
    {"dict insert with growth", TABLE, fill_to_growth, grow},
    {"dict insert with compaction", TABLE, fill_and_delete, grow},
    {"dict insert with growth over its index", TABLE, fill_to_the_index, grow},
    {"dict set by a hint, one word", TABLE, fill_table, set_int_by_hint},
    {"dict set by a hint, block to block", TABLE, fill_table, set_wide_by_hint},
    {"dict exchange of keys", TABLE, fill_table, exchange},
    {"dict exchange of all keys", TABLE, fill_table, exchange_all},
    {"dict exchange of what was seen", TABLE, fill_table, exchange_seen},
    {"dict increment", TABLE, fill_table, increment},
    {"dict delete", TABLE, fill_table, delete_int},
    {"dict delete, key and value in blocks", TABLE, fill_table, delete_wide},
    {"dict delete, object", TABLE, fill_table, delete_object},
    {"dict pop", TABLE, fill_table, take_wide},
    {"dict clear", TABLE, fill_table, clear_table},
    {"dict update", TABLE, fill_table, update},
    {"dict merge of counts", TABLE, fill_to_growth, merge},
    {"dict update with growth", TABLE, fill_to_growth, update},
    {"list append", VECTOR, fill_vector, append_int},
    {"list append, block", VECTOR, fill_vector, append_wide},
    {"list append, made ahead", VECTOR, fill_vector, append_ahead},
    {"list, a view of an item that is deleted", VECTOR, fill_vector, look_and_delete},
    {"list append, object", VECTOR, fill_vector, append_object},
    {"list append with growth", VECTOR, fill_vector_to_growth, append_wide},
    {"list insert in front", VECTOR, fill_vector, insert_front},
    {"list insert in the middle", VECTOR, fill_vector, insert_middle},
    {"list set", VECTOR, fill_vector, set_item},
    {"list set, word", VECTOR, fill_vector, set_item_int},
    {"list set, word, quickly", VECTOR, fill_vector_of_words, set_word},
    {"list append, word, quickly", VECTOR, fill_vector_of_words, append_word},
    {"list pop, word, quickly", VECTOR, fill_vector_of_words, pop_word},
    {"list pop, last word, quickly", VECTOR, fill_vector_of_one, pop_word},
    {"list extend, words", VECTOR, fill_vector, extend_words},
    {"list extend with growth, words", VECTOR, fill_vector_to_growth, extend_words},
    {"list delete first", VECTOR, fill_vector, delete_first},
    {"list delete in the middle", VECTOR, fill_vector, delete_middle},
    {"list pop", VECTOR, fill_vector, pop_last},
    {"list extend", VECTOR, fill_vector, extend},
    {"list splice, more", VECTOR, fill_vector, splice_more},
    {"list splice, more with growth", VECTOR, fill_vector_to_growth, splice_more},
    {"list splice, fewer", VECTOR, fill_vector, splice_fewer},
    {"list splice, as many", VECTOR, fill_vector, splice_as_many},
    {"list splice, none go", VECTOR, fill_vector, splice_in},
    {"list splice, none come", VECTOR, fill_vector, splice_out},
    {"list splice, words that go", VECTOR, fill_vector_of_words, splice_out},
    {"list splice, the first", VECTOR, fill_vector, splice_first},
    {"list splice, all go", VECTOR, fill_vector, splice_all},
    {"list splice, nearly all go", VECTOR, fill_vector_of_many, splice_most},
    {"list rearranged (sort, extended slices)", VECTOR, fill_vector, rearrange},
    {"semaphore acquire", SEMAPHORE, make_semaphore, acquire},
    {"semaphore release", SEMAPHORE, make_semaphore, release},
    {"event set", EVENT, make_event, set_event},
    {"event clear", EVENT, make_set_event, clear_event},
    {"bounded semaphore acquire", BOUNDED, make_bounded, acquire_bounded},
    {"bounded semaphore release", BOUNDED, make_bounded, release_bounded},
    {"bounded semaphore acquire, of the dead", BOUNDED, make_bounded_of_the_dead, acquire_bounded},
    {"bounded semaphore, a larger ledger", BOUNDED, make_full_ledger, acquire_bounded},
    {"condition wait and give up", WAITERS, make_waiters, come_and_go},
    {"condition notify", WAITERS, make_waiters, notify_one},
    {"condition notify all", WAITERS, make_waiters, notify_all},
    {"condition wait, be notified, pass it on", WAITERS, make_waiters, come_and_be_notified},
    {"condition wait, a chunk more", WAITERS, make_full_waiters, come_and_go},
    {"barrier arrive and leave", BARRIER, make_barrier, arrive},
    {"barrier arrive last", BARRIER, make_nearly_full_barrier, arrive},
    {"barrier arrive last and act", BARRIER, make_nearly_full_barrier, arrive_last_and_act},
    {"barrier abort", BARRIER, make_nearly_full_barrier, abort_barrier},
    {"barrier reset", BARRIER, make_nearly_full_barrier, reset_barrier},
    {"barrier, a death in it", BARRIER, make_dead_barrier, look_for_the_dead},
    {"condition and semaphore made and dropped", -1, fill_table, make_and_drop_waiters},
    {"allocate and free", -1, fill_table, make_and_drop},
    {"allocate with growth of the segment", -1, fill_table, grow_segment},
    {"drop a cycle of containers", -1, make_cycle, drop_cycle},
    {"pickle and unpickle a handle", KEEPS, fill_table, ticket},
    {"more handle slots", KEEPS, fill_table, many_slots},
    {"an heir for a fork", -1, fill_table, an_heir},
    {"leave the segment", ALONE, fill_table, leave},
    {"leave the segment, and unmap it", ALONE, fill_table, leave_for_good},
    {"join, and leave", ALONE, fill_table, join_and_leave},
    {"create a segment", ALONE, fill_and_forget_fresh, create},
    {"create a segment, and name it then", ALONE, fill_and_forget_fresh, create_without_a_name},
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

static const operation *current;

static int breaks(void) { return current->operate == abort_barrier || current->operate == look_for_the_dead; }

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
        fs_run run;
        if (fs_run_make(&heap, array(), &run) != FS_OK)
            die("array", "damaged");
        h = fold(h, &run.count, 8);
        h = fold(h, run.p, run.count * run.size);
    } else if (slot == CELL) {
        h = fold(h, &((fs_cell *)object(CELL))->value, 8);
    } else if (slot == COUNTER) {
        uint64_t value;
        wish(fs_counter_value(counter(), BITS, &value));
        h = fold(h, &value, 8);
    } else if (slot == SEMAPHORE) {
        h = fold(h, &semaphore()->value, 4);
    } else if (slot == EVENT) {
        h = fold(h, &event()->value, 4);
    } else if (slot == BOUNDED) { /* without the dead */
        uint32_t value;
        wish(fs_bounded_value(&me, bounded(), &value));
        h = fold(h, &value, 4);
    } else if (slot == WAITERS) { /* the states of those who live, in their order */
        fs_waiter *x;
        for (fs_each e = {0}; (x = fs_next(&heap, waiters(), &e));) {
            fs_waiter_bury(&me, waiters(), x);
            int notified = fs_is_notified(waiters(), x);
            if (fs_seat_of(x).id == me.id)
                h = fold(h, &notified, 4);
        }
    } else if (slot == BARRIER) {
        if (fs_barrier_look(&me, barrier(), FS_NO_PLACE) != FS_OK)
            die("barrier", "damaged");
        uint64_t inside = fs_barrier_inside(&heap, barrier());
        uint32_t phase = barrier()->phase; /* a death may have broken it, instead of what it was at */
        if (phase == FS_BARRIER_BROKEN && !breaks())
            phase = FS_FILLING;
        h = fold(h, &phase, 4);
        h = fold(h, &inside, 8);
    }
    return h;
}

FS_UNUSED static void drop_all(void) {
    for (int slot = 0; slot <= EXTRA; slot++)
        if (*slot_word(slot))
            wish(fs_drop(&me, slot_word(slot)));
    wish(fs_reap(&me));
}

static uint64_t before, after; /* what is visible, without and with the operation */

/* How much fits before a table grows depends on what lies behind it. So what the operation makes of a preparation is found out when its
 * picture is seen for the first time. */
FS_UNUSED static void prepare(void) {
    static struct {
        uint64_t before, after;
    } known[64];
    static const operation *of;
    static int n;
    if (of != current)
        n = 0;
    of = current;
    for (;;) {
        drop_all();
        current->prepare();
        before = picture(current->slot);
        for (int i = 0; i < n; i++)
            if (known[i].before == before) {
                after = known[i].after;
                return;
            }
        if (n == 64)
            die(current->name, "is never prepared twice alike");
        if (current->slot != ALONE)
            current->operate();
        known[n].before = before;
        known[n++].after = picture(current->slot);
    }
}

#endif
