/* check.h: is a segment whole? Every invariant, at any time, also while others work in it.
 *
 * The walk is done under super->reaper and super->heap. So no block is taken, given or referred to meanwhile, and no
 * dying block is emptied: the chain of blocks, the bins and the counts stand still. What may still move is what an
 * object does under its own lock: values from redo.own[] into the table, from the table into redo.drop[] or the undo
 * log, slots up and down. But it moves only inside the object, for whoever makes or drops a reference must come by
 * the heap's lock. How often an object owns a block is therefore the same at every instant of the walk, whatever the
 * object does, and one good look at each object is enough.
 *
 *   look         when                                      ownership                        inside (R, T, V, A)
 *   at rest      dying, or its lock is ours for the look   exact                            yes, if nothing is half done
 *   in motion    another, living thread holds the lock     exact, of two looks that agree   no
 *
 * A good look at what is in motion: the object's struct is copied, what it refers to is listed, and the struct has
 * not changed meanwhile. (The undo log's length counts as part of it. While own[], drop[] and batch are empty and a
 * table's arrays stay, a table changes only values that own nothing, and the rest of the struct may change.) Whoever
 * holds the lock for long is either asleep at the heap's lock, so the second look agrees, or changes words that own
 * nothing. If they never agree: FS_BUSY, and nothing is said.
 *
 * What a copy owns follows from its redo state:
 *
 *   state            owned, besides entries, index or slots
 *   IDLE             nothing
 *   PREPARING        own[]
 *   COMMITTED, n>0   drop[]; and every word that the list names is read as what the list will store there
 *   COMMITTED, n=0   drop[]
 *   SHIFT            own[], drop[]; the slot at the cursor is a hole; UP: one slot behind the end
 *   FILL             the first before[0] slots behind the end, as far as they are not 0
 *   BATCH            own[], batch; entries may be 0. The entry of the log's last item counts unless it holds what
 *                    own[0] or that item owns: then it is one reference seen twice. (The same object for two keys cannot
 *                    be told from that: such a block may be owned once less than seen. The only doubt there is.)
 *
 * A block that own[] or drop[] owns owns what its kind and its n say; raw blocks own nothing, whatever bytes they
 * hold.
 *
 * Objects at rest are looked at under their lock, which is tried, then waited for at most FS_CHECK_PATIENCE in all:
 * others may be waiting for the heap. A dead owner's lock is taken over and left as it is: whoever comes next
 * settles. Nothing in the segment is changed but lock words, and what fs_bury and fs_reap do.
 *
 *   cost             O(blocks + entries); private memory: 9 bytes for each 64 committed, touched where a block starts
 *
 * Not looked for: who holds a pickled handle's bytes (a ticket owns itself); what raw bytes mean; blocks that own
 * each other in a ring and are reached by nobody (legal). An object whose maker was not done with it (itemsize,
 * typecode or seed 0) is whole.
 */
#ifndef FASTSHM_CHECK_H
#define FASTSHM_CHECK_H

#include "check_tables.h"

#define FS_CHECK_PATIENCE 60000000 /* ns for all locks together */
#define FS_CHECK_LOOKS 4000        /* at one object in motion */

/* --- one object ---------------------------------------------------------------------------------------------------------- */

/* 1 when it stands still and the lock is to be left again, 2 when it stands still anyway, 0 when in motion. */
static int fs_hold_still(fs_walk *w, fs_object *o) {
    fs_lock *l = &o->lock;
    if (o->block.kind & FS_DYING || fs_is_mine(w->me, l))
        return 2;
    if (fs_cas_u32(&l->word, 0, w->me->id) || fs_lock_try(w->heap, l, w->me->id) >= 0)
        return 1;
    if (!w->me->wait || fs_now() >= w->deadline)
        return 0;
    int64_t until = fs_now() + FS_CHECK_PATIENCE / 6;
    int r = fs_lock_wait(w->heap, l, w->me->id, until < w->deadline ? until : w->deadline);
    return r >= 0 ? 1 : r == FS_INTERRUPTED ? r : 0;
}

/* What two looks at something in motion must agree in. */
static uint64_t fs_log_length(const fs_walk *w, const fs_redo *r) {
    fs_undo_log *log = (fs_undo_log *)fs_used_at(w, r->batch);
    return log && fs_room(w->heap, &log->block) >= sizeof(fs_undo_log) ? fs_load_acquire(&log->n) : 0;
}

