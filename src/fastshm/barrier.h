/* barrier.h: a barrier that breaks when one of those in it dies.
 *
 *   place[]   the thread ids of those who have arrived and not yet left; `phase` says how it stands with them
 *
 *   phase       arriving                    those inside         becomes
 *   FILLING     takes a place               sleep                the last one arrives: DRAINING, or ACTION if it has one to run
 *   ACTION      waits                       sleep                the last one has run it: DRAINING
 *   DRAINING    waits                       leave                the last one has left: FILLING
 *   RESETTING   waits                       leave with an error  the last one has left: FILLING
 *   BROKEN      an error                    leave with an error  reset: RESETTING, or FILLING when nobody is inside
 *
 * All of it changes under the object's lock; the store of a place or of the phase is the commit. The one thing that takes two stores,
 * the last one's place and ACTION, leaves a dead one's place if it is cut short. That a phase with nobody inside is over is not
 * written down but seen by whoever comes next (fs_barrier_settle).
 *
 * Whoever dies in its place breaks the barrier, in whatever phase: as one who has arrived it will not take part in what follows; as
 * the one who ran the action nobody knows how far it came; as one who had not yet left it is missed the next time. Those
 * inside each look at the next place after their own when a long nap is over; who waits to arrive looks at all.
 */
#ifndef FASTSHM_BARRIER_H
#define FASTSHM_BARRIER_H

#include "wait.h"

enum { FS_FILLING = 0, FS_ACTION = 1, FS_DRAINING = 2, FS_RESETTING = 3, FS_BARRIER_BROKEN = 4 };
enum { FS_STAYS = 0, FS_PASSES = 1, FS_ACTS = 2 }; /* what becomes of one who arrives */

/* As many places as there really are. */
static inline uint64_t fs_barrier_room(const fs_barrier *b) {
    uint64_t most = ((uint64_t)b->o.block.size * FS_GRAIN - sizeof(fs_barrier)) / 8;
    return b->room < most ? b->room : most;
}

static inline uint64_t fs_barrier_inside(const fs_barrier *b) {
    uint64_t n = 0;
    for (uint64_t i = 0; i < fs_barrier_room(b); i++)
        n += fs_load_relaxed(&b->place[i]) != 0;
    return n;
}

/* How many are inside. The lock is held. */
static inline uint64_t fs_barrier_settle(fs_barrier *b) {
    uint64_t n = fs_barrier_inside(b);
    if (!n && (b->phase == FS_DRAINING || b->phase == FS_RESETTING))
        fs_store_release(&b->phase, FS_FILLING);
    return n;
}

/* Frees the places of the dead. */
FS_COLD static void fs_barrier_bury(const fs_self *me, fs_barrier *b) {
    for (uint64_t i = 0; i < fs_barrier_room(b); i++) {
        uint32_t id = (uint32_t)b->place[i];
        if (!id || id == me->id || fs_alive(me->heap, id))
            continue;
        if (b->phase <= FS_DRAINING)
            fs_store_release(&b->phase, FS_BARRIER_BROKEN);
        fs_crash_order();
        fs_store_release(&b->place[i], 0);
    }
    fs_barrier_settle(b);
}

static inline void fs_barrier_leave_lock(const fs_self *me, fs_barrier *b, int entered) {
    if (entered != FS_NESTED)
        fs_leave(me, &b->o.lock);
}

/* FS_OK: in place, with its index and what becomes of it. FS_MISSING: no place yet. FS_CHANGED: broken. */
FS_UNUSED static int fs_barrier_arrive(const fs_self *me, fs_barrier *b, int has_action, uint64_t *place, uint64_t *index, int *fate) {
    int entered = fs_enter(me, &b->o.lock), r = FS_OK;
    if (entered < 0)
        return entered;
    uint64_t n = fs_barrier_settle(b), room = fs_barrier_room(b), i = 0;
    int last = (int64_t)n + 1 == b->parties, let_go = 0;
    while (i < room && b->place[i])
        i++;
    if (b->phase == FS_BARRIER_BROKEN) {
        r = FS_CHANGED;
    } else if (b->phase != FS_FILLING || i == room) {
        r = FS_MISSING;
    } else if (last && !has_action) {
        *fate = FS_PASSES;
        let_go = n != 0;
        if (let_go)
            fs_store_release(&b->phase, FS_DRAINING);
    } else {
        *fate = last ? FS_ACTS : FS_STAYS;
        fs_store_release(&b->place[i], me->id);
        fs_crash_order();
        if (last)
            fs_store_release(&b->phase, FS_ACTION);
    }
    *place = i;
    *index = n;
    fs_barrier_leave_lock(me, b, entered);
    if (let_go)
        fs_turn_pass_stored(&b->turn, FS_ALL);
    return r;
}

