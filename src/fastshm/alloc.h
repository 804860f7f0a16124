/* alloc.h: whose bytes are whose: allocation, references and the undo log that makes both whole.
 *
 * Every byte between FS_FIRST and super->committed belongs to exactly one block. A block is free (in a bin or a quick list) or
 * referred to by block->refs OWNING SLOTS: 64-bit words, somewhere in the segment, that hold its offset (a process's handle
 * slots, a table's values, a redo record's `own`). A slot and the count change together, so nothing is ever owned by nobody.
 *
 * All of it is changed under super->heap by way of fs_set(), which first writes the word's old value to the undo log.
 * fs_commit() empties the log: that one store is the instant at which a change happens. Whoever takes the lock over from a dead
 * process copies the old values back, newest first (fs_heap_repair); doing that twice does no harm, so it may itself be cut
 * short.
 *
 *   undo_n   meaning                          a death here leaves
 *   0        nothing under way                the state as it is
 *   n > 0    n words may have been changed    the state before the first of them
 *   > 64     damage                           FS_CORRUPT for whoever enters the heap
 *
 * Free blocks lie in segregated bins (exact up to 15 grains, then 8 per power of two) with a bitmap, merged with free
 * neighbours at once: TLSF (Masmano et al., 2004), good fit in O(1). Blocks of up to 8 grains pass through short
 * last-in-first-out quick lists, unmerged. The payload of a block being allocated is dead until the commit, except for its
 * first two words (the links), which are logged: so an object is filled before it exists.
 */
#ifndef FASTSHM_ALLOC_H
#define FASTSHM_ALLOC_H

#include "lock.h"

#define FS_UNDO_DAMAGED (FS_UNDO_WORDS + 1ull)

/* --- undo ---------------------------------------------------------------------------------------------------------------- */

static inline void fs_set(fs_heap *heap, void *word, uint64_t value) {
    fs_super *s = heap->super;
    uint64_t n = fs_load_relaxed(&s->undo_n), *p = word;
    if (fs_unlikely(n >= FS_UNDO_WORDS)) { /* none of ours is as long: somebody has damaged the log in the middle of it */
        fs_store_relaxed(&s->undo_n, FS_UNDO_DAMAGED);
        return;
    }
    s->undo[n].at = fs_offset(heap, p);
    s->undo[n].was = *p;
    fs_crash_order();
    fs_store_relaxed(&s->undo_n, n + 1);
    fs_crash_order();
    fs_store_relaxed(p, value); /* others may be looking at the word: it is one store */
}

static inline void fs_commit(fs_heap *heap) {
    fs_crash_order();
    if (fs_likely(fs_load_relaxed(&heap->super->undo_n) <= FS_UNDO_WORDS))
        fs_store_relaxed(&heap->super->undo_n, 0);
    fs_crash_order();
}

FS_COLD static int fs_rollback(fs_heap *heap) {
    fs_super *s = heap->super;
    uint64_t n = fs_load_relaxed(&s->undo_n);
    if (n > FS_UNDO_WORDS)
        return FS_CORRUPT;
    for (uint64_t i = n; i-- > 0;) {
        uint64_t at = fs_load_relaxed(&s->undo[i].at);
        if (at % 8 || at < 64 || at > heap->size - 8 || (at >= FS_FIRST && !fs_at(heap, at, 8)))
            return FS_CORRUPT;
        fs_store_relaxed((uint64_t *)(heap->base + at), s->undo[i].was);
    }
    fs_commit(heap);
    return FS_OK;
}

FS_COLD static int fs_heap_mend(fs_heap *heap, uint32_t id) {
    fs_lock *l = &heap->super->heap;
    fs_self me = {heap, id, 0};
    if (!fs_load_acquire(&heap->super->undo_n) || fs_is_mine(&me, l))
        return 1;
    if (fs_lock_try(heap, l, id) < 0)
        return 0;
    if (heap->super->undo_n)
        fs_rollback(heap); /* damage: whoever enters the heap next is told so */
    fs_leave(&me, l);
    return 1;
}

