/* bounded.h: a bounded semaphore: permits have owners and come back when these die.
 *
 *   ledger   two halves of `room` shares; `half` says which counts
 *   share    { process id, net }: what that process has acquired less what it has released
 *   free permits = bound - sum of all nets
 *
 * Acquire and release are, under the object's lock, ONE store of the caller's own share: the commit. So there is nothing to
 * settle.
 *
 * Any process may release what another one acquired, so a net may be below zero. When a dead process's share is folded in, what
 * the others have released beyond their own is set off against it first: only the rest comes back, so no permit is counted
 * twice. (Who both holds permits and releases those of others cannot be told from one who does neither: docs/format.md.) A dead
 * process's net below zero goes to the share of nobody, id 0. Folding and setting off change several shares as one: they write
 * the other half, and the store of `half` commits. A larger ledger is made in `spare` and put in place by one transaction of
 * the heap.
 */
#ifndef FASTSHM_BOUNDED_H
#define FASTSHM_BOUNDED_H

#include "alloc.h"
#include "wait.h"

#define FS_LEDGER_FIRST 7u /* shares in each half of the first ledger: two lines in all */
#define FS_NET_MOST 0x40000000

/* The ledger as it was checked: what is shared may be damaged at any time, so it is not read again. */
typedef struct {
    fs_share *share; /* the half that counts */
    uint64_t room, half;
} fs_ledger;

static inline int fs_ledger_look(fs_heap *heap, const fs_bounded *b, fs_ledger *l) {
    fs_block *raw = fs_kind_at(heap, fs_load_relaxed(&b->ledger), FS_RAW, FS_HEADER);
    l->half = fs_load_relaxed(&b->half);
    l->room = fs_load_relaxed(&b->room);
    if (!raw || l->half > 1 || l->room > (fs_room(heap, raw) - FS_HEADER) / 16)
        return FS_CORRUPT;
    l->share = (fs_share *)((char *)raw + FS_HEADER) + l->half * l->room;
    return FS_OK;
}

static inline fs_share fs_share_at(const fs_share *s) {
    fs_share whole;
    whole.word = fs_load_relaxed(&s->word);
    return whole;
}

/* How many permits are taken. FS_CORRUPT when that is no number of permits. */
static inline int fs_ledger_sum(const fs_ledger *l, uint32_t bound, uint32_t *taken) {
    int64_t sum = 0;
    for (uint64_t i = 0; i < l->room; i++)
        sum += fs_share_at(&l->share[i]).net;
    *taken = (uint32_t)sum;
    return fs_likely(sum >= 0 && sum <= bound) ? FS_OK : FS_CORRUPT;
}

/* The share of a process, else an unused one, else NULL; and what it holds. */
static inline fs_share *fs_share_of(const fs_ledger *l, uint32_t id, int32_t *net) {
    fs_share *unused = NULL;
    *net = 0;
    for (uint64_t i = 0; i < l->room; i++) {
        fs_share s = fs_share_at(&l->share[i]);
        if (s.id == id && s.word) {
            *net = s.net;
            return &l->share[i];
        }
        if (!s.word && !unused)
            unused = &l->share[i];
    }
    return unused;
}

static inline void fs_share_put(fs_share *s, uint32_t id, int32_t net) {
    fs_share whole = {{net ? id : 0, net}};
    fs_store_relaxed(&s->word, whole.word);
}

/* Twice the room, and whatever was begun before and not finished is dropped. */
FS_COLD static int fs_ledger_grow(const fs_self *me, fs_bounded *b) {
    fs_heap *heap = me->heap;
    fs_ledger old = {NULL, 0, 0};
    fs_block *raw;
    int r = fs_load_relaxed(&b->ledger) ? fs_ledger_look(heap, b, &old) : FS_OK;
    uint64_t room = old.share ? old.room * 2 + 1 : FS_LEDGER_FIRST, bytes = room * 16;
    if (r == FS_OK)
        r = fs_drop(me, &b->spare);
    if (r == FS_OK)
        r = fs_alloc_to(me, bytes, FS_RAW, &b->spare, &raw);
    if (r != FS_OK)
        return r;
    memset((char *)raw + FS_HEADER, 0, bytes);
    if (old.share)
        memmove((char *)raw + FS_HEADER, old.share, old.room * 8); /* in a damaged heap they may overlap */
    fs_crash_order();
    if ((r = fs_heap_enter(me)) < 0)
        return r;
    fs_set(heap, &b->spare, b->ledger);
    fs_set(heap, &b->ledger, fs_offset(heap, raw));
    fs_set(heap, &b->half, 0);
    fs_set(heap, &b->room, room);
    fs_commit(heap);
    fs_heap_leave(me);
    r = fs_drop(me, &b->spare);
    return r == FS_BUSY || r == FS_INTERRUPTED ? FS_OK : r; /* the next growth, or the end, drops it */
}

