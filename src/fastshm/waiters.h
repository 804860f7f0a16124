/* waiters.h: who waits at a condition, in the order of coming.
 *
 *   seat       { state, thread id }, one word; and its number, the order of coming
 *   released   every seat with a lower number is notified: notify(n) finds the n first that live and stores ONE word, the
 *              commit
 *   everybody  those with a lower number were notified together with all others that there were
 *
 *   a seat             means                        leaves it                                    when its thread dies
 *   0                  unused
 *   WAITING, number    asleep on `state`            its thread gives up -> 0; `released` moves   is passed over, and freed
 *     >= released
 *   number < released  notified; AWAKE once it has  its thread has the lock again -> 0           the notification goes to the
 *                      been woken                                                                next, if it was not for all;
 *                                                                                                is freed
 *
 * Seats are in chunks that never move, because their threads sleep on them. They are taken, given up and notified under the
 * object's lock. The user's lock plays no part: a condition is whole, whatever becomes of that.
 *
 * A notification counts once its receiver holds the user's lock again. Until then its seat says who it is, and if it is killed,
 * another waiter sees that: after each long nap, each looks at the next seat after its own. Nobody looks at more than one, so
 * waiting costs the same however many wait.
 */
#ifndef FASTSHM_WAITERS_H
#define FASTSHM_WAITERS_H

#include "alloc.h"
#include "wait.h"

enum { FS_WAITING = 1, FS_AWAKE = 2 };

static inline uint64_t fs_chunk_places(unsigned i) { return ((FS_WAITERS_FIRST + 1ull) << i) - 1; }

/* The places of chunk i; NULL when it is damaged. */
static inline fs_waiter *fs_chunk(fs_heap *heap, const fs_waiters *w, unsigned i) {
    fs_block *raw = fs_kind_at(heap, w->chunk[i], FS_RAW, FS_HEADER + fs_chunk_places(i) * sizeof(fs_waiter));
    return raw ? (fs_waiter *)((char *)raw + FS_HEADER) : NULL;
}

static inline unsigned fs_chunks(const fs_waiters *w) {
    uint64_t n = fs_load_acquire(&w->chunks);
    return n < FS_WAITER_CHUNKS ? (unsigned)n : FS_WAITER_CHUNKS;
}

/* Are all chunks there that count? Else who is not seen would not be notified. */
FS_UNUSED static int fs_waiters_are_whole(fs_heap *heap, const fs_waiters *w) {
    uint64_t n = fs_load_acquire(&w->chunks);
    int r = n > FS_WAITER_CHUNKS ? FS_CORRUPT : FS_OK;
    for (unsigned i = 0; r == FS_OK && i < n; i++)
        r = fs_chunk(heap, w, i) ? FS_OK : FS_CORRUPT;
    return r;
}

FS_UNUSED static fs_waiter *fs_waiter_at(fs_heap *heap, const fs_waiters *w, uint64_t n) {
    for (unsigned i = 0; i < fs_chunks(w); n -= fs_chunk_places(i++))
        if (n < fs_chunk_places(i)) {
            fs_waiter *first = fs_chunk(heap, w, i);
            return first ? first + n : NULL;
        }
    return NULL;
}

/* Each place in turn: `for (fs_each e = {0}; (x = fs_next(heap, w, &e));)` */
typedef struct {
    unsigned chunk;
    uint64_t place, number; /* in its chunk, of the next one; in all, of this one plus 1 */
    fs_waiter *first;
} fs_each;

static inline fs_waiter *fs_next(fs_heap *heap, const fs_waiters *w, fs_each *e) {
    if (e->first && e->place == fs_chunk_places(e->chunk)) {
        e->chunk++;
        e->place = 0;
        e->first = NULL;
    }
    if (!e->first && (e->chunk >= fs_chunks(w) || !(e->first = fs_chunk(heap, w, e->chunk))))
        return NULL;
    e->number++;
    return &e->first[e->place++];
}

static inline fs_seat fs_seat_of(const fs_waiter *x) {
    fs_seat p;
    p.word = fs_load_acquire(&x->seat.word);
    return p;
}

/* Is the thread in this seat notified? */
static inline int fs_is_notified(const fs_waiters *w, const fs_waiter *x) {
    return x->number < fs_load_acquire(&w->released);
}