static inline int fs_heap_enter(const fs_self *me) {
    fs_lock *l = &me->heap->super->heap;
    if (fs_likely(fs_cas_u32(&l->word, 0, me->id))) {
        if (fs_likely(!me->heap->super->undo_n))
            return FS_OK;
    } else {
        if (fs_unlikely(fs_is_mine(me, l))) /* nobody enters it twice: the word is damaged, and we would wait for ourselves */
            return FS_CORRUPT;
        int r = fs_lock_wait(me->heap, l, me->id, me->wait ? -1 : 0);
        if (r < 0)
            return r;
    }
    if (me->heap->super->undo_n && fs_rollback(me->heap) != FS_OK) {
        fs_leave(me, l);
        return FS_CORRUPT;
    }
    return FS_OK;
}

static inline void fs_heap_leave(const fs_self *me) { fs_leave(me, &me->heap->super->heap); }

static inline int fs_heap_fail(const fs_self *me, int code) {
    if (fs_rollback(me->heap) != FS_OK)
        code = FS_CORRUPT;
    fs_heap_leave(me);
    return code;
}

/* --- bins ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
    fs_block block;
    uint64_t next, previous;
} fs_free;

static inline unsigned fs_bin_of(uint64_t grains) {
    if (grains < 16)
        return (unsigned)grains;
    unsigned log = 63 - (unsigned)__builtin_clzll(grains);
    unsigned bin = 16 + (log - 4) * 8 + ((grains >> (log - 3)) & 7);
    return bin < FS_BINS ? bin : FS_BINS - 1;
}

static inline fs_free *fs_free_at(fs_heap *heap, uint64_t offset, uint32_t kind) {
    fs_free *f = (fs_free *)fs_block_at(heap, offset);
    return f && f->block.kind == kind ? f : NULL;
}

static int fs_bin_insert(fs_heap *heap, fs_free *f, uint64_t grains) {
    fs_super *s = heap->super;
    unsigned bin = fs_bin_of(grains);
    uint64_t head = s->bin[bin], offset = fs_offset(heap, f);
    if (head) {
        fs_free *h = fs_free_at(heap, head, FS_FREE);
        if (!h || !(s->bitmap[bin / 64] >> bin % 64 & 1)) /* nobody would find it there */
            return FS_CORRUPT;
        fs_set(heap, &h->previous, offset);
    } else {
        fs_set(heap, &s->bitmap[bin / 64], s->bitmap[bin / 64] | 1ull << bin % 64);
    }
    fs_set(heap, &f->next, head);
    fs_set(heap, &f->previous, 0);
    fs_set(heap, &s->bin[bin], offset);
    return FS_OK;
}

static int fs_bin_remove(fs_heap *heap, fs_free *f) {
    fs_super *s = heap->super;
    unsigned bin = fs_bin_of(f->block.size);
    fs_free *next = NULL, *previous = NULL;
    if (f->next && !(next = fs_free_at(heap, f->next, FS_FREE)))
        return FS_CORRUPT;
    if (f->previous && !(previous = fs_free_at(heap, f->previous, FS_FREE)))
        return FS_CORRUPT;
    if (!previous && s->bin[bin] != fs_offset(heap, f))
        return FS_CORRUPT;
    if (next)
        fs_set(heap, &next->previous, f->previous);
    if (previous)
        fs_set(heap, &previous->next, f->next);
    else {
        fs_set(heap, &s->bin[bin], f->next);
        if (!f->next)
            fs_set(heap, &s->bitmap[bin / 64], s->bitmap[bin / 64] & ~(1ull << bin % 64));
    }
    return FS_OK;
}

/* What lies behind `grains` grains from b on, NULL at the end. */
static inline fs_block *fs_after(fs_heap *heap, const fs_block *b, uint64_t grains) {
    uint64_t end = fs_offset(heap, b) + grains * FS_GRAIN;
    return end == heap->super->committed ? NULL : fs_block_at(heap, end);
}

/* --- taking and giving, under the heap's lock ---------------------------------------------------------------------------- */