/* Takes `*owed` off `n` permits, as far as it goes. */
static inline int64_t fs_set_off(int64_t n, int64_t *owed) {
    int64_t off = n < *owed ? n : *owed;
    *owed -= off;
    return n - off;
}

/* Brings back what the dead hold. With `everybody`, what the living have acquired is set off against what others have released,
 * too, so that no net can overflow. */
FS_COLD static int fs_ledger_fold(const fs_self *me, fs_bounded *b, int everybody) {
    fs_heap *heap = me->heap;
    fs_ledger l;
    int r = fs_ledger_look(heap, b, &l), dead = 0;
    if (r != FS_OK)
        return r;
    fs_share *from = l.share, *to = l.half ? from - l.room : from + l.room;
    uint64_t n = 0;
    int64_t beyond = 0, owed;
    for (uint64_t i = 0; i < l.room; i++) {
        fs_share s = fs_share_at(&from[i]);
        if (!s.id && s.net > 0) /* they would never come back */
            return FS_CORRUPT;
        beyond += s.net < 0 ? -(int64_t)s.net : 0;
    }
    owed = beyond;
    /* Nets above zero: the dead's are set off and go, then the living's are kept. `id` of the other half marks the dead. */
    for (uint64_t i = 0; i < l.room; i++) {
        fs_share s = fs_share_at(&from[i]);
        fs_store_relaxed(&to[i].word, 0);
        if (!s.id || s.id == heap->process_id || fs_alive(heap, s.id))
            continue;
        to[i].id = dead = 1;
        if (s.net > 0)
            fs_set_off(s.net, &owed);
    }
    if (!dead && !everybody)
        return FS_OK;
    int64_t nobody = 0, paid;
    for (uint64_t i = 0; i < l.room; i++) {
        fs_share s = fs_share_at(&from[i]);
        int gone = (int)fs_share_at(&to[i]).id;
        fs_store_relaxed(&to[i].word, 0);
        if (s.net > 0 && !gone) {
            if (everybody)
                s.net = (int32_t)fs_set_off(s.net, &owed);
            if (s.net)
                to[n++] = s;
        }
    }
    paid = beyond - owed;
    for (uint64_t i = 0; i < l.room; i++) {
        fs_share s = fs_share_at(&from[i]);
        if (s.net >= 0)
            continue;
        int64_t left = fs_set_off(-(int64_t)s.net, &paid);
        if (!s.id || (s.id != heap->process_id && !fs_alive(heap, s.id)))
            nobody += left;
        else if (left && n == l.room) /* a net has changed its sign meanwhile */
            return FS_CORRUPT;
        else if (left)
            to[n++] = (fs_share){{s.id, (int32_t)-left}};
    }
    if (nobody > FS_NET_MOST)
        return everybody ? FS_CORRUPT : fs_ledger_fold(me, b, 1);
    if (nobody && n == l.room)
        return FS_CORRUPT;
    if (nobody)
        to[n] = (fs_share){{0, (int32_t)-nobody}};
    fs_crash_order();
    fs_store_relaxed(&b->half, l.half ^ 1);
    return FS_OK;
}

/* One permit more (`by` = 1) or less (-1) in the caller's share. The lock is held; the ledger is what it looks like. */
static inline int fs_share_add(const fs_self *me, fs_bounded *b, fs_ledger *l, int32_t by) {
    uint32_t id = me->heap->process_id;
    for (int tries = 0; tries < 2; tries++) {
        int32_t net;
        fs_share *mine = fs_share_of(l, id, &net);
        int r;
        if (fs_unlikely(!mine)) {
            r = fs_ledger_grow(me, b);
        } else if (fs_unlikely(net >= FS_NET_MOST || net <= -FS_NET_MOST) && !tries) {
            r = fs_ledger_fold(me, b, 1);
        } else {
            if (fs_unlikely(by > 0 ? net == INT32_MAX : net == INT32_MIN))
                return FS_CORRUPT;
            fs_share_put(mine, id, net + by);
            return FS_OK;
        }
        if (r == FS_OK)
            r = fs_ledger_look(me->heap, b, l);
        if (r != FS_OK)
            return r;
    }
    return FS_NOMEM;
}