FS_UNUSED static uint64_t fs_waiters_count(fs_heap *heap, const fs_waiters *w) {
    uint64_t n = 0;
    fs_waiter *x;
    for (fs_each e = {0}; (x = fs_next(heap, w, &e));)
        n += fs_seat_of(x).word && !fs_is_notified(w, x);
    return n;
}

/* The first `n` that wait and live, or all, are notified. The lock is held. */
FS_UNUSED static void fs_notify_inside(const fs_self *me, fs_waiters *w, uint64_t n) {
    fs_heap *heap = me->heap;
    fs_waiter *x;
    uint64_t released = w->released;
    int all = n >= fs_waiters_count(heap, w);
    if (all)
        released = w->numbers;
    while (n && !all) {
        fs_waiter *first = NULL;
        for (fs_each e = {0}; (x = fs_next(heap, w, &e));)
            if (fs_seat_of(x).word && x->number >= released && (!first || x->number < first->number))
                first = x;
        if (!first)
            break;
        if (fs_alive(heap, fs_seat_of(first).id)) {
            released = first->number + 1;
            n--;
        } else {
            fs_store_release(&first->seat.word, 0);
        }
    }
    fs_store_release(&w->released, released);
    fs_crash_order();
    if (all)
        w->everybody = released;
    for (fs_each e = {0}; (x = fs_next(heap, w, &e));) {
        fs_seat p = fs_seat_of(x);
        if (p.state == FS_WAITING && fs_is_notified(w, x) && fs_cas_u64(&x->seat.word, p.word, fs_pair(FS_AWAKE, p.id)))
            fs_wake(&x->seat.state, 1);
    }
}

FS_UNUSED static int fs_waiters_notify(const fs_self *me, fs_waiters *w, uint64_t n) {
    if (!fs_load_acquire(&w->chunks))
        return FS_OK;
    int entered = fs_enter(me, &w->o.lock);
    if (entered < 0)
        return entered;
    int r = fs_waiters_are_whole(me->heap, w);
    if (r == FS_OK)
        fs_notify_inside(me, w, n);
    fs_leave_entered(me, &w->o.lock, entered);
    return r;
}

/* Frees a place whose thread is dead; a notification that it had not made use of goes to the next. The lock is held. */
FS_UNUSED static int fs_waiter_bury(const fs_self *me, fs_waiters *w, fs_waiter *x) {
    fs_seat p = fs_seat_of(x);
    if (!p.word || p.id == me->id || fs_alive(me->heap, p.id))
        return 0;
    if (fs_is_notified(w, x) && x->number >= w->everybody)
        fs_notify_inside(me, w, 1);
    fs_store_release(&x->seat.word, 0);
    return 1;
}

/* A chunk more. The lock is held. */
FS_COLD static int fs_waiters_grow(const fs_self *me, fs_waiters *w) {
    unsigned i = fs_chunks(w);
    fs_block *raw;
    if (i == FS_WAITER_CHUNKS)
        return FS_NOMEM;
    if (!w->chunk[i]) {
        int r = fs_alloc_to(me, fs_chunk_places(i) * sizeof(fs_waiter), FS_RAW, &w->chunk[i], &raw);
        if (r != FS_OK)
            return r;
    }
    fs_waiter *first = fs_chunk(me->heap, w, i); /* perhaps of one who was killed before it counted */
    if (!first)
        return FS_CORRUPT;
    memset(first, 0, fs_chunk_places(i) * sizeof(fs_waiter));
    fs_crash_order();
    fs_store_release(&w->chunks, i + 1);
    return FS_OK;
}

FS_UNUSED static fs_waiter *fs_waiter_unused(fs_heap *heap, fs_waiters *w, uint64_t *n) {
    fs_waiter *x;
    for (fs_each e = {0}; (x = fs_next(heap, w, &e));)
        if (!fs_load_relaxed(&x->seat.word)) {
            *n = e.number - 1;
            return x;
        }
    return NULL;
}