static int fs_same_table(const fs_table *a, const fs_table *b) {
    return fs_is_moving(&a->redo) || fs_is_moving(&b->redo)
                ? !memcmp(&a->entries, &b->entries, sizeof *a - offsetof(fs_table, entries))
                : a->entries == b->entries && a->index == b->index;
}

static int fs_same_vector(const fs_vector *a, const fs_vector *b) {
    return !memcmp(&a->slots, &b->slots, sizeof *a - offsetof(fs_vector, slots));
}

/* A table or a vector: counts what it owns, and looks inside if it stands still. */
static int fs_check_container(fs_walk *w, fs_object *o, int is_table) {
    union {
        fs_table t;
        fs_vector v;
    } first, later, ahead;
    uint64_t bytes = is_table ? sizeof(fs_table) : sizeof(fs_vector), log;
    fs_redo *copy = is_table ? &first.t.redo : &first.v.redo;
    int still = fs_hold_still(w, o), r;
    if (still < 0)
        return still;
    for (int looks = 0;; looks++) {
        fs_copy_racy(&first, o, bytes);
        fs_fence_acquire();
        log = fs_log_length(w, copy);
        memcpy(&ahead, &first, bytes);
        w->owned_n = 0;
        r = is_table ? fs_own_table(w, (fs_table *)o, &ahead.t, still) : fs_own_vector(w, (fs_vector *)o, &ahead.v);
        if (still || r == FS_PRIVATE_NOMEM)
            break;
        fs_fence_acquire();
        uint64_t log_later = fs_log_length(w, copy);
        fs_copy_racy(&later, o, bytes);
        int same = is_table ? fs_same_table(&first.t, &later.t) : fs_same_vector(&first.v, &later.v);
        if (same && log == log_later)
            break;
        if (looks >= FS_CHECK_LOOKS || (looks > 16 && fs_now() >= w->deadline + FS_CHECK_PATIENCE)) {
            r = FS_BUSY;
            break;
        }
        for (int i = 0; i < looks % 64; i++)
            fs_pause();
    }
    w->list = NULL;
    for (uint64_t i = 0; i < w->owned_n && r == FS_OK; i++)
        r = fs_count(w, w->owned[i] & ~(uint64_t)1, (uint32_t)(w->owned[i] & 1));
    if (still && fs_is_whole(copy) && !(o->block.kind & FS_DYING)) {
        if (r == FS_OK)
            r = fs_check_idle(w, copy);
        if (r == FS_OK)
            r = is_table ? fs_check_table(w, &first.t) : fs_check_vector(w, &first.v);
        if (still == 1)
            fs_settle(&o->lock);
    }
    if (still == 1)
        fs_leave(w->me, &o->lock);
    return r;
}

static int fs_check_array(fs_walk *w, fs_array *a) {
    uint64_t items = fs_load_relaxed(&a->items), size = fs_load_relaxed(&a->itemsize), count = fs_load_acquire(&a->count);
    uint64_t head = items ? FS_ITEMS_DATA : FS_ARRAY_DATA;
    uint32_t code = fs_load_relaxed(&a->typecode);
    fs_block *place = items ? fs_kind_at(w->heap, items, FS_ITEMS, head) : &a->o.block;
    int r = fs_count_if(w, items);
    if (r == FS_OK)
        r = fs_count_if(w, a->stage);
    if (r != FS_OK)
        return r;
    if (code && (code > 127 || !strchr("bBhHiIlLqQfdc?uw", (int)code)))
        return FS_BROKEN(w, "A1: an array's typecode is unknown");
    if (!place || fs_room(w->heap, place) < head)
        return FS_BROKEN(w, "A2: an array's items are in a block of another kind");
    if (size && count > (fs_room(w->heap, place) - head) / size && !(a->o.block.kind & FS_DYING))
        return FS_BROKEN(w, "A2: an array has more items than room");
    if (size && code && size != 1 && size != 2 && size != 4 && size != 8)
        return FS_BROKEN(w, "A1: an array's item size is wrong");
    if (a->o.block.kind & FS_DYING || !(a->stage || fs_load_relaxed(&a->stage_state)))
        return FS_OK;
    int still = fs_hold_still(w, &a->o);
    if (still <= 0)
        return still;
    uint64_t state = a->stage_state, stage = a->stage, at = a->stage_at, length = a->stage_length, step = a->stage_step;
    fs_block *b = fs_kind_at(w->heap, stage, FS_RAW, FS_HEADER);
    count = fs_load_relaxed(&a->count);
    if (state && state != FS_COMMITTED && state != FS_REPEATED)
        r = FS_BROKEN(w, "A3: an array's stage has an unknown state");
    else if (state && !stage)
        r = FS_BROKEN(w, "A3: an array's stage counts but has no block");
    else if (stage && !b && (state || !fs_kind_at(w->heap, stage, FS_ITEMS, FS_ITEMS_DATA)))
        r = FS_BROKEN(w, "A3: an array's stage is a block of another kind");
    else if (state &&
             (!size || length > count || (state == FS_REPEATED ? 1 : length) > (fs_room(w->heap, b) - FS_HEADER) / size))
        r = FS_BROKEN(w, "A3: an array's stage is longer than its block");
    else if (state && (at % size || step % size))
        r = FS_BROKEN(w, "A3: an array's stage is not for whole items");
    else if (state && length && (at > count * size - size || (step && length - 1 > (count * size - size - at) / step)))
        r = FS_BROKEN(w, "A3: an array's stage ends outside the array");
    if (still == 1) {
        if (!state)
            fs_settle(&a->o.lock);
        fs_leave(w->me, &a->o.lock);
    }
    return r;
}

