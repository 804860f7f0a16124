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

#include "reap.h"

#define FS_CHECK_PATIENCE 60000000 /* ns for all locks together */
#define FS_CHECK_LOOKS 4000        /* at one object in motion */

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

/* --- who owns what ------------------------------------------------------------------------------------------------------- */

/* The block in use at `at`, or NULL. */
static fs_block *fs_used_at(const fs_walk *w, uint64_t at) {
    return at % FS_GRAIN || at < FS_FIRST || at >= w->end || w->state[at / FS_GRAIN] != FS_IS_USED
               ? NULL
               : (fs_block *)(w->heap->base + at);
}

/* A slot that owns, and stands still. */
static int fs_count(fs_walk *w, uint64_t at, uint32_t doubt) {
    if (!fs_used_at(w, at))
        return FS_BROKEN(w, "H8: an owning slot does not hold the offset of a block in use");
    w->count[at / FS_GRAIN]++;
    w->doubt[at / FS_GRAIN] += doubt;
    return FS_OK;
}

static inline int fs_count_if(fs_walk *w, uint64_t at) { return at ? fs_count(w, at, 0) : FS_OK; }

/* A slot of an object that is being looked at. */
static inline int fs_own(fs_walk *w, uint64_t at, int doubt) {
    if (fs_unlikely(at % FS_GRAIN))
        return FS_BROKEN(w, "H8: an owning slot does not hold the offset of a block in use");
    return fs_push(&w->owned, &w->owned_n, &w->owned_room, at | (uint64_t)doubt);
}

/* A word as it is once the committed list is stored. */
static inline uint64_t fs_word(const fs_walk *w, const uint64_t *p) {
    uint64_t word = fs_load_acquire(p); /* pairs with the stores of kinds and counts: what they cover is filled */
    if (fs_unlikely(w->list != NULL))
        for (uint64_t i = 0; i < w->list->n; i++)
            if (w->list->redo[i].at == fs_offset(w->heap, p))
                word = w->list->redo[i].word;
    return word;
}

static uint32_t fs_kind_word(const fs_walk *w, const fs_block *b) {
    union {
        uint64_t word;
        uint32_t half[2];
    } u = {fs_word(w, (const uint64_t *)&b->kind)};
    return u.half[0];
}

typedef struct {
    int partly;      /* 0 is allowed where something is to be owned: it is being made or dropped */
    uint64_t top;    /* entry that the undo log's last item is about */
    uint64_t old;    /* what that item owns, or 0 */
    uint64_t fresh;  /* redo.own[0] */
} fs_lax;

static int fs_own_entries(fs_walk *w, fs_entries *e, uint64_t n, const fs_lax *lax) {
    int r = FS_OK;
    if (n > (fs_room(w->heap, &e->block) - sizeof(fs_entries)) / sizeof(fs_entry))
        return FS_BROKEN(w, "T2: more entries than the block has room for");
    for (uint64_t i = 0; i < n && r == FS_OK; i++) {
        fs_entry h;
        h.head = fs_word(w, &e->entry[i].head);
        if (!h.kind)
            continue;
        if (h.form & FS_KEY_IN_BLOB) {
            uint64_t blob = fs_load_relaxed(&e->entry[i].key.blob);
            if (blob || !lax->partly)
                r = fs_own(w, blob, 0);
        }
        if (r == FS_OK && fs_owning(h.kind)) {
            uint64_t value = fs_word(w, &e->entry[i].value);
            if (lax->top == i && value && (value == lax->fresh || value == lax->old)) {
                if (h.kind == FS_V_OBJECT)
                    r = fs_own(w, value, 1);
            } else if (value || !lax->partly) {
                r = fs_own(w, value, 0);
            }
        }
    }
    return r;
}

static int fs_own_slots(fs_walk *w, fs_slots *s, uint64_t from, uint64_t to, uint64_t hole, int partly) {
    int r = FS_OK;
    if (from > to || to > (fs_room(w->heap, &s->block) - sizeof(fs_slots)) / sizeof(fs_slot))
        return FS_BROKEN(w, "V2: more slots than the block has room for");
    for (uint64_t i = from; i < to && r == FS_OK; i++) {
        if (i == hole || !fs_owning(fs_word(w, &s->slot[i].about) & 255))
            continue;
        uint64_t value = fs_word(w, &s->slot[i].value);
        if (value || !partly)
            r = fs_own(w, value, 0);
    }
    return r;
}