/* A place for the calling thread, which will be notified from now on. */
FS_UNUSED static int fs_waiters_join(const fs_self *me, fs_waiters *w, uint64_t *n) {
    int entered = fs_enter(me, &w->o.lock);
    if (entered < 0)
        return entered;
    int r = fs_waiters_are_whole(me->heap, w);
    fs_waiter *x = r == FS_OK ? fs_waiter_unused(me->heap, w, n) : NULL, *y;
    if (r == FS_OK && !x) {
        int freed = 0;
        for (fs_each e = {0}; (y = fs_next(me->heap, w, &e));)
            freed += fs_waiter_bury(me, w, y);
        if (!freed)
            r = fs_waiters_grow(me, w);
        x = fs_waiter_unused(me->heap, w, n);
    }
    if (r == FS_OK && !x)
        r = FS_CORRUPT;
    if (r == FS_OK) {
        x->number = w->numbers++;
        fs_crash_order();
        fs_store_release(&x->seat.word, fs_pair(FS_WAITING, me->id));
    }
    fs_leave_entered(me, &w->o.lock, entered);
    return r;
}

/* The next place in use after the n-th: has its thread died? */
FS_COLD static int fs_waiters_look(const fs_self *me, fs_waiters *w, uint64_t n) {
    fs_waiter *x, *before = NULL, *after = NULL;
    for (fs_each e = {0}; !after && (x = fs_next(me->heap, w, &e));)
        if (e.number - 1 != n && fs_load_relaxed(&x->seat.word)) {
            if (e.number - 1 > n)
                after = x;
            else if (!before)
                before = x;
        }
    x = after ? after : before;
    fs_seat p = {{0}};
    if (x)
        p = fs_seat_of(x);
    if (!p.word || fs_alive(me->heap, p.id))
        return FS_OK;
    int entered = fs_enter(me, &w->o.lock);
    if (entered < 0)
        return entered;
    fs_waiter_bury(me, w, x);
    fs_leave_entered(me, &w->o.lock, entered);
    return FS_OK;
}

/* Until notified: FS_OK, FS_TIMEOUT, FS_INTERRUPTED (come again with the same patience). */
FS_COLD static int fs_waiters_wait(const fs_self *me, fs_waiters *w, uint64_t n, fs_patience *p) {
    fs_waiter *x = fs_waiter_at(me->heap, w, n);
    if (!x)
        return FS_CORRUPT;
    for (;;) {
        fs_seat seat = fs_seat_of(x);
        if (seat.id != me->id)
            return FS_CORRUPT;
        if (seat.state != FS_WAITING || fs_is_notified(w, x))
            return FS_OK;
        int r = fs_nap(&x->seat.state, FS_WAITING, p);
        if (r == FS_INTERRUPTED && p->naps >= 4) {
            int looked = fs_waiters_look(me, w, n);
            if (looked != FS_OK && looked != FS_BUSY && looked != FS_INTERRUPTED)
                return looked;
        }
        if (r != FS_OK)
            return r;
    }
}

/* No more waiting: FS_OK when it was in vain, FS_EXISTS when notified meanwhile. */
FS_UNUSED static int fs_waiters_give_up(const fs_self *me, fs_waiters *w, uint64_t n) {
    fs_waiter *x = fs_waiter_at(me->heap, w, n);
    if (!x)
        return FS_CORRUPT;
    int entered = fs_enter(me, &w->o.lock);
    if (entered < 0)
        return entered;
    int notified = fs_is_notified(w, x);
    if (!notified && fs_seat_of(x).id == me->id)
        fs_store_release(&x->seat.word, 0);
    fs_leave_entered(me, &w->o.lock, entered);
    return notified ? FS_EXISTS : FS_OK;
}

/* The notified thread makes use of it, or, with `pass`, cannot: then it is the next one's. */
FS_UNUSED static int fs_waiters_done(const fs_self *me, fs_waiters *w, uint64_t n, int pass) {
    fs_waiter *x = fs_waiter_at(me->heap, w, n);
    if (!x)
        return FS_CORRUPT;
    if (fs_seat_of(x).id != me->id)
        return FS_OK;
    if (!pass) {
        fs_store_release(&x->seat.word, 0);
        return FS_OK;
    }
    int entered = fs_enter(me, &w->o.lock);
    if (entered < 0)
        return entered;
    if (fs_is_notified(w, x) && x->number >= w->everybody)
        fs_notify_inside(me, w, 1);
    fs_store_release(&x->seat.word, 0);
    fs_leave_entered(me, &w->o.lock, entered);
    return FS_OK;
}

#endif