/* --- what is waited for -------------------------------------------------------------------------------------------------- */

static int fs_check_id(fs_walk *w, uint32_t id) {
    return id && id < FS_LAST_ID && id < fs_load_relaxed(&w->super->next_id)
               ? FS_OK
               : FS_BROKEN(w, "P1: a process's or lock owner's number was never given out");
}

static int fs_check_bounded(fs_walk *w, fs_bounded *b, int dying) {
    int r, still;
    if ((r = fs_count_if(w, b->ledger)) != FS_OK || (r = fs_count_if(w, b->spare)) != FS_OK || dying)
        return r;
    if ((still = fs_hold_still(w, &b->o)) <= 0)
        return still;
    fs_ledger l = {NULL, 0, 0};
    uint32_t bound = fs_load_relaxed(&b->bound), taken;
    int has_ledger = fs_load_relaxed(&b->ledger) && fs_ledger_look(w->heap, b, &l) == FS_OK;
    if (bound > FS_MOST_PERMITS)
        r = FS_BROKEN(w, "D1: a bounded semaphore's bound is too large");
    else if (b->ledger && !has_ledger)
        r = FS_BROKEN(w, "D2: a ledger does not fit in its block");
    else if (has_ledger && fs_ledger_sum(&l, bound, &taken) != FS_OK)
        r = FS_BROKEN(w, "D3: the shares of a bounded semaphore are no number of permits");
    for (uint64_t i = 0; has_ledger && i < l.room && r == FS_OK; i++) {
        fs_share s = fs_share_at(&l.share[i]);
        if (s.word && (!s.net || (!s.id && s.net > 0)))
            r = FS_BROKEN(w, "D4: a share is of nobody or of nothing");
        if (r == FS_OK && s.id)
            r = fs_check_id(w, s.id);
        for (uint64_t j = 0; s.word && j < i && r == FS_OK; j++) {
            fs_share other = fs_share_at(&l.share[j]);
            if (other.word && other.id == s.id)
                r = FS_BROKEN(w, "D5: a process has two shares");
        }
    }
    if (still == 1)
        fs_leave(w->me, &b->o.lock);
    return r;
}

static int fs_check_waiters(fs_walk *w, fs_waiters *q, int dying) {
    int r = FS_OK, still;
    fs_waiter *x;
    for (unsigned i = 0; i < FS_WAITER_CHUNKS && r == FS_OK; i++)
        r = fs_count_if(w, q->chunk[i]);
    if (r != FS_OK || dying || (still = fs_hold_still(w, &q->o)) == 0)
        return r;
    if (still < 0)
        return still;
    if (q->released > q->numbers || q->everybody > q->released)
        r = FS_BROKEN(w, "N4: a condition has notified more than have waited");
    if (r == FS_OK && q->chunks > FS_WAITER_CHUNKS)
        r = FS_BROKEN(w, "N1: a condition counts more chunks than there can be");
    for (unsigned i = 0; i < fs_chunks(q) && r == FS_OK; i++)
        if (!fs_chunk(w->heap, q, i))
            r = FS_BROKEN(w, "N1: a condition's chunk is not in its block");
    for (fs_each e = {0}; r == FS_OK && (x = fs_next(w->heap, q, &e));) {
        fs_seat p = fs_seat_of(x);
        if (p.word && (!p.state || p.state > FS_AWAKE))
            r = FS_BROKEN(w, "N2: a place at a condition is in an unknown state");
        else if (p.word && (r = fs_check_id(w, p.id)) == FS_OK && x->number >= q->numbers)
            r = FS_BROKEN(w, "N3: a place at a condition has a number that was never given out");
    }
    if (still == 1)
        fs_leave(w->me, &q->o.lock);
    return r;
}

