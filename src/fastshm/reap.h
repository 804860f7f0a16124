/* reap.h: what the dead leave: objects without references, and the records of processes that are gone.
 *
 * A block whose last reference went and that owns others is on the dying list (super->dying), newest first. Reaping works on
 * the head: it empties the block's owning slots one transaction at a time, which may push others in front, and frees the block
 * when it is the head again and empty. Each step leaves a list that the next one, of whatever process, can go on with.
 *
 * Everything here is done under super->reaper, which nobody waits for: whoever finds it held by the living leaves the work to
 * them.
 */
#ifndef FASTSHM_REAP_H
#define FASTSHM_REAP_H

#include "array.h"
#include "barrier.h"
#include "bounded.h"
#include "cell.h"
#include "counter.h"
#include "list.h"
#include "merge.h"
#include "registry.h"
#include "semaphore.h"
#include "snapshot.h"
#include "waiters.h"
#include "words.h"

static int fs_reaper_enter(const fs_self *me, int wait) {
    fs_lock *l = &me->heap->super->reaper;
    if (fs_cas_u32(&l->word, 0, me->id))
        return FS_OK;
    uint32_t w = fs_load_relaxed(&l->word), owner = w & FS_LOCK_OWNER;
    if (owner == me->id)
        return FS_BUSY;
    if (owner && !fs_alive(me->heap, owner) && fs_cas_u32(&l->word, w, me->id | FS_LOCK_WAITERS))
        return FS_OK;
    return wait ? fs_lock_wait(me->heap, l, me->id, -1) : FS_BUSY;
}

/* Empties what a dying block owns. */
static int fs_empty_block(const fs_self *me, fs_block *b) {
    fs_heap *heap = me->heap;
    uint64_t room = fs_room(heap, b), n;
    uint32_t kind = fs_load_relaxed(&b->kind) & ~(uint32_t)FS_DYING;
    int r = FS_OK;
    if (room < fs_kind_size(kind))
        return FS_CORRUPT;
    switch (kind) {
    case FS_BUNDLE: {
        fs_bundle *u = (fs_bundle *)b;
        if ((n = fs_load_relaxed(&u->count)) > (room - sizeof(fs_bundle)) / 8)
            return FS_CORRUPT;
        for (uint64_t i = 0; i < n && r == FS_OK; i++)
            r = fs_drop(me, &u->refs[i]);
        return r;
    }
    case FS_ENTRIES: {
        fs_entries *e = (fs_entries *)b;
        if ((n = fs_load_relaxed(&e->n)) > (room - sizeof(fs_entries)) / sizeof(fs_entry))
            return FS_CORRUPT;
        for (; n && r == FS_OK; n--) {
            fs_entry *x = &e->entry[n - 1];
            if (x->kind && x->form & FS_KEY_IN_BLOB)
                r = fs_drop(me, &x->key.blob);
            if (r == FS_OK && fs_owning(x->kind))
                r = fs_drop(me, &x->value);
            fs_crash_order();
            if (r == FS_OK)
                e->n = n - 1;
        }
        return r;
    }
    case FS_SLOTS: {
        fs_slots *s = (fs_slots *)b;
        if ((n = fs_load_relaxed(&s->n)) > (room - sizeof(fs_slots)) / sizeof(fs_slot))
            return FS_CORRUPT;
        for (; n && r == FS_OK; n--) {
            fs_slot *x = &s->slot[n - 1];
            if (fs_owning(fs_about_kind(x->about)))
                r = fs_drop(me, &x->value);
            fs_crash_order();
            if (r == FS_OK)
                s->n = n - 1;
        }
        return r;
    }
    case FS_UNDO_LOG: {
        fs_undo_log *l = (fs_undo_log *)b;
        if ((n = fs_load_relaxed(&l->n)) > (room - sizeof(fs_undo_log)) / sizeof(fs_undo_entry))
            return FS_CORRUPT;
        for (; n && r == FS_OK; n--) {
            fs_undo_entry *u = &l->undo[n - 1];
            if (fs_owning(u->about & 255))
                r = fs_drop(me, &u->value);
            fs_crash_order();
            if (r == FS_OK)
                l->n = n - 1;
        }
        return r;
    }
    case FS_HANDLES: {
        fs_handles *h = (fs_handles *)b;
        for (unsigned i = 0; i < FS_HANDLES_CHUNK && r == FS_OK; i++)
            r = fs_drop(me, &h->slot[i]);
        return r == FS_OK ? fs_drop(me, &h->more) : r;
    }
    case FS_TICKET:
        return fs_drop(me, &((fs_ticket *)b)->target);
    case FS_ARRAY:
        if ((r = fs_drop(me, &((fs_array *)b)->stage)) == FS_OK)
            r = fs_drop(me, &((fs_array *)b)->items);
        break;
    case FS_TABLE: {
        fs_table *t = (fs_table *)b;
        uint64_t link = t->o.lock.version & ~(uint64_t)1; /* settling makes the version odd, and the version is the link now */
        r = fs_table_settle(me, t);
        t->o.lock.version = link;
        if (r == FS_OK)
            r = fs_drop(me, &t->entries);
        if (r == FS_OK)
            r = fs_drop(me, &t->index);
        break;
    }
    case FS_VECTOR: {
        fs_vector *v = (fs_vector *)b;
        fs_span s;
        uint64_t link = v->o.lock.version & ~(uint64_t)1;
        r = fs_vector_settle(me, v);
        v->o.lock.version = link;
        if (r == FS_OK && v->slots && v->capacity) {
            if ((r = fs_span_make(heap, v, &s)) != FS_OK || !s.slots)
                return FS_CORRUPT;
            for (uint64_t i = 0; i < s.start; i++)
                s.slots->slot[i].about = 0;
            s.slots->n = s.start + s.n;
            fs_crash_order();
            v->capacity = 0; /* from here on the slots' own n counts, also when the drop must be tried again */
            fs_crash_order();
        }
        if (r == FS_OK)
            r = fs_drop(me, &v->slots);
        break;
    }
    case FS_BOUNDED:
        if ((r = fs_drop(me, &((fs_bounded *)b)->spare)) == FS_OK)
            r = fs_drop(me, &((fs_bounded *)b)->ledger);
        break;
    case FS_WAITERS:
        for (unsigned i = 0; i < FS_WAITER_CHUNKS && r == FS_OK; i++)
            r = fs_drop(me, &((fs_waiters *)b)->chunk[i]);
        break;
    case FS_CELL:
    case FS_MUTEX:
    case FS_SEMAPHORE:
    case FS_EVENT:
    case FS_BARRIER:
    case FS_COUNTER:
        break;
    default:
        return FS_CORRUPT;
    }
    return r == FS_OK ? fs_drop(me, &((fs_object *)b)->gate) : r;
}

