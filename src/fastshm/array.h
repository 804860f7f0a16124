/* array.h: typed cells and arrays under their lock.
 *
 * A cell is one cache line: header, lock and eight bytes of value. An item of up to eight bytes is one word (item.h). Wider
 * writes (slices, structures) are staged: the new bytes go to a block of their own, `stage_state` commits, and only then are
 * they copied; whoever finds a committed stage copies it again.
 *
 *   stage_state   stage   meaning                                    repair
 *   0             0       nothing under way
 *   0             RAW     being filled, or copied                    drop it
 *   0             ITEMS   where the items are to move, or have been  drop it
 *   COMMITTED     RAW     the bytes count; copy may be half done     copy (again), drop it
 *   REPEATED      RAW     one item counts, for each of the places    the same
 *
 * An array's items lie behind the struct, or, once it has outgrown its block, in a block of their own, `items`; the capacity is
 * what fits there. Growth makes room first, which is invisible, then writes the new items behind the last, and the store to
 * `count` commits. Moving exchanges `items` and `stage` by one transaction of the heap, with an odd version around it.
 *
 *   invariants  items from `count` on mean nothing; whoever looks without the lock refers to the block that he looks at
 *
 * Single items do not touch the version, so they cost a reader nothing; reading many items as one takes the lock.
 */
#ifndef FASTSHM_ARRAY_H
#define FASTSHM_ARRAY_H

#include "alloc.h"
#include "cell.h"

/* --- where the items are ------------------------------------------------------------------------------------------------ */

/* What was read of an array once, and checked. It stays true while the array's lock is held. */
typedef struct {
    char *p; /* first item */
    uint64_t items, count, capacity, size;
} fs_run;

static int fs_run_make(fs_heap *heap, fs_array *a, fs_run *run) {
    uint64_t items = fs_load_relaxed(&a->items), head = items ? FS_ITEMS_DATA : FS_ARRAY_DATA;
    fs_block *b = items ? fs_kind_at(heap, items, FS_ITEMS, head) : fs_whole_at(heap, fs_offset(heap, a), head);
    run->items = items;
    run->size = fs_load_relaxed(&a->itemsize);
    if (fs_unlikely(!b || !run->size))
        return FS_CORRUPT;
    run->p = (char *)b + head;
    run->count = fs_load_acquire(&a->count);
    uint64_t room = fs_room(heap, b);
    run->capacity = room < head ? 0 : (room - head) / run->size;
    return fs_unlikely(run->count > run->capacity) ? FS_CORRUPT : FS_OK;
}

/* --- settling ------------------------------------------------------------------------------------------------------------ */

/* `count` items to places `step` bytes apart, from one place after another or all from one. */
static inline void fs_spread(char *to, uint64_t step, const char *from, uint64_t size, uint64_t count, int repeated) {
    if (repeated && size <= 8 && !(size & (size - 1))) {
        uint64_t word = fs_item_read(from, (uint32_t)size);
        for (uint64_t i = 0; i < count; i++)
            fs_item_write(to + i * step, (uint32_t)size, word);
    } else if (!repeated && step == size) {
        fs_copy_racy(to, from, count * size);
    } else {
        for (uint64_t i = 0; i < count; i++)
            fs_copy_racy(to + i * step, from + (repeated ? 0 : i * size), size);
    }
}

static inline int fs_array_is_settled(const fs_array *a) { return fs_likely(!(a->stage | a->stage_state)); }

