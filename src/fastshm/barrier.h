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
 * All of it changes under the object's lock; the store of a place or of the phase is the commit. The one thing that takes two
 * stores, the last one's place and ACTION, leaves a dead one's place if it is cut short. That a phase with nobody inside is
 * over is not written down but seen by whoever comes next (fs_barrier_settle).
 *
 * Whoever dies in its place breaks the barrier, in whatever phase: as one who has arrived it will not take part in what
 * follows; as the one who ran the action nobody knows how far it came; as one who had not yet left it is missed the next time.
 * Those inside each look at the next place after their own when a long nap is over; who waits to arrive looks at all, and so does
 * the last to arrive, for the dead may have been alone.
 */
#ifndef FASTSHM_BARRIER_H
#define FASTSHM_BARRIER_H

#include "wait.h"

enum { FS_FILLING = 0, FS_ACTION = 1, FS_DRAINING = 2, FS_RESETTING = 3, FS_BARRIER_BROKEN = 4 };
enum { FS_STAYS = 0, FS_PASSES = 1, FS_ACTS = 2 }; /* what becomes of one who arrives */

/* How many places there are: as many as parties, at least one. 0 when it is damaged. */
static inline uint64_t fs_barrier_room(const fs_heap *heap, const fs_barrier *b) {
    uint64_t bytes = fs_room(heap, &b->o.block), room = fs_load_relaxed(&b->room);
    int64_t parties = fs_load_relaxed(&b->parties);
    uint64_t most = bytes < sizeof(fs_barrier) ? 0 : (bytes - sizeof(fs_barrier)) / 8;
    return room <= most && room == (parties > 0 ? (uint64_t)parties : 1) ? room : 0;
}

static inline uint64_t fs_barrier_count(const fs_barrier *b, uint64_t room) {
    uint64_t n = 0;
    for (uint64_t i = 0; i < room; i++)
        n += fs_load_relaxed(&b->place[i]) != 0;
    return n;
}

FS_UNUSED static uint64_t fs_barrier_inside(const fs_heap *heap, const fs_barrier *b) {
    return fs_barrier_count(b, fs_barrier_room(heap, b));
}

typedef struct {
    uint64_t room, inside;
    uint32_t phase;
} fs_barrier_state;

/* How it stands. The lock is held. FS_CORRUPT: no places, no phase, or an action that nobody runs. */
static inline int fs_barrier_settle(const fs_heap *heap, fs_barrier *b, fs_barrier_state *s) {
    s->phase = fs_load_relaxed(&b->phase);
    s->room = fs_barrier_room(heap, b);
    s->inside = fs_barrier_count(b, s->room);
    if (!s->room)
        return FS_CORRUPT;
    if (!s->inside && (s->phase == FS_DRAINING || s->phase == FS_RESETTING)) {
        s->phase = FS_FILLING;
        fs_store_release(&b->phase, FS_FILLING);
    }
    return s->phase > FS_BARRIER_BROKEN || (!s->inside && s->phase == FS_ACTION) ? FS_CORRUPT : FS_OK;
}

static inline int fs_barrier_is_in(const fs_self *me, const fs_barrier *b, uint64_t place) {
    return place < fs_barrier_room(me->heap, b) && fs_load_relaxed(&b->place[place]) == me->id;
}

/* Can nobody living be in this place? */
FS_COLD static int fs_place_is_dead(const fs_self *me, uint64_t id) {
    return id && id != me->id && (id > FS_LAST_ID || !fs_alive(me->heap, (uint32_t)id));
}

/* Frees the places of the dead. */
FS_COLD static int fs_barrier_bury(const fs_self *me, fs_barrier *b) {
    fs_barrier_state s;
    uint64_t room = fs_barrier_room(me->heap, b);
    for (uint64_t i = 0; i < room; i++) {
        if (!fs_place_is_dead(me, fs_load_relaxed(&b->place[i])))
            continue;
        if (fs_load_relaxed(&b->phase) <= FS_DRAINING)
            fs_store_release(&b->phase, FS_BARRIER_BROKEN);
        fs_crash_order();
        fs_store_release(&b->place[i], 0);
    }
    return fs_barrier_settle(me->heap, b, &s);
}

/* FS_OK: in place, with its index and what becomes of it. FS_MISSING: no place yet. FS_CHANGED: broken. */
FS_UNUSED static int fs_barrier_arrive(const fs_self *me, fs_barrier *b, int has_action, uint64_t *place, uint64_t *index,
                                       int *fate) {
    int entered = fs_enter(me, &b->o.lock), let_go = 0;
    if (entered < 0)
        return entered;
    fs_barrier_state s;
    uint64_t i = 0;
    int r = fs_barrier_settle(me->heap, b, &s), last = (int64_t)s.inside + 1 == fs_load_relaxed(&b->parties);
    if (r == FS_OK && last && s.phase == FS_FILLING && s.inside) {
        fs_barrier_bury(me, b);
        r = fs_barrier_settle(me->heap, b, &s);
        let_go = s.phase == FS_BARRIER_BROKEN;
    }
    while (i < s.room && fs_load_relaxed(&b->place[i]))
        i++;
    if (r != FS_OK) {
    } else if (s.phase == FS_BARRIER_BROKEN) {
        r = FS_CHANGED;
    } else if (s.phase != FS_FILLING || i == s.room) {
        r = FS_MISSING;
    } else if (last && !has_action) {
        *fate = FS_PASSES;
        let_go = s.inside != 0;
        if (s.inside)
            fs_store_release(&b->phase, FS_DRAINING);
    } else {
        *fate = last ? FS_ACTS : FS_STAYS;
        fs_store_release(&b->place[i], me->id);
        fs_crash_order();
        if (last)
            fs_store_release(&b->phase, FS_ACTION);
    }
    *place = i;
    *index = s.inside;
    fs_leave_entered(me, &b->o.lock, entered);
    if (let_go)
        fs_turn_pass_stored(&b->turn, FS_ALL);
    return r;
}

