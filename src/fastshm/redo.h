/* redo.h: how a table or a vector changes several words as one.
 *
 * The words to be stored are listed first, then `state` becomes FS_COMMITTED, and only then are they stored, in order. Readers
 * look without a lock, so nothing may be visible that could still be undone: what is visible is always committed.
 *
 *   state         meaning                                       whoever finds it (also after a death)
 *   IDLE          nothing under way                             nothing to do
 *   PREPARING     blocks in own[] belong to nobody else         drops own[], forgets the list
 *   COMMITTED     the list counts                               stores it (again), forgets own[], drops drop[]
 *   BATCH         a table's update, version odd                 table.h puts back what the undo log tells
 *   SHIFT, FILL   a vector's, version odd or out of sight       vector.h goes on where the cursor stands, or forgets
 *
 * fs_redo_settle() is both the ordinary end of a change and the repair. It can be cut short anywhere and run again, also by
 * FS_BUSY: then the next operation, of whatever process, settles first.
 */
#ifndef FASTSHM_REDO_H
#define FASTSHM_REDO_H

#include "alloc.h"

static inline void fs_redo_add(fs_heap *heap, fs_redo *r, void *word, uint64_t value) {
    uint64_t n = fs_load_relaxed(&r->n);
    if (fs_unlikely(n >= FS_REDO_WORDS)) { /* damage: such a list is never stored */
        r->n = FS_REDO_WORDS + 1;
        return;
    }
    r->redo[n].at = fs_offset(heap, word);
    r->redo[n].word = value;
    r->n = n + 1;
}

/* Before anything else of a change is written. The list is empty already, unless it is damaged. */
static inline void fs_redo_prepare(fs_redo *r) {
    r->n = 0;
    r->state = FS_PREPARING;
    fs_crash_order();
}

static int fs_redo_settle(const fs_self *me, fs_redo *r) {
    uint64_t n;
    int code;
    switch (r->state) {
    case FS_IDLE:
        return FS_OK;
    case FS_PREPARING:
        for (int i = 0; i < FS_REDO_OWNED; i++) {
            if ((code = fs_drop(me, &r->own[i])) != FS_OK)
                return code;
            r->drop[i] = 0;
        }
        r->n = 0;
        break;
    case FS_COMMITTED:
        n = fs_load_relaxed(&r->n);
        if (n > FS_REDO_WORDS)
            return FS_CORRUPT;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t *word = fs_at(me->heap, r->redo[i].at, 8);
            if (!word)
                return FS_CORRUPT;
            fs_store_release(word, r->redo[i].word);
        }
        fs_crash_order();
        r->n = 0;
        fs_crash_order();
        for (int i = 0; i < FS_REDO_OWNED; i++)
            if (r->own[i])
                r->own[i] = 0;
        fs_crash_order();
        for (int i = 0; i < FS_REDO_OWNED; i++)
            if ((code = fs_drop(me, &r->drop[i])) != FS_OK)
                return code;
        break;
    default:
        return FS_CORRUPT;
    }
    fs_crash_order();
    r->state = FS_IDLE;
    fs_crash_order();
    return FS_OK;
}

/* From here on the change is made, whatever happens. What could not be dropped yet is dropped by whoever comes next. */
static inline int fs_redo_commit(const fs_self *me, fs_redo *r) {
    fs_crash_order();
    r->state = FS_COMMITTED;
    fs_crash_order();
    return fs_redo_settle(me, r) == FS_CORRUPT ? FS_CORRUPT : FS_OK;
}

/* --- values -------------------------------------------------------------------------------------------------------------- */

/* A value on its way in: one word, or bytes (and objects they refer to), or what a handle slot of ours refers to already. */
typedef struct {
    uint32_t kind, length; /* FS_V_; length of inline bytes */
    uint64_t value;        /* the word, or the offset of the object for FS_V_OBJECT */
    const void *data;
    uint64_t size;
    const uint64_t *refs; /* offsets of objects, for bundles */
    uint64_t ref_count;
    uint64_t made; /* offset of the block that was made of it ahead; 0: none */
} fs_value;

static inline int fs_owning(uint64_t kind) { return kind >= FS_V_OWNING; }

static inline int fs_is_bundle(uint32_t kind) {
    return kind == FS_V_PICKLE_BUNDLE || kind == FS_V_PICKLE_BUFFERS || kind == FS_V_SHARED;
}

/* Room for a value's bytes, in a block that *slot refers to. They are to be filled in, and then the value finished. */
static int fs_value_begin(const fs_self *me, const fs_value *v, uint64_t *slot, fs_block **b, char **bytes) {
    int r;
    if (!fs_is_bundle(v->kind)) {
        if ((r = fs_alloc_to(me, 8 + v->size, FS_BLOB, slot, b)) != FS_OK)
            return r;
        ((fs_blob *)*b)->length = v->size;
        *bytes = (char *)((fs_blob *)*b)->bytes;
        return FS_OK;
    }
    if ((r = fs_alloc_to(me, sizeof(fs_bundle) - FS_HEADER + v->ref_count * 8 + v->size, FS_RAW, slot, b)) != FS_OK)
        return r;
    fs_bundle *u = (fs_bundle *)*b;
    u->length = v->size;
    u->count = v->ref_count;
    memset(u->refs, 0, v->ref_count * 8);
    *bytes = (char *)(u->refs + v->ref_count);
    return FS_OK;
}