static int fs_check_barrier(fs_walk *w, fs_barrier *b) {
    int r = FS_OK, still = fs_hold_still(w, &b->o);
    if (still <= 0)
        return still;
    uint64_t room = fs_barrier_room(w->heap, b);
    uint32_t phase = fs_load_relaxed(&b->phase);
    if (!room)
        r = FS_BROKEN(w, "Y1: a barrier's places do not fit in its block");
    else if (phase > FS_BARRIER_BROKEN)
        r = FS_BROKEN(w, "Y2: a barrier's phase is unknown");
    for (uint64_t i = 0; i < room && r == FS_OK; i++) {
        uint64_t id = fs_load_relaxed(&b->place[i]);
        if (id && (id > FS_LAST_ID || fs_check_id(w, (uint32_t)id) != FS_OK))
            r = FS_BROKEN(w, "Y3: a barrier's place is taken by a number that was never given out");
    }
    if (r == FS_OK && phase == FS_ACTION && !fs_barrier_inside(w->heap, b))
        r = FS_BROKEN(w, "Y4: a barrier's action is run by nobody");
    if (still == 1)
        fs_leave(w->me, &b->o.lock);
    return r;
}

/* --- all blocks ---------------------------------------------------------------------------------------------------------- */

static int fs_count_handles(fs_walk *w, const uint64_t *slot, unsigned n, int dying) {
    int r = FS_OK;
    for (unsigned i = 0; i < n && r == FS_OK; i++)
        if (slot[i]) {
            w->census->handles += !dying;
            r = fs_count(w, slot[i], 0);
        }
    return r;
}

static int fs_check_object(fs_walk *w, fs_object *o, uint32_t kind, int dying) {
    fs_census *c = w->census;
    uint64_t serial = fs_load_relaxed(&o->serial);
    int r = fs_count_if(w, o->gate);
    if (r != FS_OK)
        return r;
    if (!serial || serial > fs_load_relaxed(&w->super->serial))
        return FS_BROKEN(w, "O1: an object's serial was never given out");
    if ((r = fs_push(&w->serials, &w->serial_n, &w->serial_room, serial)) != FS_OK)
        return r;
    uint32_t owner = fs_load_acquire(&o->lock.word) & FS_LOCK_OWNER;
    if (owner && (r = fs_check_id(w, owner)) != FS_OK)
        return r;
    if (o->gate) {
        fs_block *g = fs_used_at(w, o->gate);
        if (!g || g->kind != FS_GATE)
            return FS_BROKEN(w, "O2: an object's gate is something else");
    }
    switch (kind) {
    case FS_CELL: {
        uint32_t code = fs_load_relaxed(&((fs_cell *)o)->typecode);
        c->cells += !dying;
        if (code && (code > 127 || !strchr("bBhHiIlLqQfdc?uw", (int)code)))
            return FS_BROKEN(w, "C1: a cell's typecode is unknown");
        return FS_OK;
    }
    case FS_GATE:
        c->gates += !dying;
        if (o->gate || fs_load_relaxed(&((fs_cell *)o)->value) > 1)
            return FS_BROKEN(w, "G1: a gate is neither open nor closed");
        return FS_OK;
    case FS_MUTEX:
        c->locks += !dying;
        return FS_OK;
    case FS_SEMAPHORE:
        c->semaphores += !dying;
        if (fs_load_relaxed(&((fs_semaphore *)o)->value) > FS_MOST_PERMITS)
            return FS_BROKEN(w, "U1: a semaphore has more permits than can be");
        return FS_OK;
    case FS_EVENT:
        c->events += !dying;
        return FS_OK;
    case FS_BOUNDED:
        c->semaphores += !dying;
        return fs_check_bounded(w, (fs_bounded *)o, dying);
    case FS_WAITERS:
        c->conditions += !dying;
        return fs_check_waiters(w, (fs_waiters *)o, dying);
    case FS_BARRIER:
        c->barriers += !dying;
        return dying ? FS_OK : fs_check_barrier(w, (fs_barrier *)o);
    case FS_COUNTER: {
        uint64_t stripes = fs_load_relaxed(&((fs_counter *)o)->stripes);
        c->counters += !dying;
        if (stripes && !fs_stripes_fit(stripes, fs_room(w->heap, &o->block)))
            return FS_BROKEN(w, "K1: a counter's stripes are no power of two or do not fit in its block");
        return FS_OK;
    }
    case FS_ARRAY:
        c->arrays += !dying;
        return fs_check_array(w, (fs_array *)o);
    case FS_TABLE:
        c->tables += !dying;
        return fs_check_container(w, o, 1);
    default:
        c->vectors += !dying;
        return fs_check_container(w, o, 0);
    }
}

