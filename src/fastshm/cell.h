/* cell.h: waiting until a typed value is another than it was, as C++20's atomic::wait does.
 *
 *   fs_item_wait     sleeps while an item's bits are `old`
 *   fs_item_notify   after a change: wakes one who waits for the item, or all
 *
 * The word to sleep on is `turn` (wait.h), beside the item: whoever waits sets ASLEEP in it and then looks at the item; whoever
 * notifies looks at ASLEEP after the change. Changes themselves do not look at it, so they cost nothing more. Who waits looks
 * again after each nap, too, so a notification that nobody gave, or that a dead one got, is 16 ms lost and no more.
 *
 *   lock of the item     who waits
 *   free, or another's   looks between two equal versions
 *   operation
 *   a user's             sleeps on the lock, not on the turn: what the user has changed so far does not count yet
 *   a dead one's         takes it over, settles, looks
 *   its own              looks; when it would have to sleep, FS_NESTED: nobody else can change the item
 *
 * A change that is taken back before anybody has looked may be missed, as in C++.
 */
#ifndef FASTSHM_CELL_H
#define FASTSHM_CELL_H

#include "item.h"
#include "wait.h"

/* The object's lock, slept for until `deadline`. FS_OK, FS_NESTED, FS_TAKEN_OVER, FS_TIMEOUT, FS_INTERRUPTED. */
FS_COLD static int fs_enter_until(const fs_self *me, fs_lock *l, int64_t deadline) {
    int r = fs_enter(&(fs_self){me->heap, me->id, 0}, l);
    if (r == FS_BUSY && deadline)
        r = fs_lock_wait(me->heap, l, me->id, deadline);
    else if (r == FS_BUSY)
        r = fs_lock_try(me->heap, l, me->id);
    return r == FS_BUSY ? FS_TIMEOUT : r;
}

/* An item's bits: without the lock where that is possible. FS_OK; FS_NESTED, if this thread holds the lock; or as
 * fs_enter_until. */
typedef int (*fs_item_look)(const fs_self *me, fs_object *o, uint64_t which, uint32_t size, int64_t deadline, uint64_t *word);

/* FS_OK once they are not `old`; FS_TIMEOUT; FS_INTERRUPTED (come again with the same patience); FS_NESTED; or what `look`
 * says. */
FS_COLD static int fs_item_wait(const fs_self *me, fs_object *o, uint32_t *turn, fs_item_look look, uint64_t which,
                                uint32_t size, uint64_t old, fs_patience *p) {
    int spins = p->naps || p->deadline == 0 ? 0 : FS_SPINS;
    for (;;) {
        uint64_t word;
        uint32_t t = spins ? 0 : fs_turn_watch(turn, p);
        if (!spins)
            fs_fence_ordered(); /* with that in fs_turn_pass_stored */
        int r = look(me, o, which, size, p->deadline, &word);
        if (r != FS_OK && r != FS_NESTED)
            return r;
        if (word != old)
            return FS_OK;
        if (r == FS_NESTED)
            return p->deadline ? FS_NESTED : FS_TIMEOUT;
        if (spins) {
            spins--;
            fs_pause();
            continue;
        }
        r = fs_nap(turn, t, p);
        if (r != FS_OK)
            return r;
    }
}

static inline void fs_item_notify(uint32_t *turn, int count) { fs_turn_pass_stored(turn, count); }

/* --- cells --------------------------------------------------------------------------------------------------------------- */

static int fs_cell_look(const fs_self *me, fs_object *o, uint64_t which, uint32_t size, int64_t deadline, uint64_t *word) {
    fs_cell *c = (fs_cell *)o;
    uint64_t version = fs_read_begin(&o->lock);
    *word = fs_item_read(&c->value, size);
    if (fs_likely(!(version & 1) && fs_read_valid(&o->lock, version)))
        return FS_OK;
    int entered = fs_enter_until(me, &o->lock, deadline);
    if (entered < 0)
        return entered;
    *word = fs_item_read(&c->value, size);
    if (entered == FS_NESTED)
        return FS_NESTED;
    fs_settle(&o->lock);
    fs_leave(me, &o->lock);
    (void)which;
    return FS_OK;
}

FS_UNUSED static int fs_cell_wait(const fs_self *me, fs_cell *c, uint32_t size, uint64_t old, fs_patience *p) {
    return fs_item_wait(me, &c->o, &c->turn, fs_cell_look, 0, size, old, p);
}

#endif