/* A block that is in nobody's list, made part of the bins, merged with its free neighbours. Its payload is dead. */
static int fs_merge(fs_heap *heap, fs_block *b) {
    fs_super *s = heap->super;
    uint64_t at = fs_offset(heap, b), grains = fs_load_relaxed(&b->size);
    uint32_t previous = fs_load_relaxed(&b->previous);
    fs_block *after = NULL;
    if (at + grains * FS_GRAIN != s->committed) {
        if (!(after = fs_after(heap, b, grains)))
            return FS_CORRUPT;
        if (fs_load_relaxed(&after->kind) == FS_FREE) {
            if (fs_bin_remove(heap, (fs_free *)after) != FS_OK)
                return FS_CORRUPT;
            grains += fs_load_relaxed(&after->size);
            after = fs_after(heap, b, grains);
            if (!after && at + grains * FS_GRAIN != s->committed)
                return FS_CORRUPT;
        }
    }
    if (previous) {
        if ((uint64_t)previous * FS_GRAIN > at - FS_FIRST)
            return FS_CORRUPT;
        fs_block *p = fs_block_at(heap, at - (uint64_t)previous * FS_GRAIN);
        if (!p || fs_load_relaxed(&p->size) != previous)
            return FS_CORRUPT;
        if (fs_load_relaxed(&p->kind) == FS_FREE) {
            if (fs_bin_remove(heap, (fs_free *)p) != FS_OK)
                return FS_CORRUPT;
            grains += previous;
            previous = fs_load_relaxed(&p->previous);
            b = p;
        }
    }
    fs_set(heap, &b->size, fs_pair((uint32_t)grains, previous));
    fs_set(heap, &b->kind, fs_pair(FS_FREE, 0));
    if (after)
        fs_set(heap, &after->size, fs_pair(after->size, (uint32_t)grains));
    else
        fs_set(heap, &s->last_size, grains);
    return fs_bin_insert(heap, (fs_free *)b, grains);
}

static int fs_give(fs_heap *heap, fs_block *b) {
    fs_super *s = heap->super;
    uint32_t g = fs_load_relaxed(&b->size);
    if (g < FS_QUICK_SIZES && s->quick_n[g] < FS_QUICK_MOST) {
        fs_set(heap, &b->kind, fs_pair(FS_QUICK, 0));
        fs_set(heap, &((fs_free *)b)->next, s->quick[g]);
        fs_set(heap, &s->quick[g], fs_offset(heap, b));
        fs_set(heap, &s->quick_n[g], s->quick_n[g] + 1);
        return FS_OK;
    }
    return fs_merge(heap, b);
}

FS_COLD static int fs_flush_quick(fs_heap *heap) {
    fs_super *s = heap->super;
    for (unsigned g = 1; g < FS_QUICK_SIZES; g++)
        while (s->quick[g]) {
            fs_free *f = fs_free_at(heap, s->quick[g], FS_QUICK);
            if (!f)
                return FS_CORRUPT;
            fs_set(heap, &s->quick[g], f->next);
            fs_set(heap, &s->quick_n[g], s->quick_n[g] - 1);
            int r = fs_merge(heap, &f->block);
            if (r != FS_OK)
                return r;
            fs_commit(heap);
            if (fs_unlikely(s->undo_n))
                return FS_CORRUPT; /* damaged in the middle: nothing was taken off the list */
        }
    return FS_OK;
}

/* More pages at the end, as one free block. The pages exist before `committed` says so. */
FS_COLD static int fs_extend(fs_heap *heap, uint64_t grains) {
    fs_super *s = heap->super;
    uint64_t old = s->committed, chunk = old / 8;
    if (old < FS_FIRST || old % FS_GRAIN || old > heap->size || (old > FS_FIRST && !fs_at(heap, old - FS_GRAIN, FS_GRAIN)))
        return FS_CORRUPT;
    if (grains > (heap->size - old) / FS_GRAIN)
        return FS_NOMEM;
    chunk = chunk < 65536 ? 65536 : chunk > (32 << 20) ? 32 << 20 : chunk;
    chunk &= ~(uint64_t)4095;
    uint64_t need = (grains * FS_GRAIN + 4095) & ~(uint64_t)4095;
    if (chunk < need)
        chunk = need;
    if (chunk > heap->size - old)
        chunk = heap->size - old;
    int fd = fs_own_fd(heap, &heap->fd), r = fs_claim_pages(fd, old, chunk);
    if (r == FS_NOMEM && chunk > need) {
        chunk = need;
        r = fs_claim_pages(fd, old, chunk);
    }
    if (r != FS_OK)
        return r;
    fs_block *b = (fs_block *)(heap->base + old);
    b->size = (uint32_t)(chunk / FS_GRAIN);
    b->previous = (uint32_t)s->last_size;
    b->kind = FS_RAW;
    b->refs = 0;
    fs_set(heap, &s->committed, old + chunk);
    fs_set(heap, &s->last_size, chunk / FS_GRAIN);
    if (fs_load_relaxed(&heap->limit) < old + chunk)
        fs_store_relaxed(&heap->limit, old + chunk);
    r = fs_merge(heap, b);
    if (r == FS_OK)
        fs_commit(heap);
    return r;
}

