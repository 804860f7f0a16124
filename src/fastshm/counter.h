/* counter.h: a counter that many add to: stripes of one cache line each, as in Java's LongAdder.
 *
 *   line 0     | block | serial | lock | gate | base | stripes |
 *   line 1..   | n |                  -                        |   one for each stripe, a power of two
 *
 *   value = sum of the n - base, as two's complement
 *
 *   operation       one atomic instruction                 on
 *   add             addition                               the stripe of the thread's number
 *   exchange        compare-exchange: the commit           base, which becomes the sum - the new value
 *   value           none
 *
 * The stripes only ever take additions: what is taken out goes on record in `base`. So each operation is one instruction, whole
 * or not done wherever its process is killed; nothing belongs to a process, and the dead leave nothing to be folded in. Each
 * addition is in what exactly one exchange returns, or in the value: the exchanges' results telescope.
 *
 * A sum is no snapshot: additions made while it is being taken are in it or not, each for itself. The base is looked at before
 * and after it; when an exchange has come in between, it is taken again.
 */
#ifndef FASTSHM_COUNTER_H
#define FASTSHM_COUNTER_H

#include "local.h"

#define FS_MOST_STRIPES 256u
#define FS_COUNTER_TRIES 100

static inline uint64_t fs_counter_bytes(uint64_t stripes) { return sizeof(fs_counter) + stripes * sizeof(fs_stripe); }

/* A power of two, so that a stripe is named by `bits` bits. */
static inline int fs_stripes_fit(uint64_t stripes, uint64_t room) {
    return stripes > 1 && stripes <= FS_MOST_STRIPES && !(stripes & (stripes - 1)) && fs_counter_bytes(stripes) <= room;
}

FS_UNUSED static void fs_counter_start(fs_counter *c, uint64_t stripes, uint64_t value) {
    c->base = 0 - value;
    c->stripes = stripes;
}

/* Threads that start together have numbers one or two apart: multiplied by the golden section they lie far from one another. */
static inline fs_stripe *fs_counter_stripe(fs_counter *c, unsigned bits, uint32_t id) {
    return &c->stripe[id * 0x9e3779b97f4a7c15ull >> (64 - bits)];
}

static inline void fs_counter_add(fs_counter *c, unsigned bits, uint32_t id, uint64_t n) {
    fs_fetch_add(&fs_counter_stripe(c, bits, id)->n, n);
}

static inline uint64_t fs_counter_sum(const fs_counter *c, unsigned bits) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < (uint64_t)1 << bits; i++)
        sum += fs_load_acquire(&c->stripe[i].n);
    return sum;
}

/* FS_BUSY when others have exchanged again and again meanwhile: let the caller look for signals, and come back. */
static inline int fs_counter_value(const fs_counter *c, unsigned bits, uint64_t *value) {
    for (int i = 0; i < FS_COUNTER_TRIES; i++) {
        uint64_t base = fs_load_acquire(&c->base), sum = fs_counter_sum(c, bits);
        *value = sum - base;
        if (fs_likely(fs_load_relaxed(&c->base) == base))
            return FS_OK;
    }
    return FS_BUSY;
}

/* The same; the value that was taken out. */
static inline int fs_counter_exchange(fs_counter *c, unsigned bits, uint64_t value, uint64_t *old) {
    for (int i = 0; i < FS_COUNTER_TRIES; i++) {
        uint64_t base = fs_load_acquire(&c->base), sum = fs_counter_sum(c, bits);
        *old = sum - base;
        if (fs_likely(fs_cas_u64(&c->base, base, sum - value)))
            return FS_OK;
    }
    return FS_BUSY;
}

#endif