static int fs_own_undo(fs_walk *w, fs_undo_log *log, uint64_t n) {
    int r = FS_OK;
    if (n > (fs_room(w->heap, &log->block) - sizeof(fs_undo_log)) / sizeof(fs_undo_entry))
        return FS_BROKEN(w, "R4: more undo entries than the block has room for");
    for (uint64_t i = 0; i < n && r == FS_OK; i++) {
        fs_undo_entry *u = &log->undo[i];
        uint64_t value = fs_load_relaxed(&u->value);
        if (fs_owning(fs_load_relaxed(&u->about) & 255) && value)
            r = fs_own(w, value, 0);
    }
    return r;
}

/* What a block that owns by its own n owns: a dying one, or one in own[] or drop[]. */
static int fs_own_content(fs_walk *w, fs_block *b, uint32_t kind) {
    static const fs_lax partly = {1, UINT64_MAX, 0, 0};
    if (fs_room(w->heap, b) < fs_kind_size(kind))
        return FS_BROKEN(w, "H3: a block is too small for its kind");
    switch (kind) {
    case FS_ENTRIES:
        return fs_own_entries(w, (fs_entries *)b, fs_word(w, &((fs_entries *)b)->n), &partly);
    case FS_SLOTS:
        return fs_own_slots(w, (fs_slots *)b, 0, fs_word(w, &((fs_slots *)b)->n), UINT64_MAX, 1);
    case FS_UNDO_LOG:
        return fs_own_undo(w, (fs_undo_log *)b, fs_load_acquire(&((fs_undo_log *)b)->n));
    default:
        return FS_OK;
    }
}

static int fs_own_whole(fs_walk *w, uint64_t at) {
    fs_block *b = fs_used_at(w, at);
    int r = fs_own(w, at, 0);
    return r == FS_OK && b ? fs_own_content(w, b, fs_kind_word(w, b)) : r;
}

/* What own[] and drop[] own; sets w->list. `c`, a private copy of `o`, is changed to what that will be. */
static int fs_own_redo(fs_walk *w, fs_block *o, fs_block *c, uint64_t bytes, fs_redo *r) {
    int code = FS_OK, own = 0, drop = 0;
    w->list = NULL;
    switch (r->state) {
    case FS_IDLE:
        break;
    case FS_COMMITTED:
        if (r->n > FS_REDO_WORDS)
            return FS_BROKEN(w, "R2: a redo list is too long");
        drop = 1;
        if (r->n)
            w->list = r;
        break;
    case FS_SHIFT_UP:
    case FS_SHIFT_DOWN:
        own = drop = 1;
        break;
    case FS_PREPARING:
    case FS_FILL:
    case FS_BATCH:
        own = 1;
        break;
    default:
        return FS_BROKEN(w, "R1: a redo record's state is unknown");
    }
    if (w->list)
        for (uint64_t i = 0; i < r->n; i++) {
            uint64_t at = r->redo[i].at, first = fs_offset(w->heap, o);
            if (at % 8 || at < FS_FIRST || at > w->end - 8)
                return FS_BROKEN(w, "R2: a redo list leads out of the segment");
            if (at >= first + sizeof(fs_object) && at < first + bytes) {
                uint64_t redo = (uint64_t)((char *)r - (char *)c), batch = (uint64_t)((char *)&r->batch - (char *)c);
                if (at - first >= redo && at - first != batch)
                    return FS_BROKEN(w, "R2: a redo list would store into itself");
                memcpy((char *)c + (at - first), &r->redo[i].word, 8);
            }
        }
    for (int i = 0; i < FS_REDO_OWNED && code == FS_OK; i++) {
        if (own && r->own[i])
            code = fs_own_whole(w, r->own[i]);
        if (drop && code == FS_OK && r->drop[i])
            code = fs_own_whole(w, r->drop[i]);
    }
    return code;
}

/* Does a table have something to own on its way? */
static int fs_is_moving(const fs_redo *r) {
    uint64_t any = r->batch;
    for (int i = 0; i < FS_REDO_OWNED; i++)
        any |= r->own[i] | r->drop[i];
    return any != 0;
}