/* The one who ran the action: FS_OK, FS_CHANGED when the barrier was broken meanwhile. */
FS_UNUSED static int fs_barrier_acted(const fs_self *me, fs_barrier *b, uint64_t place) {
    int entered = fs_enter(me, &b->o.lock), r = FS_OK;
    if (entered < 0)
        return entered;
    fs_barrier_state s;
    if (fs_load_relaxed(&b->phase) == FS_ACTION)
        fs_store_release(&b->phase, FS_DRAINING);
    else
        r = FS_CHANGED;
    fs_crash_order();
    if (fs_barrier_is_in(me, b, place))
        fs_store_release(&b->place[place], 0);
    fs_barrier_settle(me->heap, b, &s);
    fs_leave_entered(me, &b->o.lock, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return r;
}

/* Out of its place, at the end of its wait. */
FS_UNUSED static int fs_barrier_leave(const fs_self *me, fs_barrier *b, uint64_t place) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    uint32_t before = fs_load_relaxed(&b->phase);
    fs_barrier_state s;
    if (fs_barrier_is_in(me, b, place))
        fs_store_release(&b->place[place], 0);
    int r = fs_barrier_settle(me->heap, b, &s);
    fs_leave_entered(me, &b->o.lock, entered);
    if (s.phase != before)
        fs_turn_pass_stored(&b->turn, FS_ALL);
    return r;
}

/* Its time is over: that breaks the barrier if it is still being filled. */
FS_UNUSED static int fs_barrier_late(const fs_self *me, fs_barrier *b) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    if (fs_load_relaxed(&b->phase) == FS_FILLING)
        fs_store_release(&b->phase, FS_BARRIER_BROKEN);
    fs_leave_entered(me, &b->o.lock, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return FS_OK;
}

FS_UNUSED static int fs_barrier_abort(const fs_self *me, fs_barrier *b) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    fs_store_release(&b->phase, FS_BARRIER_BROKEN);
    fs_leave_entered(me, &b->o.lock, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return FS_OK;
}

FS_UNUSED static int fs_barrier_reset(const fs_self *me, fs_barrier *b) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    fs_barrier_state s;
    if (fs_barrier_inside(me->heap, b))
        fs_barrier_bury(me, b);
    fs_barrier_settle(me->heap, b, &s);
    if (!s.inside)
        fs_store_release(&b->phase, FS_FILLING);
    else if (s.phase == FS_FILLING || s.phase >= FS_BARRIER_BROKEN) /* or none at all: that is mended */
        fs_store_release(&b->phase, FS_RESETTING);
    int r = s.room ? FS_OK : FS_CORRUPT;
    fs_leave_entered(me, &b->o.lock, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return r;
}

/* Looks for the dead: all of them, or in the place after one's own. */
FS_COLD static int fs_barrier_look(const fs_self *me, fs_barrier *b, uint64_t place) {
    uint64_t room = fs_barrier_room(me->heap, b);
    if (place < room) {
        uint64_t i = place, id;
        do {
            i = i + 1 < room ? i + 1 : 0;
            id = fs_load_relaxed(&b->place[i]);
        } while (!id && i != place);
        if (i == place || !fs_place_is_dead(me, id))
            return FS_OK;
    }
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    int r = fs_barrier_bury(me, b);
    fs_leave_entered(me, &b->o.lock, entered);
    fs_turn_pass_stored(&b->turn, FS_ALL);
    return r;
}

#define FS_NO_PLACE UINT64_MAX

/* In one's place, until it is let go: FS_OK, FS_CHANGED (broken), FS_TIMEOUT, FS_INTERRUPTED (come again). Without one, a nap
 * until it is worth trying to arrive. FS_CORRUPT: there is no such phase or no place, the place is not one's own any more, or
 * one is alone with an action that somebody else would have to run. */
FS_COLD static int fs_barrier_wait(const fs_self *me, fs_barrier *b, uint64_t place, fs_patience *p) {
    int has_place = place != FS_NO_PLACE;
    for (;;) {
        uint32_t t = fs_turn_watch(&b->turn, p), phase = fs_load_ordered(&b->phase);
        uint64_t room = fs_barrier_room(me->heap, b);
        if (has_place ? phase == FS_DRAINING : phase == FS_FILLING && fs_barrier_count(b, room) < room)
            return FS_OK;
        if (phase == FS_BARRIER_BROKEN || (phase == FS_RESETTING && has_place))
            return FS_CHANGED;
        if (!room || phase > FS_BARRIER_BROKEN || (has_place && !fs_barrier_is_in(me, b, place)))
            return FS_CORRUPT;
        if (phase == FS_ACTION && has_place && fs_barrier_count(b, room) < 2 && fs_load_acquire(&b->phase) == FS_ACTION)
            return FS_CORRUPT;
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