/* The block becomes `grains` long; what is left of the `span` that it is to lie in becomes a free block. */
static int fs_resize(fs_heap *heap, fs_block *b, uint64_t span, uint64_t grains) {
    fs_super *s = heap->super;
    uint64_t at = fs_offset(heap, b), end = at + span * FS_GRAIN, rest = span - grains;
    fs_block *after = NULL;
    if (end != s->committed && !(after = fs_block_at(heap, end)))
        return FS_CORRUPT;
    if (b->size != grains)
        fs_set(heap, &b->size, fs_pair((uint32_t)grains, b->previous));
    uint64_t last = rest ? rest : grains;
    if (after && after->previous != last)
        fs_set(heap, &after->size, fs_pair(after->size, (uint32_t)last));
    else if (!after && s->last_size != last)
        fs_set(heap, &s->last_size, last);
    if (!rest)
        return FS_OK;
    fs_block *r = fs_at(heap, at + grains * FS_GRAIN, FS_GRAIN);
    if (!r)
        return FS_CORRUPT;
    r->size = (uint32_t)rest;
    r->previous = (uint32_t)grains;
    r->kind = FS_FREE;
    r->refs = 0;
    return fs_bin_insert(heap, (fs_free *)r, rest);
}

static int fs_take_from_bins(fs_heap *heap, uint64_t grains, fs_block **out) {
    fs_super *s = heap->super;
    /* Above the exact bins, a block of the request's own bin may be too small: look one bin higher, then in its own. */
    unsigned own = fs_bin_of(grains), bin = grains < 16 || own == FS_BINS - 1 ? own : own + 1;
    unsigned word = bin / 64;
    uint64_t bits = s->bitmap[word] & (~0ull << bin % 64);
    while (!bits && ++word < 4)
        bits = s->bitmap[word];
    fs_free *f = NULL;
    if (bits) {
        bin = word * 64 + (unsigned)__builtin_ctzll(bits);
        if (bin >= FS_BINS || !(f = fs_free_at(heap, s->bin[bin], FS_FREE)))
            return FS_CORRUPT;
    }
    uint64_t span = f ? fs_load_relaxed(&f->block.size) : 0;
    if (span < grains) {
        if (f && own < FS_BINS - 1) /* it does not belong into a bin as high as this */
            return FS_CORRUPT;
        uint64_t at = s->bin[own];
        f = NULL;
        for (int tries = 0; at && tries < 16; tries++) {
            fs_free *g = fs_free_at(heap, at, FS_FREE);
            if (!g)
                return FS_CORRUPT;
            span = fs_load_relaxed(&g->block.size);
            if (span >= grains) {
                f = g;
                break;
            }
            at = g->next;
        }
        if (!f)
            return FS_NOMEM;
    }
    if (!fs_at(heap, fs_offset(heap, f), span * FS_GRAIN) || fs_bin_remove(heap, f) != FS_OK)
        return FS_CORRUPT;
    fs_set(heap, &f->next, 0);
    fs_set(heap, &f->previous, 0);
    *out = &f->block;
    return fs_resize(heap, &f->block, span, grains);
}

/* A block of at least `bytes` payload, in no list and of no kind yet. Payload may be written at once. Call it first in a
 * transaction: growing the segment commits what was logged before. */