static int fs_own_table(fs_walk *w, fs_table *o, fs_table *t, int still) {
    fs_redo *r = &t->redo;
    fs_lax lax = {!still || r->state == FS_BATCH || o->o.block.kind & FS_DYING, UINT64_MAX, 0, 0};
    if (!still && !fs_is_moving(r))
        r->state = FS_IDLE; /* what the list says is about words that own nothing, and may be half written */
    if (r->state > FS_BATCH)
        return FS_BROKEN(w, "R1: a table's redo state is unknown");
    int code = fs_own_redo(w, &o->o.block, &t->o.block, sizeof *t, r);
    if (code == FS_OK && r->batch) {
        fs_undo_log *log = (fs_undo_log *)fs_used_at(w, r->batch);
        if (r->state == FS_BATCH && log && fs_kind_word(w, &log->block) == FS_UNDO_LOG) {
            uint64_t n = fs_load_acquire(&log->n);
            if (n && n <= (fs_room(w->heap, &log->block) - sizeof(fs_undo_log)) / sizeof(fs_undo_entry)) {
                fs_undo_entry *u = &log->undo[n - 1];
                lax.top = fs_load_relaxed(&u->entry);
                lax.fresh = r->own[0];
                lax.old = fs_owning(fs_load_relaxed(&u->about) & 255) ? fs_load_relaxed(&u->value) : 0;
            }
        }
        code = fs_own_whole(w, r->batch);
    }
    if (code == FS_OK && t->index)
        code = fs_own(w, t->index, 0);
    if (code == FS_OK && t->entries) {
        fs_entries *e = (fs_entries *)fs_used_at(w, t->entries);
        code = fs_own(w, t->entries, 0);
        if (code == FS_OK && e && fs_room(w->heap, &e->block) >= sizeof(fs_entries))
            code = fs_own_entries(w, e, fs_word(w, &e->n), &lax);
    }
    return code;
}

static int fs_own_vector(fs_walk *w, fs_vector *o, fs_vector *v) {
    fs_redo *r = &v->redo;
    if (r->state == FS_BATCH || r->batch)
        return FS_BROKEN(w, "R1: a vector has a batch");
    int code = fs_own_redo(w, &o->o.block, &v->o.block, sizeof *v, r);
    if (code != FS_OK || !v->slots)
        return code;
    fs_slots *s = (fs_slots *)fs_used_at(w, v->slots);
    code = fs_own(w, v->slots, 0);
    if (code != FS_OK || !s || fs_room(w->heap, &s->block) < sizeof(fs_slots))
        return code;
    if (o->o.block.kind & FS_DYING && !v->capacity) /* the reaper has told the block itself what it owns */
        return fs_own_slots(w, s, 0, s->n, UINT64_MAX, 1);
    if (v->start > v->capacity || v->n > v->capacity - v->start)
        return FS_BROKEN(w, "V1: more items than capacity");
    uint64_t end = v->start + v->n, hole = UINT64_MAX;
    if (r->state == FS_SHIFT_UP || r->state == FS_SHIFT_DOWN) {
        hole = r->before[0];
        end += r->state == FS_SHIFT_UP;
    }
    code = fs_own_slots(w, s, v->start, end, hole, 0);
    if (code == FS_OK && r->state == FS_FILL) {
        if (r->before[0] > v->capacity - end)
            return FS_BROKEN(w, "V1: more items than capacity");
        code = fs_own_slots(w, s, end, end + r->before[0], UINT64_MAX, 1);
    }
    return code;
}

/* --- tables, at rest ----------------------------------------------------------------------------------------------------- */

static int fs_check_value(fs_walk *w, uint32_t kind, uint32_t length, uint64_t value) {
    fs_seen seen = {kind, length, value, NULL, 0};
    if (!kind || kind > FS_V_LAST || (kind > FS_V_BYTES && kind < FS_V_OWNING))
        return FS_BROKEN(w, "T7: a value's kind is unknown");
    if (kind < FS_V_OWNING) {
        if (length > 8 || (length && kind < FS_V_ASCII))
            return FS_BROKEN(w, "T7: a value's length is wrong");
        return FS_OK;
    }
    fs_block *b = fs_used_at(w, value);
    if (!b || fs_value_look(w->heap, &seen) != FS_OK)
        return FS_BROKEN(w, "T7: a value's block is damaged");
    int right = kind == FS_V_OBJECT          ? b->kind >= FS_CELL && b->kind <= FS_LAST_OBJECT
                : fs_is_bundle(kind)         ? b->kind == FS_BUNDLE
                                             : b->kind == FS_BLOB;
    return right ? FS_OK : FS_BROKEN(w, "T7: a value's block is of another kind");
}

