/* array.h: typed cells and arrays under their lock.
 *
 * A cell is one cache line: header, lock and eight bytes of value. An item of up to eight bytes is one word (item.h). Wider writes (slices, structures) are staged: the new bytes go to a
 * block of their own, `stage_state` commits, and only then are they copied; whoever finds a committed stage copies it again.
 *
 *   stage_state   stage   meaning                                  repair
 *   0             0       nothing under way
 *   0             block   being filled                             drop it
 *   COMMITTED     block   the bytes count; copy may be half done   copy (again), drop it
 *
 * Single items do not touch the version, so they cost a reader nothing; reading many items as one takes the lock.
 */
#ifndef FASTSHM_ARRAY_H
#define FASTSHM_ARRAY_H

#include "alloc.h"
#include "item.h"

static inline char *fs_array_data(fs_array *a) { return (char *)a + FS_ARRAY_DATA; }

static int fs_array_settle(const fs_self *me, fs_array *a) {
    if (fs_likely(!a->stage && !a->stage_state))
        return FS_OK;
    if (a->stage_state == FS_COMMITTED) {
        uint64_t size = fs_load_relaxed(&a->itemsize), count = fs_load_relaxed(&a->stage_length);
        uint64_t step = fs_load_relaxed(&a->stage_step), at = fs_load_relaxed(&a->stage_at), all = fs_load_relaxed(&a->count);
        fs_block *b = fs_kind_at(me->heap, a->stage, FS_RAW, 0);
        uint64_t most = fs_room(me->heap, &a->o.block);
        if (!b || !size || most < FS_ARRAY_DATA || all > (most - FS_ARRAY_DATA) / size || count > all ||
            count > (fs_room(me->heap, b) - FS_HEADER) / size)
            return FS_CORRUPT;
        uint64_t room = all * size;
        if (count && (at > room - size || (step && (count - 1) > (room - size - at) / step)))
            return FS_CORRUPT;
        fs_write_begin(&a->o.lock);
        char *to = fs_array_data(a) + at;
        const char *from = (const char *)b + FS_HEADER;
        if (step == size)
            fs_copy_racy(to, from, count * size);
        else
            for (uint64_t i = 0; i < count; i++)
                fs_copy_racy(to + i * step, from + i * size, size);
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

static inline int fs_array_enter(const fs_self *me, fs_array *a) {
    int entered = fs_enter(me, &a->o.lock);
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

/* `count` items of `size` bytes from `source` (contiguous), to item `first`, `step` items apart, as one change. The lock is held. */
FS_UNUSED static int fs_array_write(const fs_self *me, fs_array *a, uint64_t size, uint64_t first, uint64_t step, uint64_t count,
                                    const void *source) {
    fs_block *b;
    if (a->itemsize != size)
        return FS_CORRUPT;
    if (!count)
        return FS_OK;
    int r = fs_alloc_to(me, count * size, FS_RAW, &a->stage, &b);
    if (r != FS_OK)
        return r;
    memcpy((char *)b + FS_HEADER, source, count * size);
    a->stage_at = first * size;
    a->stage_length = count;
    a->stage_step = step * size;
    fs_crash_order();
    a->stage_state = FS_COMMITTED;
    fs_crash_order();
    return fs_array_settle(me, a) == FS_CORRUPT ? FS_CORRUPT : FS_OK;
}

#endif