static int fs_array_settle(const fs_self *me, fs_array *a) {
    if (fs_array_is_settled(a))
        return FS_OK;
    uint64_t state = fs_load_relaxed(&a->stage_state);
    if (state) {
        fs_run run;
        uint64_t count = fs_load_relaxed(&a->stage_length), at = fs_load_relaxed(&a->stage_at);
        uint64_t step = fs_load_relaxed(&a->stage_step);
        fs_block *b = fs_kind_at(me->heap, fs_load_relaxed(&a->stage), FS_RAW, FS_HEADER);
        int repeated = state == FS_REPEATED;
        if (!b || (state != FS_COMMITTED && !repeated) || fs_run_make(me->heap, a, &run) != FS_OK || count > run.count ||
            (repeated ? 1 : count) > (fs_room(me->heap, b) - FS_HEADER) / run.size)
            return FS_CORRUPT;
        uint64_t bytes = run.count * run.size;
        if (at % run.size || step % run.size)
            return FS_CORRUPT;
        if (count && (at > bytes - run.size || (step && (count - 1) > (bytes - run.size - at) / step)))
            return FS_CORRUPT;
        fs_write_begin(&a->o.lock);
        fs_spread(run.p + at, step, (const char *)b + FS_HEADER, run.size, count, repeated);
        fs_crash_order();
        a->stage_state = 0;
        fs_crash_order();
    }
    return fs_drop(me, &a->stage);
}

static inline void fs_array_leave(const fs_self *me, fs_object *o, int entered) {
    if (entered != FS_NESTED) {
        fs_settle(&o->lock);
        fs_leave(me, &o->lock);
    }
}

/* After the lock was taken: with no write of others left half done. */
static inline int fs_array_entered(const fs_self *me, fs_array *a, int entered) {
    if (entered < 0)
        return entered;
    int r = fs_array_settle(me, a);
    if (fs_unlikely(r != FS_OK)) {
        /* a stage that could not be dropped yet is no reason to keep readers out */
        if (entered != FS_NESTED) {
            if (!a->stage_state)
                fs_settle(&a->o.lock);
            fs_leave(me, &a->o.lock);
        }
        return r;
    }
    return entered;
}

static inline int fs_array_enter(const fs_self *me, fs_array *a) {
    return fs_array_entered(me, a, fs_enter(me, &a->o.lock));
}

/* --- operations, with the lock held -------------------------------------------------------------------------------------- */

/* A stage of that many bytes, to be filled: it counts once fs_array_commit is called. */
static inline int fs_array_stage(const fs_self *me, fs_array *a, uint64_t bytes, char **to) {
    fs_block *b;
    int r = fs_drop(me, &a->stage); /* what an earlier step of the same section could not drop */
    if (r == FS_OK)
        r = fs_alloc_to(me, bytes, FS_RAW, &a->stage, &b);
    if (r == FS_OK)
        *to = (char *)b + FS_HEADER;
    return r;
}

/* FS_OK once it is committed: what cannot be dropped at once is left to the next operation. */
static inline int fs_array_commit(const fs_self *me, fs_array *a, uint64_t state, uint64_t at, uint64_t count, uint64_t step) {
    a->stage_at = at;
    a->stage_length = count;
    a->stage_step = step;
    fs_crash_order();
    a->stage_state = state;
    fs_crash_order();
    return fs_array_settle(me, a) == FS_CORRUPT ? FS_CORRUPT : FS_OK;
}

/* `count` items of `size` bytes from `source` (contiguous), to item `first`, `step` items apart, as one change. */
FS_UNUSED static int fs_array_write(const fs_self *me, fs_array *a, uint64_t size, uint64_t first, uint64_t step,
                                    uint64_t count, const void *source) {
    fs_run run;
    char *to;
    int r = fs_run_make(me->heap, a, &run);
    if (r != FS_OK || run.size != size)
        return FS_CORRUPT;
    if (!count)
        return FS_OK;
    if (count > run.count || first >= run.count || (count > 1 && step > (run.count - 1 - first) / (count - 1)))
        return FS_RANGE;
    if ((r = fs_array_stage(me, a, count * size, &to)) != FS_OK)
        return r;
    fs_copy_racy(to, source, count * size);
    return fs_array_commit(me, a, FS_COMMITTED, first * size, count, step * size);
}