/* Key and value of a live entry, copied. */
static int fs_check_entry(fs_walk *w, uint64_t seed, const fs_entry *e) {
    uint8_t form = e->form & ~FS_KEY_IN_BLOB;
    uint64_t words[4] = {0}, hash;
    if (e->seq & 1)
        return FS_BROKEN(w, "T6: an entry is marked as being changed");
    if (!form || form > FS_K_LAST || e->display > FS_D_PICKLE)
        return FS_BROKEN(w, "T6: a key's form is unknown");
    if (e->form & FS_KEY_IN_BLOB) {
        fs_blob *b = (fs_blob *)fs_used_at(w, e->key.blob);
        uint64_t length = b ? fs_load_relaxed(&b->length) : 0;
        if (!b || b->block.kind != FS_BLOB || length > fs_room(w->heap, &b->block) - sizeof(fs_blob) ||
            length < e->key_length || (length == e->key_length && e->key_length <= FS_KEY_INLINE))
            return FS_BROKEN(w, "T6: a key's block is damaged");
        if (e->key_length <= FS_KEY_INLINE) {
            memcpy(words, b->bytes, e->key_length);
            hash = fs_hash_words(words, e->key_length, form, seed);
        } else {
            hash = fs_hash_bytes(b->bytes, e->key_length, form, seed);
        }
    } else {
        if (e->key_length > FS_KEY_INLINE)
            return FS_BROKEN(w, "T6: an inline key is too long");
        memcpy(words, e->key.words, e->key_length);
        if (memcmp(words, e->key.words, sizeof words))
            return FS_BROKEN(w, "T6: an inline key is not padded with zeros");
        hash = fs_hash_words(words, e->key_length, form, seed);
    }
    if (hash != e->hash)
        return FS_BROKEN(w, "T6: a key's hash is wrong");
    return fs_check_value(w, e->kind, e->length, e->value);
}

static int fs_same_key(const fs_walk *w, const fs_entry *x, const fs_entry *y) {
    const fs_entry *both[2] = {x, y};
    const unsigned char *bytes[2];
    uint32_t length = fs_load_relaxed(&x->key_length);
    if (y->hash != x->hash || (x->form ^ y->form) & ~FS_KEY_IN_BLOB || length != fs_load_relaxed(&y->key_length))
        return 0;
    for (int i = 0; i < 2; i++) {
        fs_blob *b = NULL;
        if (both[i]->form & FS_KEY_IN_BLOB)
            b = fs_at(w->heap, fs_load_relaxed(&both[i]->key.blob), sizeof(fs_blob) + length);
        bytes[i] = b ? b->bytes : (const unsigned char *)both[i]->key.words;
        if (!b && length > FS_KEY_INLINE)
            return 0;
    }
    return !memcmp(bytes[0], bytes[1], length);
}

/* Index and entries, one to one. */
static int fs_check_index(fs_walk *w, const fs_table *t, const fs_entries *e, uint64_t n, const uint64_t *index, uint64_t live,
                          uint8_t *seen) {
    uint64_t mask = t->mask, fill = 0, named = 0, empty = 0;
    for (uint64_t i = 0; i <= mask; i++) {
        uint64_t s = fs_load_relaxed(&index[i]);
        if (s == FS_EMPTY) {
            empty = i;
            continue;
        }
        fill++;
        if (s == FS_DELETED)
            continue;
        uint64_t number = (uint32_t)s - 2ull;
        if ((uint32_t)s < 2 || number >= n || !e->entry[number].kind || seen[number / 8] >> number % 8 & 1)
            return FS_BROKEN(w, "T4: an index slot names no live entry, or one that has a slot already");
        seen[number / 8] |= (uint8_t)(1 << number % 8);
        named++;
    }
    if (named != live)
        return FS_BROKEN(w, "T4: a live entry is named by no index slot");
    if (fill != t->fill || fill > mask)
        return FS_BROKEN(w, "T3: the count of index slots in use is wrong");
    /* once around, from an empty slot on; `empty` is the last one passed */
    for (uint64_t k = 1, start = empty; k <= mask; k++) {
        uint64_t i = (start + k) & mask, s = fs_load_relaxed(&index[i]);
        if (s == FS_EMPTY)
            empty = i;
        if ((uint32_t)s - 2ull >= n)
            continue;
        if (k + 16 <= mask && (uint32_t)index[(i + 16) & mask] >= 2)
            __builtin_prefetch(&e->entry[(uint32_t)index[(i + 16) & mask] - 2]);
        const fs_entry *x = &e->entry[(uint32_t)s - 2];
        uint64_t steps = (i - x->hash) & mask;
        if (s >> 32 != fs_load_relaxed(&x->hash) >> 32)
            return FS_BROKEN(w, "T5: an index slot's tag is not that of its entry");
        if (steps >= ((i - empty) & mask))
            return FS_BROKEN(w, "T5: an entry cannot be reached from its hash");
        for (uint64_t j = steps; j; j--) {
            uint64_t other = fs_load_relaxed(&index[(i - j) & mask]);
            if (other >> 32 != s >> 32 || (uint32_t)other - 2ull >= n)
                continue;
            if (fs_same_key(w, x, &e->entry[(uint32_t)other - 2]))
                return FS_BROKEN(w, "T8: two entries have the same key");
        }
    }
    return FS_OK;
}