static int fs_check_block(fs_walk *w, fs_block *b) {
    uint32_t whole = fs_load_acquire(&b->kind), kind = whole & ~(uint32_t)FS_DYING;
    int dying = (whole & FS_DYING) != 0, r = FS_OK;
    uint64_t room = fs_room(w->heap, b);
    if (!fs_kind_size(kind) || room < fs_kind_size(kind))
        return FS_BROKEN(w, "H3: a block is too small for its kind");
    switch (kind) {
    case FS_BLOB:
        /* a leaf; its bytes may be on their way in: a length counts only where a value names the block (T7, V3) */
        return FS_OK;
    case FS_BUNDLE: {
        fs_bundle *u = (fs_bundle *)b;
        uint64_t count = fs_load_relaxed(&u->count);
        if (count > (room - sizeof(fs_bundle)) / 8 || (!dying && u->length > room - sizeof(fs_bundle) - count * 8))
            return FS_BROKEN(w, "B1: a bundle is longer than its block");
        for (uint64_t i = 0; i < count && r == FS_OK; i++)
            r = fs_count_if(w, u->refs[i]);
        return r;
    }
    case FS_ENTRIES:
    case FS_SLOTS:
    case FS_UNDO_LOG:
        if (!dying)
            return FS_OK; /* whoever owns it says what it owns */
        w->owned_n = 0;
        w->list = NULL;
        r = fs_own_content(w, b, kind);
        for (uint64_t i = 0; i < w->owned_n && r == FS_OK; i++)
            r = fs_count(w, w->owned[i], 0);
        return r;
    case FS_PROCESS: {
        fs_process *p = (fs_process *)b;
        w->census->processes++;
        if ((r = fs_check_id(w, p->id)) == FS_OK && (r = fs_count_if(w, p->next)) == FS_OK &&
            (r = fs_count_if(w, p->more)) == FS_OK)
            r = fs_count_handles(w, p->slot, FS_HANDLES_INLINE, 0);
        return r;
    }
    case FS_HANDLES: {
        fs_handles *h = (fs_handles *)b;
        if ((r = fs_count_if(w, h->more)) == FS_OK)
            r = fs_count_handles(w, h->slot, FS_HANDLES_CHUNK, dying);
        return r;
    }
    case FS_TICKET: {
        fs_ticket *t = (fs_ticket *)b;
        if (!dying) {
            w->census->tickets++;
            if (!t->serial || t->serial > fs_load_relaxed(&w->super->serial))
                return FS_BROKEN(w, "O1: a ticket's serial was never given out");
            if ((r = fs_push(&w->serials, &w->serial_n, &w->serial_room, t->serial)) == FS_OK)
                r = fs_count(w, fs_offset(w->heap, b), 0); /* the bytes own it */
        }
        return r == FS_OK ? fs_count_if(w, t->target) : r;
    }
    case FS_RAW:
    case FS_ITEMS:
        return FS_OK;
    default:
        return fs_check_object(w, (fs_object *)b, kind, dying);
    }
}

/* The list of processes: each record once, of one number each. */
static int fs_check_processes(fs_walk *w) {
    uint64_t n = 0;
    for (uint64_t at = w->super->processes; at; n++) {
        fs_process *p = fs_kind_at(w->heap, at, FS_PROCESS, sizeof(fs_process));
        if (!p || !fs_used_at(w, at) || n >= w->census->processes)
            return FS_BROKEN(w, "P2: the list of processes holds something else, or one twice");
        at = p->next;
    }
    return n == w->census->processes ? FS_OK : FS_BROKEN(w, "P2: a process is not in the list");
}

