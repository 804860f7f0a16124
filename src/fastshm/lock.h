/* lock.h: the one lock of the package: owned, recoverable, versioned.
 *
 * The word:
 *
 *   bits 0-29   owner id, 0 for nobody. Ids come from super->next_id and are never used again, so an id names one thread (or
 *               one process) for ever; nobody can be taken for somebody else. A live id's byte is claimed (platform.h).
 *   bit 30  R   reserved: the next owner is one that has slept here, not one that comes along (a waiter starved)
 *   bit 31  W   somebody may be asleep: whoever releases wakes one
 *
 *   word          meaning                        fast acquire   sleeper acquires       release
 *   0             free                           -> id          -> id|W                error
 *   id            held                           waits          waits (sets W)         -> 0
 *   id|W          held, sleepers                 waits          waits (R after 2 naps) -> 0, wake one
 *   id|W|R        held, a sleeper starves        waits          waits                  -> W|R, wake one
 *   W|R           free for sleepers              sleeps first   -> id|W                error
 *                 (a try without waiting:        -> id|W)
 *
 * Owner and lock are taken by ONE compare-exchange, so there is no instant at which a lock is held by nobody known. Sleeps are
 * bounded; a sleeper whose nap ran out asks whether the owner lives, and only when it does not, takes the lock over by
 * compare-exchange from exactly that word: FS_TAKEN_OVER. The new owner then repairs what the lock guards, and if it dies
 * in turn, the next one repairs again.
 *
 * What costs at most one nap: a lost wake-up (the woken sleeper is killed; W was set just before the word was cleared), and a
 * reservation whose sleeper gave up.
 *
 * `hold` belongs to the owner: the user's recursion count, FS_HOLD_ABANDONED once a user's section was cut short by a death,
 * FS_HOLD_QUIET while the section is one of our own that is whole at any instant.
 *
 * `version`: odd from fs_write_begin to fs_settle. A reader that sees the same even version before and after its copy has
 * a copy of one instant.
 *
 * The shape (one word, bounded spin, then park) follows U. Drepper, "Futexes Are Tricky"; the reservation follows
 * parking_lot's fairness in spirit; the version is a seqlock.
 */
#ifndef FASTSHM_LOCK_H
#define FASTSHM_LOCK_H

#include "local.h"

#define FS_LOCK_WAITERS 0x80000000u
#define FS_LOCK_RESERVED 0x40000000u
#define FS_LOCK_OWNER 0x3fffffffu
#define FS_LAST_ID FS_LOCK_OWNER

#define FS_HOLD_ABANDONED 0x80000000u
#define FS_HOLD_QUIET 0x40000000u
#define FS_HOLD_COUNT 0x3fffffffu

#define FS_SPINS 60
#define FS_FIRST_NAP 1000000   /* ns */
#define FS_LONGEST_NAP 4000000

/* Puts back what a dead process has begun in the heap (alloc.h): 0 when it cannot be told yet, as somebody living is in the
 * heap. */
static int fs_heap_mend(fs_heap *heap, uint32_t id);

/* Takes the lock over if its owner is dead: 1 if so. It may have died in a transaction on words that this lock guards, which
 * are true again only when that is put back: so that comes first. */
FS_COLD static int fs_lock_inherit(fs_heap *heap, fs_lock *l, uint32_t id) {
    uint32_t w = fs_load_relaxed(&l->word), owner = w & FS_LOCK_OWNER;
    if (!owner || fs_alive(heap, owner))
        return 0;
    if (l != &heap->super->heap && !fs_heap_mend(heap, id))
        return 0;
    if (!fs_cas_u32(&l->word, w, id | FS_LOCK_WAITERS))
        return 0;
    if (l->hold & FS_HOLD_COUNT)
        l->hold = l->hold & FS_HOLD_QUIET ? l->hold & FS_HOLD_ABANDONED : FS_HOLD_ABANDONED;
    return 1;
}

/* The word names who asks. Without a section of the user's, we have not taken it: the word is damaged. */
static inline int fs_lock_again(const fs_lock *l) { return fs_likely(l->hold & FS_HOLD_COUNT) ? FS_NESTED : FS_TAKEN_OVER; }

/* Acquires for `id`, sleeping until `deadline` (0: do not sleep, -1: for ever). */
FS_COLD static int fs_lock_wait(fs_heap *heap, fs_lock *l, uint32_t id, int64_t deadline) {
    int spins = 0, naps = 0;
    int64_t nap = FS_FIRST_NAP;
    uint32_t carry = 0;
    for (;;) {
        uint32_t w = fs_load_relaxed(&l->word), owner = w & FS_LOCK_OWNER;
        if (!owner && (naps || !(w & FS_LOCK_RESERVED))) {
            if (fs_cas_u32(&l->word, w, id | carry | (w & FS_LOCK_WAITERS)))
                return FS_OK;
            continue;
        }
        /* A process waits for its own mutex; nobody else for himself: since we came, the word was damaged, or a signal's handler took
         * the lock. */
        if (owner == id && id != heap->process_id)
            return fs_lock_again(l);
        if (spins < FS_SPINS) {
            spins++;
            fs_pause();
            continue;
        }
        if (deadline == 0)
            return FS_BUSY;
        int64_t left = nap;
        if (deadline > 0) {
            int64_t now = fs_now();
            if (now >= deadline) {
                if (carry)
                    fs_wake(&l->word, 1); /* the wake-up may have been ours: hand it on */
                return FS_TIMEOUT;
            }
            left = deadline - now < nap ? deadline - now : nap;
        }
        uint32_t want = w | FS_LOCK_WAITERS | (naps >= 2 ? FS_LOCK_RESERVED : 0);
        if (want != w && !fs_cas_u32(&l->word, w, want))
            continue;
        int r = fs_wait(&l->word, want, left);
        naps++;
        spins = FS_SPINS / 2;
        carry = FS_LOCK_WAITERS;
        w = fs_load_relaxed(&l->word);
        if (!(w & FS_LOCK_OWNER)) /* also after a signal: it may have ended the nap that a reserved lock asks for */
            continue;
        if ((w & FS_LOCK_OWNER) == owner) {
            /* Also after a signal: when they come faster than naps end, no other moment comes. */
            if (fs_lock_inherit(heap, l, id))
                return FS_TAKEN_OVER;
            nap = nap * 2 < FS_LONGEST_NAP ? nap * 2 : FS_LONGEST_NAP;
        }
        if (r == FS_INTERRUPTED || naps >= 16) /* a signal between two naps interrupts neither: let the caller look for it */
            return FS_INTERRUPTED;
    }
}