/* Of a copy. */
static int fs_check_table(fs_walk *w, const fs_table *t) {
    if (!t->entries) {
        if (t->index || t->mask || t->capacity || t->used || t->fill || t->others)
            return FS_BROKEN(w, "T1: a table without entries has something else");
        return FS_OK;
    }
    fs_entries *e = fs_kind_at(w->heap, t->entries, FS_ENTRIES, sizeof(fs_entries));
    fs_block *b = fs_kind_at(w->heap, t->index, FS_RAW, FS_HEADER);
    if (!e || !b)
        return FS_BROKEN(w, "T1: a table's blocks are of another kind");
    if (t->mask & (t->mask + 1) || t->mask < 7 || t->mask > UINT32_MAX || (t->mask + 1) * 8 > fs_room(w->heap, b) - FS_HEADER)
        return FS_BROKEN(w, "T2: a table's mask is wrong");
    if (t->capacity > (t->mask + 1) * 2 / 3 ||
        t->capacity * sizeof(fs_entry) > fs_room(w->heap, &e->block) - sizeof(fs_entries))
        return FS_BROKEN(w, "T2: a table's capacity is wrong");
    uint64_t n = fs_load_relaxed(&e->n);
    if (n > t->capacity || t->fill > t->capacity)
        return FS_BROKEN(w, "T3: a table holds more than its capacity");
    uint64_t live = 0, others = 0;
    for (uint64_t i = 0; i < n; i++) {
        fs_entry x;
        fs_entry_copy(&x, &e->entry[i]);
        if (!x.kind)
            continue;
        int r = fs_check_entry(w, t->seed, &x);
        if (r != FS_OK)
            return r;
        live++;
        others += (x.form & ~FS_KEY_IN_BLOB) == FS_K_OTHER;
    }
    if (n && !e->entry[n - 1].kind)
        return FS_BROKEN(w, "T3: a table's last entry is not alive");
    if (live != t->used)
        return FS_BROKEN(w, "T3: the count of live entries is wrong");
    if (others != t->others)
        return FS_BROKEN(w, "T3: the count of keys that only Python compares is wrong");
    uint8_t *seen = calloc(n / 8 + 1, 1);
    if (!seen)
        return FS_PRIVATE_NOMEM;
    int r = fs_check_index(w, t, e, n, (const uint64_t *)((const char *)b + FS_HEADER), live, seen);
    free(seen);
    return r;
}

/* Of a copy. */
static int fs_check_vector(fs_walk *w, const fs_vector *v) {
    if (!v->slots)
        return v->n || v->start || v->capacity ? FS_BROKEN(w, "V1: a vector without slots has items") : FS_OK;
    fs_slots *s = fs_kind_at(w->heap, v->slots, FS_SLOTS, sizeof(fs_slots));
    if (!s)
        return FS_BROKEN(w, "V1: a vector's slots are a block of another kind");
    if (!v->capacity || v->capacity > (fs_room(w->heap, &s->block) - sizeof(fs_slots)) / sizeof(fs_slot))
        return FS_BROKEN(w, "V2: a vector's capacity is wrong");
    if (v->start > v->capacity || v->n > v->capacity - v->start)
        return FS_BROKEN(w, "V1: more items than capacity");
    for (uint64_t i = v->start; i < v->start + v->n; i++) {
        uint64_t about = fs_load_relaxed(&s->slot[i].about);
        if (about >> 16 || fs_check_value(w, about & 255, about >> 8 & 255, s->slot[i].value) != FS_OK)
            return FS_BROKEN(w, "V3: an item is damaged");
    }
    return FS_OK;
}

/* Nothing is half done: readers may look. */
static inline int fs_is_whole(const fs_redo *r) {
    return r->state == FS_IDLE || r->state == FS_PREPARING || (r->state == FS_COMMITTED && !r->n);
}

static int fs_check_idle(fs_walk *w, const fs_redo *r) {
    if (r->state != FS_IDLE)
        return FS_OK;
    return r->n || fs_is_moving(r) ? FS_BROKEN(w, "R3: an idle redo record is not empty") : FS_OK;
}

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
