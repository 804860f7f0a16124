/* wait.h: waiting for something that is no lock: one word to sleep on, beside whatever is waited for.
 *
 *   turn      31      30      29                                0
 *           | ASLEEP | STARVES | counts changes                   |
 *
 *   who waits      fs_turn_watch: sets ASLEEP; looks at what it waits for; fs_turn_sleep, while the turn is what it saw
 *   who changes    makes the change; fs_turn_pass: if ASLEEP is set, counts on and wakes
 *
 * Both sides use sequentially consistent accesses, so either the one who waits sees the change or the one who changes sees
 * ASLEEP; in between the count has moved and the kernel refuses to sleep. Without sleepers a change costs one load more, and no
 * system call.
 *
 * A change is made by the store that belongs to the thing itself, never by the wake-up: whoever is killed between the two
 * leaves sleepers that find out for themselves when their nap is over (1, 2, 4, 8, then 16 ms). ASLEEP of a sleeper that was
 * killed or gave up costs the next change two system calls, which clear it.
 *
 * STARVES: after two naps a sleeper asks those who come now to take a nap first. Whoever has slept and then gets what he wants,
 * clears it; a newcomer asks once and no more, so it binds nobody for longer than that.
 */
#ifndef FASTSHM_WAIT_H
#define FASTSHM_WAIT_H

#include "lock.h"

#define FS_TURN_ASLEEP 0x80000000u
#define FS_TURN_STARVES 0x40000000u
#define FS_TURN_COUNT 0x3fffffffu

#define FS_TURN_LONGEST 16000000 /* ns */
#define FS_ALL INT_MAX

typedef struct {
    int64_t deadline; /* 0: do not sleep, -1: for ever */
    int naps;
} fs_patience;

/* The turn as it is before the look, with ASLEEP set. */
static inline uint32_t fs_turn_watch(uint32_t *turn, const fs_patience *p) {
    for (;;) {
        uint32_t t = fs_load_ordered(turn), want = t | FS_TURN_ASLEEP | (p->naps >= 2 ? FS_TURN_STARVES : 0);
        if (t == want || fs_cas_ordered(turn, t, want))
            return want;
    }
}

/* May the caller take something, or are others to come first? */
static inline int fs_turn_mine(uint32_t t, const fs_patience *p) { return p->naps || !(t & FS_TURN_STARVES); }

FS_COLD static void fs_turn_clear(uint32_t *turn, uint32_t bits) {
    for (;;) {
        uint32_t t = fs_load_relaxed(turn);
        if (!(t & bits) || fs_cas_ordered(turn, t, t & ~bits))
            return;
    }
}

/* After getting it. */
static inline void fs_turn_taken(uint32_t *turn, const fs_patience *p) {
    if (p->naps && fs_load_relaxed(turn) & FS_TURN_STARVES)
        fs_turn_clear(turn, FS_TURN_STARVES);
}

FS_COLD static void fs_turn_wake(uint32_t *turn, int count) {
    for (;;) {
        uint32_t t = fs_load_relaxed(turn), next = (t & ~FS_TURN_COUNT) | ((t + 1) & FS_TURN_COUNT);
        if (!(t & FS_TURN_ASLEEP))
            return;
        if (count == FS_ALL)
            next &= FS_TURN_COUNT;
        if (fs_cas_ordered(turn, t, next))
            break;
    }
    if (fs_wake(turn, count) == 0 && count != FS_ALL) {
        fs_turn_clear(turn, FS_TURN_ASLEEP | FS_TURN_STARVES);
        fs_wake(turn, FS_ALL); /* who has gone to sleep in between says so again */
    }
}

/* After a change by a sequentially consistent compare-exchange: wakes up to `count` of those who wait. */
static inline void fs_turn_pass(uint32_t *turn, int count) {
    if (fs_unlikely(fs_load_ordered(turn) & FS_TURN_ASLEEP))
        fs_turn_wake(turn, count);
}

/* After a change by a plain store, which may still be on its way to the others. */
static inline void fs_turn_pass_stored(uint32_t *turn, int count) {
    fs_fence_ordered();
    fs_turn_pass(turn, count);
}

/* One nap. FS_OK: look again. FS_TIMEOUT. FS_INTERRUPTED: a signal came, or may have: let the caller look, and come back. */
FS_COLD static int fs_nap(uint32_t *word, uint32_t seen, fs_patience *p) {
    int64_t nap = p->naps < 4 ? (int64_t)FS_FIRST_NAP << p->naps : FS_TURN_LONGEST, left = nap;
    if (p->deadline == 0)
        return FS_TIMEOUT;
    if (p->deadline > 0) {
        int64_t now = fs_now();
        if (now >= p->deadline)
            return FS_TIMEOUT;
        left = p->deadline - now < nap ? p->deadline - now : nap;
    }
    if (fs_wait(word, seen, left) == FS_INTERRUPTED)
        return FS_INTERRUPTED;
    if (p->naps < 4) {
        p->naps++;
        return FS_OK;
    }
    return fs_load_relaxed(word) == seen ? FS_INTERRUPTED : FS_OK;
}

#endif
