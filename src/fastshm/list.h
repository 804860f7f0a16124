/* list.h: what a list does: the changes of vector.h, each with the lock and as one step; copies of one instant; searches.
 *
 * Reading and searching try it without the lock first (peek): then the version, and where items may have been replaced by one
 * store meanwhile the stamp, says whether what was read is of one instant. */
#ifndef FASTSHM_LIST_H
#define FASTSHM_LIST_H

#include "vector.h"

/* --- all of it at one instant -------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t about, value, size;
    uint64_t pin; /* of a value that a handle slot now refers to, whose bytes do not follow: 1 + the slot's index, else 0 */
} fs_item;

typedef struct {
    unsigned char *buffer; /* malloc'ed: each fs_item, then its bytes, to a multiple of 8 */
    uint64_t count;
    uint64_t pins;
} fs_items;

/* Items first, first + step, ... with the lock held. Pins as in fs_table_snapshot. */
static int fs_vector_snapshot(const fs_self *me, const fs_span *s, int64_t first, int64_t step, uint64_t count,
                              const uint64_t *slots, uint64_t pin_room, fs_items *out) {
    fs_heap *heap = me->heap;
    uint64_t size = 0, pinned = 0;
    int r = FS_OK, is_short = fs_is_short(slots, pin_room);
    out->buffer = NULL;
    out->count = count;
    out->pins = 0;
    for (int pass = 0; pass < 2 && count; pass++) {
        unsigned char *to = out->buffer;
        uint64_t left = size;
        for (uint64_t k = 0; k < count; k++) {
            const fs_slot *slot = &s->slots->slot[s->start + (uint64_t)(first + (int64_t)k * step)];
            fs_seen seen;
            if ((r = fs_slot_look(heap, slot, &seen)) != FS_OK)
                goto fail;
            int pin = fs_is_pinned(&seen, is_short);
            uint64_t bytes = fs_owning(seen.kind) && !pin ? seen.size : 0;
            uint64_t whole = sizeof(fs_item) + ((bytes + 7) & ~(uint64_t)7);
            if (pass == 0) {
                size += whole;
                out->pins += (uint64_t)pin;
                continue;
            }
            if (whole > left || (uint64_t)pin > pin_room - pinned) {
                r = FS_CORRUPT; /* changed between the passes, by nobody who has the lock */
                goto fail;
            }
            fs_item *item = (fs_item *)to;
            item->about = seen.kind | (uint64_t)seen.length << 8;
            item->value = seen.value;
            item->size = bytes;
            item->pin = 0;
            if (bytes)
                memcpy(to + sizeof(fs_item), seen.data, bytes);
            if (pin) {
                if ((r = fs_pin(me, seen.value, slots[pinned])) != FS_OK)
                    goto fail;
                item->pin = ++pinned;
            }
            to += whole;
            left -= whole;
        }
        if (pass == 0) {
            if (out->pins > pin_room)
                return FS_RANGE;
            if (!(out->buffer = malloc(size)))
                return FS_PRIVATE_NOMEM;
        }
    }
    return FS_OK;
fail:
    free(out->buffer);
    out->buffer = NULL;
    return r;
}

/* --- operations ---------------------------------------------------------------------------------------------------------- */

#define FS_ANY_STAMP UINT64_MAX /* whatever has changed since the caller looked */

enum { FS_SET_ITEM, FS_INSERT_ITEM, FS_DELETE_ITEM, FS_EXTEND, FS_EXTEND_WORDS };

/* One change of item i, counted from the end when negative; FS_CHANGED when the stamp is another than the caller has seen.
 * `given` are fs_values, or the slots of FS_EXTEND_WORDS. */
