/* check_blocks.h: the walk of check.h over the chain of blocks and the lists of the free and the dying. */
#ifndef FASTSHM_CHECK_BLOCKS_H
#define FASTSHM_CHECK_BLOCKS_H

#include "reap.h"

typedef struct {
    uint64_t size, committed;
    uint64_t bytes_used; /* blocks in use, headers included */
    uint64_t bytes_free; /* bytes_used + bytes_free + FS_FIRST == committed */
    uint64_t blocks;     /* in use */
    uint64_t cells, arrays, locks, tables, vectors, gates, tickets, processes;
    uint64_t semaphores, events, conditions, barriers, counters;
    uint64_t handles; /* handle slots that refer to something */
} fs_census;

enum { FS_INSIDE = 0, FS_IS_FREE = 1, FS_IS_QUICK = 2, FS_IS_USED = 3, FS_IS_DYING = 4, FS_LISTED = 0x80 };

typedef struct {
    const fs_self *me;
    fs_heap *heap;
    fs_super *super;
    uint64_t end; /* super->committed */
    fs_census *census;
    const char *broken;
    /* by offset / FS_GRAIN */
    uint32_t *count; /* owning slots seen */
    uint32_t *doubt; /* of these, how many may be another one's double */
    uint8_t *state;
    /* what one object owns: offset, or offset + 1 when in doubt */
    uint64_t *owned, owned_n, owned_room;
    uint64_t *serials, serial_n, serial_room;
    int64_t deadline;
    /* a committed list that is not stored yet */
    const fs_redo *list;
} fs_walk;

#define FS_BROKEN(w, text) ((w)->broken = (text), FS_CORRUPT)

static int fs_push(uint64_t **array, uint64_t *n, uint64_t *room, uint64_t word) {
    if (fs_unlikely(*n == *room)) {
        uint64_t more = *room * 2 + 64, *a = realloc(*array, more * 8);
        if (!a)
            return FS_PRIVATE_NOMEM;
        *array = a;
        *room = more;
    }
    (*array)[(*n)++] = word;
    return FS_OK;
}

/* --- blocks and lists ---------------------------------------------------------------------------------------------------- */

static int fs_can_die(uint32_t kind) {
    return kind >= FS_BUNDLE && kind <= FS_LAST_OBJECT && kind != FS_PROCESS && kind != FS_GATE && kind != FS_ITEMS &&
           fs_kind_size(kind);
}

static int fs_check_super(fs_walk *w) {
    fs_super *s = w->super;
    if (s->magic != FS_MAGIC || s->stamp != FS_STAMP || s->size != w->heap->size)
        return FS_BROKEN(w, "H1: the superblock's magic, stamp or size is wrong");
    if (w->end < FS_FIRST || w->end > s->size || w->end % FS_GRAIN ||
        (w->end > FS_FIRST && !fs_at(w->heap, w->end - FS_GRAIN, FS_GRAIN)))
        return FS_BROKEN(w, "H1: the superblock's committed size is wrong");
    if (s->undo_n)
        return FS_BROKEN(w, "H1: the undo log is not empty");
    return FS_OK;
}

/* Where the block behind the one at `at` starts, which the chain was once found to end with. Damage meanwhile ends the walk. */
static inline uint64_t fs_block_next(const fs_walk *w, uint64_t at) {
    uint64_t room = fs_room(w->heap, (fs_block *)(w->heap->base + at));
    return room && room < w->end - at ? at + room : w->end;
}