static int fs_check_counts(fs_walk *w) {
    for (uint64_t at = FS_FIRST; at < w->end; at = fs_block_next(w, at)) {
        fs_block *b = (fs_block *)(w->heap->base + at);
        uint64_t i = at / FS_GRAIN;
        if (w->state[i] == FS_IS_USED) {
            uint32_t refs = fs_load_relaxed(&b->refs);
            if (!w->count[i])
                return FS_BROKEN(w, "H10: a block in use is owned by nobody");
            if (refs > w->count[i])
                return FS_BROKEN(w, "H9: a block counts more references than there are");
            if (refs + (uint64_t)w->doubt[i] < w->count[i])
                return FS_BROKEN(w, "H9: a block counts fewer references than there are");
        }
    }
    return FS_OK;
}

static int fs_serial_order(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int fs_check_serials(fs_walk *w) {
    if (w->serial_n)
        qsort(w->serials, w->serial_n, 8, fs_serial_order);
    for (uint64_t i = 1; i < w->serial_n; i++)
        if (w->serials[i] == w->serials[i - 1])
            return FS_BROKEN(w, "O1: two objects have the same serial");
    return FS_OK;
}

/* Under the reaper's and the heap's lock. */
static int fs_check_inside(fs_walk *w) {
    uint64_t grains = (w->end = w->super->committed) / FS_GRAIN + 1;
    int r = fs_check_super(w);
    if (r != FS_OK)
        return r;
    w->count = calloc(grains, sizeof *w->count);
    w->doubt = calloc(grains, sizeof *w->doubt);
    w->state = calloc(grains, 1);
    if (!w->count || !w->doubt || !w->state)
        return FS_PRIVATE_NOMEM;
    if ((r = fs_check_chain(w)) != FS_OK || (r = fs_check_lists(w)) != FS_OK)
        return r;
    if ((r = fs_count_if(w, w->super->root)) == FS_OK && w->super->root &&
        !fs_kind_at(w->heap, w->super->root, FS_TABLE, sizeof(fs_table)))
        return FS_BROKEN(w, "S5: the root is no table");
    if (r == FS_OK)
        r = fs_count_if(w, w->super->processes);
    for (uint64_t at = FS_FIRST; at < w->end && r == FS_OK; at = fs_block_next(w, at))
        if (w->state[at / FS_GRAIN] >= FS_IS_USED)
            r = fs_check_block(w, (fs_block *)(w->heap->base + at));
    if (r == FS_OK)
        r = fs_check_processes(w);
    if (r == FS_OK)
        r = fs_check_counts(w);
    return r == FS_OK ? fs_check_serials(w) : r;
}

/* Buries the dead, reaps, and then walks everything. FS_OK with the census; FS_CORRUPT with the first invariant that
 * does not hold; FS_BUSY, FS_INTERRUPTED, FS_PRIVATE_NOMEM. No lock of the heap or the reaper may be held; locks of objects
 * may. */
FS_COLD static int fs_check(const fs_self *me, fs_census *out, const char **broken) {
    fs_heap *heap = me->heap;
    fs_walk w = {.me = me, .heap = heap, .super = heap->super, .census = out};
    *broken = NULL;
    memset(out, 0, sizeof *out);
    int r = fs_bury(me);
    if (r == FS_OK || r == FS_BUSY)
        r = fs_reap(me);
    if (r == FS_OK || r == FS_BUSY)
        r = fs_reaper_enter(me, me->wait);
    if (r < 0) {
        if (r == FS_CORRUPT)
            *broken = "H0: the dead cannot be buried";
        return r;
    }
    if ((r = fs_reap_inside(me)) == FS_CORRUPT)
        w.broken = "H0: the dying cannot be reaped";
    if (r == FS_OK && (r = fs_heap_enter(me)) == FS_CORRUPT)
        w.broken = "H1: the undo log is damaged";
    if (r >= 0) {
        w.deadline = fs_now() + FS_CHECK_PATIENCE;
        r = fs_check_inside(&w);
        out->size = heap->super->size;
        out->committed = w.end;
        fs_heap_leave(me);
    }
    fs_leave(me, &heap->super->reaper);
    free(w.count);
    free(w.doubt);
    free(w.state);
    free(w.owned);
    free(w.serials);
    *broken = r == FS_CORRUPT ? w.broken : NULL;
    fs_reap(me); /* what died meanwhile was left to us */
    return r;
}

#endif