/* Frees the head of the dying list, if it is still `offset`. */
static int fs_bury_head(const fs_self *me, uint64_t offset) {
    fs_heap *heap = me->heap;
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    if (heap->super->dying == offset) {
        fs_block *b = fs_block_at(heap, offset);
        if (!b)
            return fs_heap_fail(me, FS_CORRUPT);
        fs_set(heap, &heap->super->dying, *fs_dying_link(b));
        if ((r = fs_give(heap, b)) != FS_OK)
            return fs_heap_fail(me, r);
        fs_commit(heap);
    }
    fs_heap_leave(me);
    return FS_OK;
}

static int fs_reap_inside(const fs_self *me) {
    uint64_t head;
    int r = FS_OK;
    while (r == FS_OK) {
        if ((r = fs_heap_enter(me)) < 0) /* so that what is seen on the list is committed */
            return r;
        head = me->heap->super->dying;
        fs_heap_leave(me);
        if (!head)
            break;
        fs_block *b = fs_block_at(me->heap, head);
        if (!b || !(b->kind & FS_DYING))
            return FS_CORRUPT;
        r = fs_empty_block(me, b);
        if (r == FS_OK)
            r = fs_bury_head(me, head);
    }
    return r;
}

/* Frees what is on the dying list, unless somebody else is at it. */
FS_COLD static int fs_reap(const fs_self *me) {
    while (fs_load_relaxed(&me->heap->super->dying)) {
        int r = fs_reaper_enter(me, 0);
        if (r < 0)
            return r;
        r = fs_reap_inside(me);
        fs_leave(me, &me->heap->super->reaper);
        if (r != FS_OK)
            return r;
    }
    return FS_OK;
}