/* Each item becomes the one in `source`, as one change. */
FS_UNUSED static int fs_array_fill(const fs_self *me, fs_array *a, uint64_t size, const void *source) {
    fs_run run;
    char *to;
    int r = fs_run_make(me->heap, a, &run);
    if (r != FS_OK || run.size != size)
        return FS_CORRUPT;
    if (!run.count)
        return FS_OK;
    if ((r = fs_array_stage(me, a, size, &to)) != FS_OK)
        return r;
    fs_copy_racy(to, source, size);
    return fs_array_commit(me, a, FS_REPEATED, 0, run.count, size);
}

/* Items from `first` on are changed by those in `source`, as one change: each number in them, of `unit` bytes, as
 * fs_item_change does it. */
FS_UNUSED static int fs_array_change(const fs_self *me, fs_array *a, uint64_t size, int form, uint32_t unit, int what,
                                     uint64_t first, uint64_t count, const void *source) {
    fs_run run;
    char *to;
    int r = fs_run_make(me->heap, a, &run);
    if (r != FS_OK || run.size != size)
        return FS_CORRUPT;
    if (first > run.count || count > run.count - first)
        return FS_RANGE;
    if (!count)
        return FS_OK;
    if ((r = fs_array_stage(me, a, count * size, &to)) != FS_OK)
        return r;
    fs_copy_racy(to, run.p + first * size, count * size);
    fs_items_change(to, form, unit, what, source, count * size / unit);
    return fs_array_commit(me, a, FS_COMMITTED, first * size, count, size);
}

/* To a block with room for `capacity` items. */
static int fs_array_move(const fs_self *me, fs_array *a, const fs_run *run, uint64_t capacity) {
    fs_heap *heap = me->heap;
    fs_block *b;
    int r = fs_drop(me, &a->stage);
    if (r == FS_OK)
        r = fs_alloc_to(me, FS_ITEMS_DATA - FS_HEADER + capacity * run->size, FS_ITEMS, &a->stage, &b);
    if (r != FS_OK)
        return r;
    fs_copy_racy((char *)b + FS_ITEMS_DATA, run->p, run->count * run->size);
    fs_write_begin(&a->o.lock); /* the block that readers look at may be another's, soon */
    if ((r = fs_heap_enter(me)) < 0)
        return r;
    fs_set(heap, &a->items, fs_offset(heap, b));
    fs_set(heap, &a->stage, run->items);
    fs_commit(heap);
    fs_heap_leave(me);
    return fs_drop(me, &a->stage) == FS_CORRUPT ? FS_CORRUPT : FS_OK;
}

static int fs_array_make_room(const fs_self *me, fs_array *a, const fs_run *run, uint64_t capacity) {
    uint64_t head = run->items ? FS_ITEMS_DATA : FS_ARRAY_DATA;
    fs_block *b = (fs_block *)(run->p - head);
    if (capacity > (me->heap->size - head) / run->size)
        return FS_NOMEM;
    int r = fs_lengthen(me, b, head - FS_HEADER + capacity * run->size);
    return r == FS_MISSING || r == FS_NOMEM ? fs_array_move(me, a, run, capacity) : r;
}

/* Room for `want` items, and, if there is enough memory, for twice as many as there are. Nothing of it is visible. */
FS_COLD static int fs_array_reserve(const fs_self *me, fs_array *a, fs_run *run, uint64_t want) {
    uint64_t capacity = run->count > want / 2 ? 2 * run->count : want;
    int r = fs_array_make_room(me, a, run, capacity);
    if (r == FS_NOMEM && capacity > want)
        r = fs_array_make_room(me, a, run, want);
    return r == FS_OK ? fs_run_make(me->heap, a, run) : r;
}