/* The one who ran the action: FS_OK, FS_CHANGED when the barrier was broken meanwhile. */
FS_UNUSED static int fs_barrier_acted(const fs_self *me, fs_barrier *b, uint64_t place) {
    int entered = fs_enter(me, &b->o.lock), r = FS_OK;
    if (entered < 0)
        return entered;
    if (b->phase == FS_ACTION)
        fs_store_release(&b->phase, FS_DRAINING);
    else
        r = FS_CHANGED;
    fs_crash_order();
    if (place < fs_barrier_room(b) && b->place[place] == me->id)
        fs_store_release(&b->place[place], 0);
    fs_barrier_settle(b);
    fs_barrier_leave_lock(me, b, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return r;
}

/* Out of its place, at the end of its wait. */
FS_UNUSED static int fs_barrier_leave(const fs_self *me, fs_barrier *b, uint64_t place) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    uint32_t before = b->phase;
    if (place < fs_barrier_room(b) && b->place[place] == me->id)
        fs_store_release(&b->place[place], 0);
    fs_barrier_settle(b);
    int over = b->phase != before;
    fs_barrier_leave_lock(me, b, entered);
    if (over)
        fs_turn_pass_stored(&b->turn, FS_ALL);
    return FS_OK;
}

/* Its time is over: that breaks the barrier if it is still being filled. */
FS_UNUSED static int fs_barrier_late(const fs_self *me, fs_barrier *b) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    if (b->phase == FS_FILLING)
        fs_store_release(&b->phase, FS_BARRIER_BROKEN);
    fs_barrier_leave_lock(me, b, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return FS_OK;
}

FS_UNUSED static int fs_barrier_abort(const fs_self *me, fs_barrier *b) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    fs_store_release(&b->phase, FS_BARRIER_BROKEN);
    fs_barrier_leave_lock(me, b, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return FS_OK;
}

FS_UNUSED static int fs_barrier_reset(const fs_self *me, fs_barrier *b) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    if (fs_barrier_inside(b))
        fs_barrier_bury(me, b);
    if (!fs_barrier_settle(b))
        fs_store_release(&b->phase, FS_FILLING);
    else if (b->phase == FS_FILLING || b->phase == FS_BARRIER_BROKEN)
        fs_store_release(&b->phase, FS_RESETTING);
    fs_barrier_leave_lock(me, b, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return FS_OK;
}

/* Looks for the dead: all of them, or in the place after one's own. */
FS_COLD static int fs_barrier_look(const fs_self *me, fs_barrier *b, uint64_t place) {
    uint64_t room = fs_barrier_room(b);
    if (place < room) {
        uint64_t i = place;
        uint32_t id;
        do {
            i = i + 1 < room ? i + 1 : 0;
            id = (uint32_t)fs_load_relaxed(&b->place[i]);
        } while (!id && i != place);
        if (!id || i == place || fs_alive(me->heap, id))
            return FS_OK;
    }
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    fs_barrier_bury(me, b);
    fs_barrier_leave_lock(me, b, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return FS_OK;
}

#define FS_NO_PLACE UINT64_MAX

/* In one's place, until it is let go: FS_OK, FS_CHANGED (broken), FS_TIMEOUT, FS_INTERRUPTED (come again). Without one, a nap until
 * it is worth trying to arrive. */
FS_COLD static int fs_barrier_wait(const fs_self *me, fs_barrier *b, uint64_t place, fs_patience *p) {
    for (;;) {
        uint32_t t = fs_turn_watch(&b->turn, p), phase = fs_load_ordered(&b->phase);
        if (place == FS_NO_PLACE ? phase == FS_FILLING && fs_barrier_inside(b) < fs_barrier_room(b) : phase == FS_DRAINING)
            return FS_OK;
        if (phase == FS_BARRIER_BROKEN || (phase == FS_RESETTING && place != FS_NO_PLACE))
            return FS_CHANGED;
        fs_patience endless = {-1, p->naps}, *how = phase == FS_ACTION ? &endless : p; /* an action is waited for to its end */
        int r = fs_nap(&b->turn, t, how);
        p->naps = how->naps;
        if (r == FS_INTERRUPTED && p->naps >= 4) {
            int looked = fs_barrier_look(me, b, place);
            if (looked != FS_OK && looked != FS_BUSY && looked != FS_INTERRUPTED)
                return looked;
        }
        if (r != FS_OK)
            return r;
    }
}

#endif