static int fs_value_finish(const fs_self *me, const fs_value *v, fs_block *b) {
    int r = FS_OK;
    if (!fs_is_bundle(v->kind))
        return FS_OK;
    fs_crash_order();
    fs_store_release(&b->kind, FS_BUNDLE);
    fs_crash_order();
    for (uint64_t i = 0; i < v->ref_count && r == FS_OK; i++)
        if (!((fs_bundle *)b)->refs[i]) /* when it is tried again, some are there */
            r = fs_ref_to(me, v->refs[i], &((fs_bundle *)b)->refs[i]);
    return r;
}

/* Makes what an owning value needs, referred to by *slot; *word is what to store. */
static int fs_value_make(const fs_self *me, const fs_value *v, uint64_t *slot, uint64_t *word) {
    int r;
    if (v->kind == FS_V_OBJECT || v->made) {
        r = fs_ref_to(me, v->made ? v->made : v->value, slot);
    } else {
        fs_block *b;
        char *bytes;
        if ((r = fs_value_begin(me, v, slot, &b, &bytes)) != FS_OK)
            return r;
        memcpy(bytes, v->data, v->size);
        r = fs_value_finish(me, v, b);
    }
    *word = *slot;
    return r;
}

/* A value as it lies in shared memory. `data` may change under an optimistic reader, but never leaves the segment. */
typedef struct {
    uint32_t kind, length;
    uint64_t value;
    const unsigned char *data;
    uint64_t size;
} fs_seen;

static inline int fs_value_look(fs_heap *heap, fs_seen *out) {
    if (out->kind < FS_V_OWNING) {
        out->data = (const unsigned char *)&out->value;
        out->size = out->length > 8 ? 8 : out->length;
        return FS_OK;
    }
    uint64_t room, skip = sizeof(fs_blob);
    fs_blob *b = (fs_blob *)fs_block_at(heap, out->value);
    if (!b)
        return FS_CORRUPT;
    room = fs_room(heap, &b->block);
    if (fs_is_bundle(out->kind)) {
        uint64_t count = fs_load_relaxed(&((fs_bundle *)b)->count);
        if (count > room / 8)
            return FS_CORRUPT;
        skip = sizeof(fs_bundle) + count * 8;
    } else if (out->kind == FS_V_OBJECT) {
        out->data = NULL;
        out->size = 0;
        return FS_OK;
    }
    out->size = fs_load_relaxed(&b->length);
    if (skip > room || out->size > room - skip)
        return FS_CORRUPT;
    out->data = (const unsigned char *)b + skip;
    return FS_OK;
}

typedef int (*fs_maker)(void *out, const fs_seen *seen);

/* The bundle at `offset`, which a slot of ours refers to, and how many references it has; NULL when damaged. */
FS_UNUSED static fs_bundle *fs_bundle_at(fs_heap *heap, uint64_t offset, uint64_t *count) {
    fs_bundle *b = fs_kind_at(heap, offset, FS_BUNDLE, sizeof(fs_bundle));
    if (!b)
        return NULL;
    *count = fs_load_relaxed(&b->count);
    return *count <= (fs_room(heap, &b->block) - sizeof(fs_bundle)) / 8 ? b : NULL;
}

static inline int fs_needs_pin(uint32_t kind) { return kind == FS_V_OBJECT || fs_is_bundle(kind); }

/* Of the handle slots that a reader offers, by their offsets, the last are 0 when there were not enough: then only what needs a
 * pin gets one, and many bytes are copied under the lock. */
static inline int fs_is_short(const uint64_t *slots, uint64_t room) { return room && !slots[room - 1]; }

/* Is it read out of shared memory after the lock was left, while a handle slot refers to it? What it refers to never
 * changes. */
static inline int fs_is_pinned(const fs_seen *s, int is_short) {
    return fs_owning(s->kind) && (fs_needs_pin(s->kind) || (!is_short && s->size >= FS_LARGE));
}

static inline int fs_pin(const fs_self *me, uint64_t value, uint64_t slot) {
    return slot ? fs_ref_to(me, value, (uint64_t *)(me->heap->base + slot)) : FS_NOMEM;
}

/* A value copied out under its container's lock, or pinned under it, to be made into an object after it. */
typedef struct {
    uint32_t kind, length;
    uint64_t value;
    unsigned char *data; /* malloc'ed, for owning kinds; NULL when the pin refers to the value */
    uint64_t size;
} fs_copy;

/* `pin` is the offset of an empty handle slot, to refer to an owning value; FS_RANGE when one is needed and none is offered,
 * FS_NOMEM when that is 0. */
FS_UNUSED static int fs_copy_out(const fs_self *me, const fs_seen *s, const uint64_t *pin, fs_copy *out) {
    out->kind = s->kind;
    out->length = s->length;
    out->value = s->value;
    out->data = NULL;
    out->size = 0;
    if (!fs_owning(s->kind))
        return FS_OK;
    if (pin && (*pin || fs_needs_pin(s->kind)))
        return fs_pin(me, s->value, *pin);
    if (!pin && fs_is_pinned(s, 0))
        return FS_RANGE;
    if (!(out->data = malloc(s->size + 1)))
        return FS_PRIVATE_NOMEM;
    memcpy(out->data, s->data, s->size);
    out->size = s->size;
    return FS_OK;
}

#endif