FS_UNUSED static int fs_vector_change(const fs_self *me, fs_vector *v, int what, int64_t i, const void *given, uint64_t count,
                                      uint64_t stamp) {
    const fs_value *vals = given;
    fs_span s;
    int entered = fs_vector_enter(me, v, &s);
    if (entered < 0)
        return entered;
    int r = FS_OK;
    int64_t n = (int64_t)s.n;
    if (i < 0)
        i += n;
    if (what == FS_INSERT_ITEM)
        i = i < 0 ? 0 : i > n ? n : i;
    if (stamp != FS_ANY_STAMP && stamp != v->stamp)
        r = FS_CHANGED;
    else if (what == FS_EXTEND_WORDS)
        r = fs_vector_extend_words(me, v, &s, given, count);
    else if (what == FS_EXTEND)
        r = count == 1 ? fs_vector_append(me, v, &s, vals) : fs_vector_extend(me, v, &s, vals, count);
    else if (what == FS_INSERT_ITEM)
        r = fs_vector_insert(me, v, &s, (uint64_t)i, vals);
    else if (i < 0 || i >= n)
        r = FS_RANGE;
    else
        r = what == FS_SET_ITEM ? fs_vector_set(me, v, &s, (uint64_t)i, vals) : fs_vector_delete(me, v, &s, (uint64_t)i);
    fs_vector_leave(me, v, entered);
    return r;
}

/* New contents by a plan that was made of what had this stamp. */
FS_UNUSED static int fs_vector_rearrange(const fs_self *me, fs_vector *v, const int64_t *plan, uint64_t count,
                                         const fs_value *vals, uint64_t stamp) {
    fs_span s;
    int entered = fs_vector_enter(me, v, &s);
    if (entered < 0)
        return entered;
    int r = stamp == v->stamp ? fs_vector_replan(me, v, &s, plan, count, vals) : FS_CHANGED;
    fs_vector_leave(me, v, entered);
    return r;
}

/* Under the lock: item *i, counted from the first from then on. */
static int fs_span_look(fs_heap *heap, const fs_span *s, int64_t *i, fs_seen *seen) {
    if (*i < 0)
        *i += (int64_t)s->n;
    return *i < 0 || *i >= (int64_t)s->n ? FS_RANGE : fs_slot_look(heap, &s->slots->slot[s->start + (uint64_t)*i], seen);
}

/* Under the lock: a copy of one item, and the stamp it was seen at. FS_MISSING when it needs a pin. */
FS_UNUSED static int fs_vector_read(const fs_self *me, fs_vector *v, int64_t i, const uint64_t *pin, fs_copy *out,
                                    uint64_t *stamp) {
    fs_span s;
    fs_seen seen;
    int entered = fs_vector_enter(me, v, &s);
    if (entered < 0)
        return entered;
    int r = fs_span_look(me->heap, &s, &i, &seen);
    *stamp = v->stamp;
    if (r == FS_OK && (r = fs_copy_out(me, &seen, pin, out)) == FS_RANGE)
        r = FS_MISSING; /* a slot */
    fs_vector_leave(me, v, entered);
    return r;
}

/* Takes an item out as one step; `make` as in fs_table_take. */
FS_UNUSED static int fs_vector_take(const fs_self *me, fs_vector *v, int64_t i, fs_maker make, void *out) {
    fs_span s;
    fs_seen seen;
    int entered = fs_vector_enter(me, v, &s);
    if (entered < 0)
        return entered;
    int r = fs_span_look(me->heap, &s, &i, &seen);
    if (r == FS_OK && seen.kind > FS_V_BYTEARRAY_BLOB)
        r = FS_TYPE;
    if (r == FS_OK && (r = make(out, &seen)) == FS_OK)
        r = fs_vector_delete(me, v, &s, (uint64_t)i);
    fs_vector_leave(me, v, entered);
    return r;
}

/* How many items a slice has of n: *start becomes the first of them. As Python's slices: counted from the end when negative,
 * cut off at the ends. */
