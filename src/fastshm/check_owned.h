/* check_owned.h: which blocks an object owns, as check.h counts them; its comment has the rules. */
#ifndef FASTSHM_CHECK_OWNED_H
#define FASTSHM_CHECK_OWNED_H

#include "check_blocks.h"

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
    case FS_SPLICE:
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

/* What goes is owned by its copy in own[1], what comes by own[0] (fs_own_redo), what is moved by its old slot until the cursor has
 * passed. */
static int fs_own_splice(fs_walk *w, const fs_redo *r, const fs_vector *v, fs_slots *slots) {
    fs_span s = {slots, v->start, v->n, v->capacity};
    fs_splice p;
    if (fs_splice_make(w->heap, r, &s, &p) != FS_OK)
        return FS_BROKEN(w, "V4: a splice leads out of the slots");
    uint64_t left = p.to == p.from ? p.behind : p.behind - p.moved, done = p.behind - left;
    int up = p.to > p.from, code = fs_own_slots(w, slots, s.start, p.first, UINT64_MAX, 0);
    uint64_t from = up ? p.from : p.from + done, to = up ? p.to + left : p.to;
    if (code == FS_OK)
        code = fs_own_slots(w, slots, from, from + left, UINT64_MAX, 0);
    if (code == FS_OK)
        code = fs_own_slots(w, slots, to, to + done, UINT64_MAX, 0);
    if (code == FS_OK && r->own[1]) {
        fs_slots *old = (fs_slots *)fs_used_at(w, r->own[1]);
        if (!old || fs_room(w->heap, &old->block) < sizeof(fs_slots))
            return FS_BROKEN(w, "V4: a splice leads out of the slots");
        code = fs_own_slots(w, old, 0, fs_word(w, &old->n), UINT64_MAX, 0);
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
    if (r->state == FS_SPLICE)
        return fs_own_splice(w, r, v, s);
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

#endif
