/* bounded.h: a bounded semaphore: permits have owners and come back when these die.
 *
 *   ledger   two halves of `room` shares; `half` says which counts
 *   share    { process id, net }: what that process has acquired less what it has released
 *   free permits = bound - sum of all nets
 *
 * Acquire and release are, under the object's lock, ONE store of the caller's own share: the commit. So there is nothing to settle.
 *
 * Any process may release what another one acquired, so a net may be below zero. When a dead process's share is folded in, what the
 * others have released beyond their own is set off against it first: only the rest comes back, so no permit is counted twice. (Who
 * both holds permits and releases those of others cannot be told from one who does neither: docs/format.md.) A dead process's net
 * below zero goes to the share of nobody, id 0. Folding and setting off change several shares as one: they write the other
 * half, and the store of `half` commits. A larger ledger is made in `spare` and put in place by one transaction of the heap.
 */
#ifndef FASTSHM_BOUNDED_H
#define FASTSHM_BOUNDED_H

#include "alloc.h"
#include "wait.h"

#define FS_LEDGER_FIRST 7u /* shares in each half of the first ledger: two lines in all */
#define FS_NET_MOST 0x40000000

/* The half that counts; NULL when it is damaged. */
static inline fs_share *fs_ledger(fs_heap *heap, const fs_bounded *b) {
    fs_block *raw = fs_kind_at(heap, b->ledger, FS_RAW, FS_HEADER);
    if (!raw || b->half > 1 || b->room > ((uint64_t)raw->size * FS_GRAIN - FS_HEADER) / 16)
        return NULL;
    return (fs_share *)((char *)raw + FS_HEADER) + b->half * b->room;
}

static inline int64_t fs_ledger_sum(const fs_share *s, uint64_t room) {
    int64_t sum = 0;
    for (uint64_t i = 0; i < room; i++)
        sum += s[i].net;
    return sum;
}