static inline uint64_t fs_slice(int64_t *start, int64_t stop, int64_t step, int64_t n) {
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n, first = *start;
    if (first < 0)
        first = first + n < low ? low : first + n;
    else if (first > high)
        first = high;
    if (stop < 0)
        stop = stop + n < low ? low : stop + n;
    else if (stop > high)
        stop = high;
    *start = first;
    if (step < 0)
        return stop < first ? (uint64_t)(first - stop - 1) / (uint64_t)-step + 1 : 0;
    return first < stop ? (uint64_t)(stop - first - 1) / (uint64_t)step + 1 : 0;
}

/* A smaller block when few of many slots are in use. Nothing depends on it, so that there is no memory for it is no failure. */
static int fs_vector_shrink(const fs_self *me, fs_vector *v) {
    fs_span s;
    if (v->redo.state != FS_IDLE || fs_span_make(me->heap, v, &s) != FS_OK || s.capacity <= 4 * s.n + 64)
        return FS_OK;
    return fs_vector_grow(me, v, &s, 0) == FS_CORRUPT ? FS_CORRUPT : FS_OK;
}

/* Other items instead of those of a slice (without a step): Python's l[start:stop] = vals. */
FS_UNUSED static int fs_vector_exchange(const fs_self *me, fs_vector *v, int64_t start, int64_t stop, const fs_value *vals,
                                        uint64_t count) {
    fs_span s;
    int entered = fs_vector_enter(me, v, &s);
    if (entered < 0)
        return entered;
    uint64_t gone = fs_slice(&start, stop, 1, (int64_t)s.n);
    int r = !count && gone && gone == s.n ? fs_vector_replan(me, v, &s, NULL, 0, NULL)
                                          : fs_vector_splice(me, v, &s, (uint64_t)start, gone, vals, count);
    if (r == FS_OK && gone > count)
        r = fs_vector_shrink(me, v);
    fs_vector_leave(me, v, entered);
    return r;
}

/* The items of a slice, all of one instant, and the stamp they had. Pins as in fs_table_snapshot. */
FS_UNUSED static int fs_vector_copy(const fs_self *me, fs_vector *v, int64_t start, int64_t stop, int64_t step,
                                    const uint64_t *slots, uint64_t pin_room, fs_items *out, uint64_t *stamp) {
    fs_span s;
    int entered = fs_vector_enter(me, v, &s);
    if (entered < 0)
        return entered;
    *stamp = v->stamp;
    uint64_t count = fs_slice(&start, stop, step, (int64_t)s.n);
    int r = fs_vector_snapshot(me, &s, start, step, count, slots, pin_room, out);
    fs_vector_leave(me, v, entered);
    return r;
}

/* The slots of a slice, all of one instant, for free(); without the lock. FS_TYPE: the first is no word; FS_BUSY: look by the
 * longer way. */
FS_UNUSED static int fs_vector_slots_peek(fs_heap *heap, fs_vector *v, int64_t start, int64_t stop, int64_t step, fs_slot **out,
                                          uint64_t *count, uint64_t *stamp) {
    fs_span s;
    uint64_t version = fs_read_begin(&v->o.lock);
    *stamp = fs_load_acquire(&v->stamp);
    *out = NULL;
    *count = 0;
    if (version & 1 || fs_span_make(heap, v, &s) != FS_OK)
        return FS_BUSY;
    uint64_t n = fs_slice(&start, stop, step, (int64_t)s.n);
    const fs_slot *from = n ? &s.slots->slot[s.start + (uint64_t)start] : NULL;
    if (n && fs_owning(fs_about_kind(fs_load_relaxed(&from->about))))
        return FS_TYPE;
    if (n && !(*out = malloc(n * sizeof(fs_slot))))
        return FS_PRIVATE_NOMEM;
    if (n && step == 1)
        fs_copy_racy(*out, from, n * sizeof(fs_slot));
    else
        for (uint64_t k = 0; k < n; k++)
            fs_copy_racy(*out + k, from + (int64_t)k * step, sizeof(fs_slot));
    if (fs_read_valid(&v->o.lock, version) && fs_load_relaxed(&v->stamp) == *stamp) {
        *count = n;
        return FS_OK;
    }
    free(*out);
    *out = NULL;
    return FS_BUSY;
}