/* The ledger, how many permits are taken, and how many there are. The lock is held. */
static inline int fs_bounded_look(fs_heap *heap, const fs_bounded *b, fs_ledger *l, uint32_t *taken, uint32_t *bound) {
    int r = fs_ledger_look(heap, b, l);
    *bound = fs_load_relaxed(&b->bound);
    return r == FS_OK ? fs_ledger_sum(l, *bound, taken) : r;
}

/* FS_OK, FS_MISSING when there is none, FS_BUSY and the like. With `look`, the dead are looked for when there is none. */
FS_UNUSED static int fs_bounded_take(const fs_self *me, fs_bounded *b, int look) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    fs_ledger l;
    uint32_t taken = 0, bound = 0;
    int r = fs_bounded_look(me->heap, b, &l, &taken, &bound);
    if (r == FS_OK && taken == bound) {
        r = look ? fs_ledger_fold(me, b, 0) : FS_MISSING;
        if (r == FS_OK)
            r = fs_bounded_look(me->heap, b, &l, &taken, &bound);
        if (r == FS_OK && taken == bound)
            r = FS_MISSING;
    }
    if (r == FS_OK)
        r = fs_share_add(me, b, &l, 1);
    fs_leave_entered(me, &b->o.lock, entered);
    return r;
}

/* Without waiting for anybody: as fs_bounded_take, FS_MISSING also when others are to come first. */
static inline int fs_bounded_try(const fs_self *me, fs_bounded *b) {
    return fs_load_relaxed(&b->turn) & FS_TURN_STARVES ? FS_MISSING : fs_bounded_take(me, b, 0);
}

/* FS_OK, FS_TIMEOUT, FS_INTERRUPTED (come again with the same patience) and errors. */
FS_COLD static int fs_bounded_wait(const fs_self *me, fs_bounded *b, fs_patience *p) {
    for (;;) {
        uint32_t t = p->deadline ? fs_turn_watch(&b->turn, p) : 0;
        int r = fs_turn_mine(t, p) ? fs_bounded_take(me, b, p->naps || !p->deadline) : FS_MISSING;
        if (r == FS_OK)
            fs_turn_taken(&b->turn, p);
        if (r != FS_MISSING)
            return r;
        r = fs_nap(&b->turn, t, p);
        if (r == FS_TIMEOUT && p->deadline) { /* its holder may have died within a time that was shorter than a nap */
            p->naps++;
            r = fs_bounded_take(me, b, 1);
            return r == FS_MISSING ? FS_TIMEOUT : r;
        }
        if (r != FS_OK)
            return r;
    }
}

/* FS_RANGE: nobody holds a permit. */
static inline int fs_bounded_give(const fs_self *me, fs_bounded *b) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    fs_ledger l;
    uint32_t taken = 0, bound;
    int r = fs_bounded_look(me->heap, b, &l, &taken, &bound);
    if (r == FS_OK)
        r = taken ? fs_share_add(me, b, &l, -1) : FS_RANGE;
    fs_leave_entered(me, &b->o.lock, entered);
    if (r == FS_OK)
        fs_turn_pass_stored(&b->turn, 1);
    return r;
}

/* How many are free. */
FS_COLD static int fs_bounded_value(const fs_self *me, fs_bounded *b, uint32_t *value) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    fs_ledger l;
    uint32_t taken = 0, bound = 0;
    int r = fs_ledger_fold(me, b, 0);
    if (r == FS_OK)
        r = fs_bounded_look(me->heap, b, &l, &taken, &bound);
    *value = bound - taken;
    fs_leave_entered(me, &b->o.lock, entered);
    return r;
}

/* Gives a new one its bound and its ledger. */
FS_COLD static int fs_bounded_start(const fs_self *me, fs_bounded *b, uint32_t bound) {
    b->bound = bound;
    return b->ledger ? FS_OK : fs_ledger_grow(me, b);
}

#endif