static int fs_take(fs_heap *heap, uint64_t bytes, fs_block **out) {
    fs_super *s = heap->super;
    uint64_t grains = (bytes + FS_HEADER + FS_GRAIN - 1) / FS_GRAIN;
    if (bytes > heap->size || grains > UINT32_MAX)
        return FS_NOMEM;
    if (grains < FS_QUICK_SIZES && s->quick[grains]) {
        fs_free *f = fs_free_at(heap, s->quick[grains], FS_QUICK);
        if (!f || f->block.size != grains || !fs_at(heap, fs_offset(heap, f), grains * FS_GRAIN))
            return FS_CORRUPT;
        fs_set(heap, &s->quick[grains], f->next);
        fs_set(heap, &s->quick_n[grains], s->quick_n[grains] - 1);
        fs_set(heap, &f->next, 0);
        *out = &f->block;
        return FS_OK;
    }
    int r = fs_take_from_bins(heap, grains, out);
    if (r != FS_NOMEM)
        return r;
    r = fs_extend(heap, grains);
    if (r == FS_NOMEM) {
        r = fs_flush_quick(heap);
        return r == FS_OK ? fs_take_from_bins(heap, grains, out) : r;
    }
    if (r == FS_OK)
        r = fs_take_from_bins(heap, grains, out);
    return r == FS_NOMEM ? FS_CORRUPT : r; /* there is room now, so the bins are damaged */
}

/* Gives a taken block its kind and its first owning slot, and commits. */
static inline void fs_publish(fs_heap *heap, fs_block *b, uint32_t kind, uint64_t *slot) {
    fs_set(heap, &b->kind, fs_pair(kind, 1));
    fs_set(heap, slot, fs_offset(heap, b));
    fs_commit(heap);
}

static int fs_alloc_to(const fs_self *me, uint64_t bytes, uint32_t kind, uint64_t *slot, fs_block **out) {
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    r = fs_take(me->heap, bytes, out);
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_publish(me->heap, *out, kind, slot);
    fs_heap_leave(me);
    return FS_OK;
}

/* The free block behind b, of at least `grains`, with the heap's lock held: the segment grows for it if b is the last but for
 * that. Its length to *found. FS_MISSING when what follows is in use or too short. */
static int fs_free_behind(fs_heap *heap, const fs_block *b, uint64_t grains, fs_block **out, uint64_t *found) {
    uint64_t size = fs_load_relaxed(&b->size);
    int r = FS_OK;
    for (int grown = 0;; grown = 1) {
        *out = fs_after(heap, b, size);
        *found = *out && fs_load_relaxed(&(*out)->kind) == FS_FREE ? fs_load_relaxed(&(*out)->size) : 0;
        if (*found >= grains)
            return FS_OK;
        if (grown || fs_offset(heap, b) + (size + *found) * FS_GRAIN != heap->super->committed)
            return FS_MISSING;
        if ((r = fs_extend(heap, grains - *found)) != FS_OK)
            return r == FS_NOMEM ? FS_MISSING : r; /* there may be room elsewhere */
    }
}

/* Makes an allocated block longer where it lies. FS_MISSING when what follows is in use. */
FS_UNUSED static int fs_lengthen(const fs_self *me, fs_block *b, uint64_t bytes) {
    fs_heap *heap = me->heap;
    uint64_t grains = (bytes + FS_HEADER + FS_GRAIN - 1) / FS_GRAIN, size, found;
    fs_block *after;
    if (bytes > heap->size || grains > UINT32_MAX)
        return FS_NOMEM;
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    size = fs_load_relaxed(&b->size);
    if (grains <= size) {
        fs_heap_leave(me);
        return FS_OK;
    }
    r = fs_free_behind(heap, b, grains - size, &after, &found);
    if (r == FS_OK)
        r = fs_bin_remove(heap, (fs_free *)after);
    if (r == FS_OK)
        r = fs_resize(heap, b, size + found, grains);
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_commit(heap);
    fs_heap_leave(me);
    return FS_OK;
}

/* As fs_alloc_to, of `grains` and right behind b; FS_MISSING when what follows is in use. */
FS_UNUSED static int fs_alloc_behind(const fs_self *me, const fs_block *b, uint64_t grains, uint32_t kind, uint64_t *slot) {
    fs_heap *heap = me->heap;
    fs_block *after;
    uint64_t found;
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    r = grains > heap->size / FS_GRAIN ? FS_MISSING : fs_free_behind(heap, b, grains, &after, &found);
    if (r == FS_OK)
        r = fs_bin_remove(heap, (fs_free *)after);
    if (r == FS_OK) {
        fs_set(heap, &((fs_free *)after)->next, 0);
        fs_set(heap, &((fs_free *)after)->previous, 0);
        r = fs_resize(heap, after, found, grains);
    }
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_publish(heap, after, kind, slot);
    fs_heap_leave(me);
    return FS_OK;
}