/* --- searching ----------------------------------------------------------------------------------------------------------- */

static inline int fs_int_is_float(int64_t a, double b) {
    return b == (double)a && b >= -0x1p63 && b < 0x1p63 && (int64_t)b == a;
}

static inline int fs_is_number(uint32_t kind) { return kind == FS_V_INT || kind == FS_V_FLOAT || kind == FS_V_BOOL; }

static inline int fs_same_number(uint32_t a_kind, uint64_t a, uint32_t b_kind, uint64_t b) {
    double x, y;
    memcpy(&x, &a, 8);
    memcpy(&y, &b, 8);
    if (a_kind == FS_V_FLOAT)
        return b_kind == FS_V_FLOAT ? x == y : fs_int_is_float((int64_t)b, x);
    return b_kind == FS_V_FLOAT ? fs_int_is_float((int64_t)a, y) : a == b;
}

/* Is the item equal to a number, a text, bytes or None, as Python sees it? 1, 0, or -1: it takes Python to tell. */
static int fs_slot_equals(fs_heap *heap, const fs_slot *slot, const fs_value *wanted) {
    fs_seen seen;
    if (fs_slot_look(heap, slot, &seen) != FS_OK || seen.kind > FS_V_BYTES_BLOB ||
        (seen.kind > FS_V_BYTES && seen.kind < FS_V_OWNING))
        return -1;
    if (fs_is_number(wanted->kind))
        return fs_is_number(seen.kind) && fs_same_number(seen.kind, seen.value, wanted->kind, wanted->value);
    if (seen.kind != wanted->kind)
        return 0;
    if (!fs_owning(seen.kind))
        return seen.length == wanted->length && seen.value == wanted->value;
    return seen.size == wanted->size && fs_same_racy(seen.data, wanted->data, seen.size);
}

/* The first item that is equal: FS_OK and where; FS_MISSING; or FS_TYPE when it takes Python to tell of one before it. */
static int fs_span_seek(fs_heap *heap, const fs_span *s, const fs_value *wanted, uint64_t *at) {
    const fs_slot *slot = s->n ? &s->slots->slot[s->start] : NULL;
    uint64_t about = fs_about(wanted);
    int by_bits = !fs_owning(wanted->kind) && wanted->kind != FS_V_FLOAT;
    for (uint64_t i = 0; i < s->n; i++) {
        int same = by_bits && fs_load_relaxed(&slot[i].about) == about ? fs_load_relaxed(&slot[i].value) == wanted->value
                                                                       : fs_slot_equals(heap, &slot[i], wanted);
        if (same) {
            *at = i;
            return same > 0 ? FS_OK : FS_TYPE;
        }
    }
    return FS_MISSING;
}

/* The same of all items at one instant, and the stamp of that; without the lock, or FS_BUSY. */
FS_UNUSED static int fs_vector_seek_peek(fs_heap *heap, fs_vector *v, const fs_value *wanted, uint64_t *at, uint64_t *stamp) {
    fs_span s;
    uint64_t version = fs_read_begin(&v->o.lock);
    *stamp = fs_load_acquire(&v->stamp);
    if (version & 1 || fs_span_make(heap, v, &s) != FS_OK)
        return FS_BUSY;
    int r = fs_span_seek(heap, &s, wanted, at);
    return fs_read_valid(&v->o.lock, version) && fs_load_relaxed(&v->stamp) == *stamp ? r : FS_BUSY;
}

FS_UNUSED static int fs_vector_seek(const fs_self *me, fs_vector *v, const fs_value *wanted, uint64_t *at, uint64_t *stamp) {
    fs_span s;
    int entered = fs_vector_enter(me, v, &s);
    if (entered < 0)
        return entered;
    *stamp = v->stamp;
    int r = fs_span_seek(me->heap, &s, wanted, at);
    fs_vector_leave(me, v, entered);
    return r;
}

#endif