/* Gives back what a process holds and removes its record. */
static int fs_process_remove(const fs_self *me, uint64_t offset) {
    fs_heap *heap = me->heap;
    fs_process *p = fs_kind_at(heap, offset, FS_PROCESS, sizeof(fs_process));
    int r;
    if (!p)
        return FS_CORRUPT;
    for (unsigned i = 0; i < FS_HANDLES_INLINE; i++)
        if ((r = fs_drop(me, &p->slot[i])) != FS_OK)
            return r;
    if ((r = fs_drop(me, &p->more)) != FS_OK)
        return r;
    if ((r = fs_heap_enter(me)) < 0)
        return r;
    uint64_t *link = &heap->super->processes;
    fs_trail trail = {0};
    while (*link && *link != offset) {
        fs_process *q = fs_kind_at(heap, *link, FS_PROCESS, sizeof(fs_process));
        if (!q || fs_goes_round(&trail, fs_offset(heap, q)))
            return fs_heap_fail(me, FS_CORRUPT);
        link = &q->next;
    }
    if (!*link) { /* seen while it was being made, by somebody who died at it */
        fs_heap_leave(me);
        return FS_OK;
    }
    fs_set(heap, link, p->next);
    if ((r = fs_give(heap, &p->block)) != FS_OK)
        return fs_heap_fail(me, r);
    fs_commit(heap);
    fs_heap_leave(me);
    return FS_OK;
}

/* Removes the records of the dead. */
FS_COLD static int fs_bury(const fs_self *me) {
    fs_heap *heap = me->heap;
    int r = fs_reaper_enter(me, 0);
    if (r < 0)
        return r;
    uint64_t at = fs_load_acquire(&heap->super->processes);
    fs_trail trail = {0};
    while (at && r >= 0) {
        fs_process *p = fs_kind_at(heap, at, FS_PROCESS, sizeof(fs_process));
        if (!p || fs_goes_round(&trail, at)) {
            r = FS_CORRUPT;
            break;
        }
        uint64_t next = p->next;
        if (at != heap->process && !fs_alive(heap, p->id))
            r = fs_process_remove(me, at);
        at = next;
    }
    if (r >= 0)
        r = fs_reap_inside(me);
    fs_leave(me, &heap->super->reaper);
    return r < 0 ? r : FS_OK;
}

/* Gives up this process's record and numbers. 1 when nobody else is left, 0 when somebody is. The mapping stays. */
FS_COLD static int fs_part(const fs_self *me) {
    fs_heap *heap = me->heap;
    int kept = fs_load_relaxed(&heap->super->kept) != 0; /* then others may come at any time, and nobody is the last */
    int fd = fs_own_fd(heap, heap->by_process ? &heap->fd : &heap->live_fd);
    if (kept || fs_claim_all(fd, heap->by_process) == -1) {
        int r = fs_reaper_enter(me, 1);
        if (r >= 0) {
            r = fs_process_remove(me, heap->process);
            if (r == FS_OK)
                r = fs_reap_inside(me);
            fs_leave(me, &heap->super->reaper);
        }
        fs_unpin_claims(heap, 1); /* where the descriptor had to be opened anew, the claims of the lost one would keep us out */
        fs_unclaim_all(fd, heap->by_process);
        if (kept || fs_claim_all(fd, heap->by_process) == -1)
            return 0;
    }
    return 1;
}

/* Before a user gives the lock back, or after taking it over: readers may look again, so nothing may be half done. */
FS_UNUSED static int fs_object_settle(const fs_self *me, fs_object *o) {
    uint64_t room = fs_room(me->heap, &o->block);
    switch (o->block.kind) {
    case FS_ARRAY:
        return room < FS_ARRAY_DATA ? FS_CORRUPT : fs_array_settle(me, (fs_array *)o);
    case FS_TABLE:
        return room < sizeof(fs_table) ? FS_CORRUPT : fs_table_settle(me, (fs_table *)o);
    case FS_VECTOR:
        return room < sizeof(fs_vector) ? FS_CORRUPT : fs_vector_settle(me, (fs_vector *)o);
    default:
        return FS_OK;
    }
}

#endif