/* The share of a process, else an unused one, else NULL. */
static inline fs_share *fs_share_of(fs_share *s, uint64_t room, uint32_t id) {
    fs_share *unused = NULL;
    for (uint64_t i = 0; i < room; i++) {
        if (s[i].id == id && s[i].word)
            return &s[i];
        if (!s[i].word && !unused)
            unused = &s[i];
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
    fs_share *old = b->ledger ? fs_ledger(heap, b) : NULL;
    uint64_t room = b->ledger ? b->room * 2 + 1 : FS_LEDGER_FIRST, bytes = room * 16;
    fs_block *raw;
    if (b->ledger && !old)
        return FS_CORRUPT;
    int r = fs_drop(me, &b->spare);
    if (r == FS_OK)
        r = fs_alloc_to(me, bytes, FS_RAW, &b->spare, &raw);
    if (r != FS_OK)
        return r;
    memset((char *)raw + FS_HEADER, 0, bytes);
    if (old)
        memcpy((char *)raw + FS_HEADER, old, b->room * 8);
    fs_crash_order();
    if ((r = fs_heap_enter(me)) < 0)
        return r;
    uint64_t next = b->spare;
    fs_set(heap, &b->spare, b->ledger);
    fs_set(heap, &b->ledger, next);
    fs_set(heap, &b->half, 0);
    fs_set(heap, &b->room, room);
    fs_commit(heap);
    fs_heap_leave(me);
    r = fs_drop(me, &b->spare);
    return r == FS_BUSY || r == FS_INTERRUPTED ? FS_OK : r; /* the next growth, or the end, drops it */
}

/* Takes `*owed` off a net above zero, as far as it goes. */
static inline int32_t fs_set_off(int32_t net, int64_t *owed) {
    int64_t off = net < *owed ? net : *owed;
    *owed -= off;
    return (int32_t)(net - off);
}

/* Brings back what the dead hold. With `everybody`, what the living have acquired is set off against what others have released, too,
 * so that no net can overflow. */
FS_COLD static int fs_ledger_fold(const fs_self *me, fs_bounded *b, int everybody) {
    fs_heap *heap = me->heap;
    fs_share *s = fs_ledger(heap, b);
    uint64_t room = b->room, n = 0;
    int64_t beyond = 0, owed;
    int dead = 0;
    if (!s)
        return FS_CORRUPT;
    fs_share *to = b->half ? s - room : s + room;
    for (uint64_t i = 0; i < room; i++)
        beyond += s[i].net < 0 ? -(int64_t)s[i].net : 0;
    owed = beyond;
    /* Nets above zero: the dead's are set off and go, then the living's are kept. `id` of the other half marks the dead. */
    for (uint64_t i = 0; i < room; i++) {
        to[i].word = 0;
        if (!s[i].id || s[i].id == heap->process_id || fs_alive(heap, s[i].id))
            continue;
        to[i].id = dead = 1;
        if (s[i].net > 0)
            fs_set_off(s[i].net, &owed);
    }
    if (!dead && !everybody)
        return FS_OK;
    int64_t nobody = 0, paid;
    for (uint64_t i = 0; i < room; i++) {
        int gone = (int)to[i].id;
        int32_t net = s[i].net;
        to[i].word = 0;
        if (net > 0 && !gone) {
            if (everybody)
                net = fs_set_off(net, &owed);
            if (net)
                to[n++] = (fs_share){{s[i].id, net}};
        }
    }
    paid = beyond - owed;
    for (uint64_t i = 0; i < room; i++) {
        int32_t net = s[i].net;
        if (net >= 0)
            continue;
        net = -fs_set_off(-net, &paid);
        if (s[i].id && (s[i].id == heap->process_id || fs_alive(heap, s[i].id))) {
            if (net)
                to[n++] = (fs_share){{s[i].id, net}};
        } else {
            nobody += net;
        }
    }
    if (nobody < -(int64_t)FS_NET_MOST)
        return fs_ledger_fold(me, b, 1);
    if (nobody)
        to[n++] = (fs_share){{0, (int32_t)nobody}};
    fs_crash_order();
    b->half ^= 1;
    return FS_OK;
}

/* One permit more (`by` = 1) or less (-1) in the caller's share. The lock is held. */
static inline int fs_share_add(const fs_self *me, fs_bounded *b, int32_t by) {
    uint32_t id = me->heap->process_id;
    for (int tries = 0; tries < 2; tries++) {
        fs_share *s = fs_ledger(me->heap, b), *mine = s ? fs_share_of(s, b->room, id) : NULL;
        if (!s && b->ledger)
            return FS_CORRUPT;
        int r = FS_OK;
        if (fs_unlikely(!mine))
            r = fs_ledger_grow(me, b);
        else if (fs_unlikely(mine->net >= FS_NET_MOST || mine->net <= -FS_NET_MOST) && !tries)
            r = fs_ledger_fold(me, b, 1);
        else {
            fs_share_put(mine, id, mine->net + by);
            return FS_OK;
        }
        if (r != FS_OK)
            return r;
    }
    return FS_NOMEM;
}

static inline void fs_bounded_leave(const fs_self *me, fs_bounded *b, int entered) {
    if (entered != FS_NESTED)
        fs_leave(me, &b->o.lock);
}

/* FS_OK, FS_MISSING when there is none, FS_BUSY and the like. With `look`, the dead are looked for when there is none. */
FS_UNUSED static int fs_bounded_take(const fs_self *me, fs_bounded *b, int look) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    fs_share *s = fs_ledger(me->heap, b);
    int r = s ? FS_OK : FS_CORRUPT;
    if (r == FS_OK && fs_ledger_sum(s, b->room) >= (int64_t)b->bound) {
        r = look ? fs_ledger_fold(me, b, 0) : FS_MISSING;
        if (r == FS_OK && fs_ledger_sum(fs_ledger(me->heap, b), b->room) >= (int64_t)b->bound)
            r = FS_MISSING;
    }
    if (r == FS_OK)
        r = fs_share_add(me, b, 1);
    fs_bounded_leave(me, b, entered);
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
    fs_share *s = fs_ledger(me->heap, b);
    int r = !s ? FS_CORRUPT : fs_ledger_sum(s, b->room) <= 0 ? FS_RANGE : fs_share_add(me, b, -1);
    fs_bounded_leave(me, b, entered);
    if (r == FS_OK)
        fs_turn_pass_stored(&b->turn, 1);
    return r;
}

/* How many are free. */
FS_COLD static int fs_bounded_value(const fs_self *me, fs_bounded *b, uint32_t *value) {
    int entered = fs_enter(me, &b->o.lock);
    if (entered < 0)
        return entered;
    int r = fs_ledger(me->heap, b) ? fs_ledger_fold(me, b, 0) : FS_CORRUPT;
    if (r == FS_OK)
        *value = b->bound - (uint32_t)fs_ledger_sum(fs_ledger(me->heap, b), b->room);
    fs_bounded_leave(me, b, entered);
    return r;
}

/* Gives a new one its bound and its ledger. */
FS_COLD static int fs_bounded_start(const fs_self *me, fs_bounded *b, uint32_t bound) {
    b->bound = bound;
    return b->ledger ? FS_OK : fs_ledger_grow(me, b);
}

#endif