/* The chain: every byte belongs to exactly one block. */
static int fs_check_chain(fs_walk *w) {
    uint64_t at = FS_FIRST, previous = 0;
    int was_free = 0;
    while (at < w->end) {
        fs_block *b = fs_block_at(w->heap, at);
        uint64_t room = b ? (uint64_t)fs_load_relaxed(&b->size) * FS_GRAIN : 0;
        if (!room || room > w->end - at)
            return FS_BROKEN(w, "H2: a block's size is wrong");
        if (b->previous != previous)
            return FS_BROKEN(w, "H2: a block's previous size is not that of the block in front");
        uint32_t kind = fs_load_relaxed(&b->kind), refs = fs_load_relaxed(&b->refs), bare = kind & ~(uint32_t)FS_DYING;
        if (!fs_kind_size(bare) || (kind & FS_DYING && !fs_can_die(bare)))
            return FS_BROKEN(w, "H3: a block's kind is unknown");
        uint8_t state = kind == FS_FREE    ? FS_IS_FREE
                        : kind == FS_QUICK ? FS_IS_QUICK
                        : kind & FS_DYING  ? FS_IS_DYING
                                           : FS_IS_USED;
        if (state != FS_IS_USED && refs)
            return FS_BROKEN(w, "H3: a free or dying block has references");
        if (state == FS_IS_FREE && was_free)
            return FS_BROKEN(w, "H4: two free blocks lie side by side");
        was_free = state == FS_IS_FREE;
        w->state[at / FS_GRAIN] = state;
        if (state <= FS_IS_QUICK) {
            w->census->bytes_free += room;
        } else {
            w->census->bytes_used += room;
            w->census->blocks++;
        }
        previous = room / FS_GRAIN;
        at += room;
    }
    return w->super->last_size == previous ? FS_OK : FS_BROKEN(w, "H2: the last block's size is not in the superblock");
}

/* Each block once in one list: marks it. */
static int fs_list_once(fs_walk *w, uint64_t at, uint8_t state) {
    if (at % FS_GRAIN || at < FS_FIRST || at >= w->end || w->state[at / FS_GRAIN] != state)
        return 0;
    w->state[at / FS_GRAIN] |= FS_LISTED;
    return 1;
}

static int fs_check_lists(fs_walk *w) {
    fs_super *s = w->super;
    for (unsigned bin = 0; bin < 256; bin++) {
        uint64_t at = bin < FS_BINS ? s->bin[bin] : 0, previous = 0;
        if ((s->bitmap[bin / 64] >> bin % 64 & 1) != (at != 0))
            return FS_BROKEN(w, "H5: the bitmap and the bins disagree");
        while (at) {
            if (!fs_list_once(w, at, FS_IS_FREE))
                return FS_BROKEN(w, "H5: a bin holds what is not a free block, or one twice");
            fs_free *f = (fs_free *)(w->heap->base + at);
            if (fs_bin_of(f->block.size) != bin)
                return FS_BROKEN(w, "H5: a free block is in the wrong bin");
            if (f->previous != previous)
                return FS_BROKEN(w, "H5: a bin's links do not match");
            previous = at;
            at = f->next;
        }
    }
    for (unsigned g = 0; g < FS_QUICK_SIZES; g++) {
        uint64_t n = 0;
        for (uint64_t at = s->quick[g]; at; n++) {
            if (!fs_list_once(w, at, FS_IS_QUICK))
                return FS_BROKEN(w, "H6: a quick list holds what is not a quick block, or one twice");
            fs_free *f = (fs_free *)(w->heap->base + at);
            if (f->block.size != g)
                return FS_BROKEN(w, "H6: a quick block is in the list of another size");
            at = f->next;
        }
        if (n != s->quick_n[g] || n > FS_QUICK_MOST)
            return FS_BROKEN(w, "H6: a quick list's count is wrong");
    }
    for (uint64_t at = s->dying; at;) {
        if (!fs_list_once(w, at, FS_IS_DYING))
            return FS_BROKEN(w, "H7: the dying list holds what is not a dying block, or one twice");
        at = *fs_dying_link((fs_block *)(w->heap->base + at));
    }
    for (uint64_t at = FS_FIRST; at < w->end; at = fs_block_next(w, at)) {
        uint8_t state = w->state[at / FS_GRAIN];
        if (state == FS_IS_FREE)
            return FS_BROKEN(w, "H5: a free block is in no bin");
        if (state == FS_IS_QUICK)
            return FS_BROKEN(w, "H6: a quick block is in no list");
        if (state == FS_IS_DYING)
            return FS_BROKEN(w, "H7: a dying block is not in the list");
        w->state[at / FS_GRAIN] = state & ~FS_LISTED;
    }
    return FS_OK;
}

#endif