/* --- references ---------------------------------------------------------------------------------------------------------- */

/* Blocks that own nothing are freed with their last reference. */
static inline int fs_is_leaf(const fs_block *b) {
    switch (b->kind) {
    case FS_RAW:
    case FS_BLOB:
    case FS_GATE:
    case FS_ITEMS:
        return 1;
    case FS_CELL:
    case FS_MUTEX:
    case FS_SEMAPHORE:
    case FS_EVENT:
    case FS_BARRIER:
    case FS_COUNTER:
        return !((const fs_object *)b)->gate;
    case FS_ARRAY:
        return b->size >= FS_ARRAY_DATA / FS_GRAIN && !((const fs_object *)b)->gate && !((const fs_array *)b)->stage &&
               !((const fs_array *)b)->items;
    default:
        return 0;
    }
}

/* Where a dying block keeps its link: a word that nothing needs any more. */
static inline uint64_t *fs_dying_link(fs_block *b) {
    switch (b->kind & ~(uint32_t)FS_DYING) {
    case FS_BUNDLE:
    case FS_ENTRIES:
    case FS_SLOTS:
    case FS_UNDO_LOG:
        return &((fs_entries *)b)->link;
    case FS_TICKET:
        return &((fs_ticket *)b)->serial;
    case FS_HANDLES:
        return &((fs_handles *)b)->spare;
    default:
        return &((fs_object *)b)->lock.version;
    }
}

/* Under the heap's lock, inside a transaction: one more, or one less, slot refers to b. */
static inline int fs_ref_inside(fs_heap *heap, fs_block *b, uint64_t *slot) {
    if (b->refs == UINT32_MAX || b->kind & FS_DYING || b->kind <= FS_QUICK)
        return FS_CORRUPT;
    fs_set(heap, &b->kind, fs_pair(b->kind, b->refs + 1));
    fs_set(heap, slot, fs_offset(heap, b));
    return FS_OK;
}

static inline int fs_drop_inside(fs_heap *heap, uint64_t *slot) {
    fs_super *s = heap->super;
    fs_block *b = fs_block_at(heap, *slot);
    if (!b || !b->refs || b->kind & FS_DYING || b->kind <= FS_QUICK)
        return FS_CORRUPT;
    fs_set(heap, slot, 0);
    if (b->refs > 1) {
        fs_set(heap, &b->kind, fs_pair(b->kind, b->refs - 1));
        return FS_OK;
    }
    if (fs_is_leaf(b))
        return fs_give(heap, b);
    fs_set(heap, fs_dying_link(b), s->dying);
    fs_set(heap, &b->kind, fs_pair(b->kind | FS_DYING, 0));
    fs_set(heap, &s->dying, fs_offset(heap, b));
    return FS_OK;
}

static inline int fs_ref_into(const fs_self *me, uint64_t offset, uint64_t *slot, int only_empty) {
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    if (only_empty && *slot) {
        fs_heap_leave(me);
        return FS_EXISTS;
    }
    fs_block *b = fs_block_at(me->heap, offset);
    r = b ? fs_ref_inside(me->heap, b, slot) : FS_CORRUPT;
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_commit(me->heap);
    fs_heap_leave(me);
    return FS_OK;
}

static int fs_ref_to(const fs_self *me, uint64_t offset, uint64_t *slot) { return fs_ref_into(me, offset, slot, 0); }

/* The same, unless the slot refers to something already: FS_EXISTS. */
FS_UNUSED static int fs_ref_first(const fs_self *me, uint64_t offset, uint64_t *slot) {
    return fs_ref_into(me, offset, slot, 1);
}

/* Empties an owning slot. What thereby dies and owns others is put on the dying list: fs_reap() frees it. */
static int fs_drop(const fs_self *me, uint64_t *slot) {
    /* In this order: a dead process's 0 may be about to be put back. */
    if (!fs_load_acquire(&me->heap->super->undo_n) && !fs_load_relaxed(slot))
        return FS_OK;
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    if (!*slot) {
        fs_heap_leave(me);
        return FS_OK;
    }
    r = fs_drop_inside(me->heap, slot);
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_commit(me->heap);
    fs_heap_leave(me);
    return FS_OK;
}

#endif
