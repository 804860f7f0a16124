/* semaphore.h: counted permits without owners, and the event.
 *
 *   semaphore   value: permits that are free. Acquire and release are one compare-exchange each, which is the commit.
 *               Who was killed after his acquire has consumed a permit, as in the standard library: nobody can tell a
 *               consumer from a holder. fs_bounded (bounded.h) can.
 *   event       value: how often it has changed; odd while set. Whoever waits has seen an even value and is let through by any
 *               other, so also when it was cleared again at once.
 *
 * Neither takes the object's lock, so there is nothing to take over and nothing to settle.
 */
#ifndef FASTSHM_SEMAPHORE_H
#define FASTSHM_SEMAPHORE_H

#include "wait.h"

#define FS_MOST_PERMITS 0x7fffffffu

static inline int fs_semaphore_take(fs_semaphore *s) {
    for (;;) {
        uint32_t v = fs_load_ordered(&s->value);
        if (!v)
            return 0;
        if (fs_likely(fs_cas_ordered(&s->value, v, v - 1)))
            return 1;
    }
}

/* Without waiting, when nobody is to come first: 1 or 0. */
static inline int fs_semaphore_try(fs_semaphore *s) {
    return !(fs_load_relaxed(&s->turn) & FS_TURN_STARVES) && fs_semaphore_take(s);
}

/* FS_OK, FS_TIMEOUT, FS_INTERRUPTED (come again with the same patience). */
FS_COLD static int fs_semaphore_wait(fs_semaphore *s, fs_patience *p) {
    int spins = p->naps || p->deadline == 0 ? 0 : FS_SPINS;
    for (;;) {
        if (spins-- > 0) {
            if (fs_load_relaxed(&s->value) && fs_semaphore_try(s))
                return FS_OK;
            fs_pause();
            continue;
        }
        if (p->deadline == 0) /* a courtesy between those who wait does not bind one who will not */
            return fs_semaphore_take(s) ? FS_OK : FS_TIMEOUT;
        uint32_t t = fs_turn_watch(&s->turn, p);
        if (fs_turn_mine(t, p) && fs_semaphore_take(s)) {
            fs_turn_taken(&s->turn, p);
            return FS_OK;
        }
        int r = fs_nap(&s->turn, t, p);
        if (r != FS_OK)
            return r;
    }
}

/* FS_OVERFLOW: there are as many permits as can be counted. */
static inline int fs_semaphore_give(fs_semaphore *s) {
    for (;;) {
        uint32_t v = fs_load_relaxed(&s->value);
        if (v >= FS_MOST_PERMITS)
            return FS_OVERFLOW;
        if (fs_likely(fs_cas_ordered(&s->value, v, v + 1)))
            break;
    }
    fs_turn_pass(&s->turn, 1);
    return FS_OK;
}

/* --- events -------------------------------------------------------------------------------------------------------------- */

static inline int fs_event_is_set(const fs_semaphore *e) { return fs_load_ordered(&e->value) & 1; }

static inline void fs_event_change(fs_semaphore *e, uint32_t set) {
    uint32_t v = fs_load_relaxed(&e->value);
    while ((v & 1) != set && !fs_cas_ordered(&e->value, v, v + 1))
        v = fs_load_relaxed(&e->value);
}

static inline void fs_event_set(fs_semaphore *e) {
    fs_event_change(e, 1);
    fs_turn_pass(&e->turn, FS_ALL); /* also when it was set already: whoever did it may have been killed before this */
}

static inline void fs_event_clear(fs_semaphore *e) { fs_event_change(e, 0); }

/* Until the value is odd or another than `since`. As fs_semaphore_wait. */
FS_COLD static int fs_event_wait(fs_semaphore *e, uint32_t since, fs_patience *p) {
    for (int spins = p->naps ? 0 : FS_SPINS; spins-- > 0; fs_pause())
        if (fs_load_relaxed(&e->value) != since)
            return FS_OK;
    for (;;) {
        uint32_t t = fs_turn_watch(&e->turn, p), v = fs_load_ordered(&e->value);
        if (v & 1 || v != since)
            return FS_OK;
        int r = fs_nap(&e->turn, t, p);
        if (r != FS_OK)
            return r;
    }
}

#endif