/* For a caller that will not wait, after FS_BUSY: a reservation is a courtesy between those who do, so a lock without an owner
 * is taken, and so is a dead owner's. FS_OK, FS_TAKEN_OVER, FS_BUSY. */
FS_COLD static int fs_lock_try(fs_heap *heap, fs_lock *l, uint32_t id) {
    uint32_t w = fs_load_relaxed(&l->word);
    if (!(w & FS_LOCK_OWNER) && fs_cas_u32(&l->word, w, id | (w & FS_LOCK_WAITERS)))
        return FS_OK;
    return fs_lock_inherit(heap, l, id) ? FS_TAKEN_OVER : FS_BUSY;
}

FS_COLD static void fs_leave_slow(fs_lock *l) {
    for (;;) {
        uint32_t w = fs_load_relaxed(&l->word);
        uint32_t next = w & FS_LOCK_RESERVED ? FS_LOCK_RESERVED | FS_LOCK_WAITERS : 0;
        if (fs_cas_u32(&l->word, w, next)) {
            if (w & FS_LOCK_WAITERS)
                fs_wake(&l->word, 1);
            return;
        }
    }
}

/* For one operation. FS_OK, FS_NESTED (held by this thread already: do not leave), FS_TAKEN_OVER, or a negative code. */
static inline int fs_enter(const fs_self *me, fs_lock *l) {
    uint32_t w = fs_load_relaxed(&l->word);
    if (fs_likely(!w && fs_cas_u32(&l->word, 0, me->id)))
        return FS_OK;
    if ((w & FS_LOCK_OWNER) == me->id)
        return fs_lock_again(l);
    return fs_lock_wait(me->heap, l, me->id, me->wait ? -1 : 0);
}

/* By a plain store: nobody can take the lock from a living owner, so all that it may overwrite are the bits of one who is about
 * to sleep. He compares the word once more on his way, and if the owner was interrupted just here, he sleeps one nap too
 * long. */
static inline void fs_leave(const fs_self *me, fs_lock *l) {
    if (fs_likely(fs_load_relaxed(&l->word) == me->id))
        fs_store_release(&l->word, 0);
    else
        fs_leave_slow(l);
}

/* `entered` is what fs_enter returned. */
static inline void fs_leave_entered(const fs_self *me, fs_lock *l, int entered) {
    if (entered != FS_NESTED)
        fs_leave(me, l);
}

static inline int fs_is_mine(const fs_self *me, const fs_lock *l) {
    return (fs_load_relaxed(&l->word) & FS_LOCK_OWNER) == me->id;
}

static inline void fs_write_begin(fs_lock *l) {
    fs_store_relaxed(&l->version, l->version | 1);
    fs_fence_release(); /* pairs with the fence in fs_read_valid */
    fs_crash_order();
}

/* The version becomes even again, if it is not a user who made it odd. */
static inline void fs_settle(fs_lock *l) {
    if (l->version & 1)
        fs_store_release(&l->version, l->version + 1); /* pairs with fs_read_begin */
}

static inline uint64_t fs_read_begin(const fs_lock *l) { return fs_load_acquire(&l->version); }

static inline int fs_read_valid(const fs_lock *l, uint64_t version) {
    fs_fence_acquire();
    return fs_load_relaxed(&l->version) == version;
}

/* The user's own critical section. Returns what fs_enter or fs_lock_wait returned; the caller repairs after FS_TAKEN_OVER and
 * then calls fs_hold_begin. */
static inline void fs_hold_begin(fs_lock *l, int entered, uint32_t flags) {
    if (entered == FS_NESTED) {
        l->hold++;
        return;
    }
    fs_crash_order();
    l->hold = (l->hold & FS_HOLD_ABANDONED) | flags | 1;
    fs_write_begin(l);
}

/* 1 when that was the last release, 0 when still held. */
static inline int fs_hold_end(const fs_self *me, fs_lock *l) {
    if ((l->hold & FS_HOLD_COUNT) > 1) {
        l->hold--;
        return 0;
    }
    fs_settle(l);
    l->hold = l->hold & FS_HOLD_QUIET ? l->hold & FS_HOLD_ABANDONED : 0;
    fs_crash_order();
    fs_leave(me, l);
    return 1;
}

#endif