/* `count` items more, from `source`. */
static inline int fs_array_extend(const fs_self *me, fs_array *a, uint64_t size, uint64_t count, const void *source) {
    fs_run run;
    int r = fs_run_make(me->heap, a, &run);
    if (fs_unlikely(r != FS_OK || run.size != size))
        return FS_CORRUPT;
    if (fs_unlikely(count > run.capacity - run.count)) {
        if (count > me->heap->size)
            return FS_NOMEM;
        if ((r = fs_array_reserve(me, a, &run, run.count + count)) != FS_OK)
            return r;
    }
    if (count)
        fs_copy_racy(run.p + run.count * size, source, count * size);
    fs_crash_order();
    fs_store_release(&a->count, run.count + count); /* pairs with fs_run_make, and with whoever reads an item */
    return FS_OK;
}

/* `count` items instead of those that there are; new ones are zero. */
FS_UNUSED static int fs_array_resize(const fs_self *me, fs_array *a, uint64_t size, uint64_t count) {
    fs_run run;
    int r = fs_run_make(me->heap, a, &run);
    if (r != FS_OK || run.size != size)
        return FS_CORRUPT;
    if (count > run.capacity && (r = fs_array_reserve(me, a, &run, count)) != FS_OK)
        return r;
    if (count > run.count)
        memset(run.p + run.count * size, 0, (count - run.count) * size);
    else
        fs_write_begin(&a->o.lock); /* who has seen the old count must not read what is prepared there next */
    fs_crash_order();
    fs_store_release(&a->count, count);
    return FS_OK;
}

/* --- waiting ------------------------------------------------------------------------------------------------------------- */

/* fs_item_look at what lies `which` bytes behind the first item's begin; FS_RANGE when no item does. */
static int fs_array_look(const fs_self *me, fs_object *o, uint64_t which, uint32_t size, int64_t deadline, uint64_t *word) {
    fs_array *a = (fs_array *)o;
    fs_run run;
    uint64_t version = fs_read_begin(&o->lock);
    if (!(version & 1) && fs_run_make(me->heap, a, &run) == FS_OK && which < run.count * run.size) {
        *word = fs_item_read(run.p + which, size);
        if (fs_read_valid(&o->lock, version))
            return FS_OK;
    }
    fs_self patient = {me->heap, me->id, deadline != 0};
    int entered = fs_array_entered(&patient, a, fs_enter_until(me, &o->lock, deadline));
    if (entered < 0)
        return entered == FS_BUSY ? FS_TIMEOUT : entered;
    int r = fs_run_make(me->heap, a, &run);
    if (r == FS_OK && which >= run.count * run.size)
        r = FS_RANGE;
    if (r == FS_OK)
        *word = fs_item_read(run.p + which, size);
    fs_array_leave(me, o, entered);
    return r == FS_OK && entered == FS_NESTED ? FS_NESTED : r;
}

FS_UNUSED static int fs_array_wait(const fs_self *me, fs_array *a, uint64_t which, uint32_t size, uint64_t old,
                                   fs_patience *p) {
    return fs_item_wait(me, &a->o, &a->turn, fs_array_look, which, size, old, p);
}

/* --- views --------------------------------------------------------------------------------------------------------------- */

/* A reference of its own to the block that the items are in (unless `slot` is NULL), and where they are. FS_MISSING: none was
 * needed, as they are in the object itself. The array's lock is not needed. */
FS_UNUSED static int fs_array_pin(const fs_self *me, fs_array *a, uint64_t *slot, fs_run *run) {
    int r = fs_heap_enter(me); /* no move comes in between */
    if (r < 0)
        return r;
    r = fs_run_make(me->heap, a, run);
    if (r == FS_OK && (!run->items || !slot)) {
        fs_heap_leave(me);
        return FS_MISSING;
    }
    if (r == FS_OK)
        r = fs_ref_inside(me->heap, (fs_block *)(run->p - FS_ITEMS_DATA), slot);
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_commit(me->heap);
    fs_heap_leave(me);
    return FS_OK;
}

#endif
