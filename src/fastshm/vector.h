/* vector.h: a sequence of values, read without a lock.
 *
 *   vector --slots--> [ ....... | slot | slot | slot | ....... ]
 *                               start             start + n     capacity
 *
 * Appending fills a slot that nobody reads and publishes it by one store to n. A value of one word is replaced by one store.
 * Every other change makes the version odd, so a reader needs only the version.
 *
 * Inserting and deleting in the middle move slots one at a time with a cursor (SHIFT_UP, SHIFT_DOWN), committed before the
 * first move: whoever finds the vector so goes on from the cursor, and moving a slot twice does no harm. It needs no memory, so
 * deleting works when there is none. A splice (other items instead of some that are neighbours) moves those behind likewise, by
 * more than one slot. Sorting, extended slices and the like build new slots beside the old ones and swap them.
 *
 *   cost        get, set, append, pop at either end O(1) (append amortised); insert, delete, splice O(n) moves, none when as
 *               many come as go; the rest O(n)
 *   invariants  start + n <= capacity; slots outside [start, start + n) own nothing, but for the first before[0] behind the end
 *               while FS_FILL
 */
#ifndef FASTSHM_VECTOR_H
#define FASTSHM_VECTOR_H

#include "redo.h"

typedef struct {
    fs_slots *slots;
    uint64_t start, n, capacity;
} fs_span;

static int fs_span_make(fs_heap *heap, fs_vector *v, fs_span *s) {
    uint64_t at = fs_load_relaxed(&v->slots);
    s->n = fs_load_acquire(&v->n); /* pairs with the store that publishes an appended slot */
    s->start = fs_load_relaxed(&v->start);
    s->capacity = fs_load_relaxed(&v->capacity);
    s->slots = NULL;
    if (!at)
        return s->n || s->start || s->capacity ? FS_CORRUPT : FS_OK;
    if (s->capacity > heap->size / sizeof(fs_slot) || s->start > s->capacity || s->n > s->capacity - s->start)
        return FS_CORRUPT;
    s->slots = fs_kind_at(heap, at, FS_SLOTS, sizeof(fs_slots) + s->capacity * sizeof(fs_slot));
    return s->slots ? FS_OK : FS_CORRUPT;
}

static inline void fs_slot_copy(fs_slot *to, const fs_slot *from) { /* others may be looking, also the checker */
    fs_store_relaxed(&to->about, from->about);
    fs_store_relaxed(&to->value, from->value);
}

static inline uint32_t fs_about_kind(uint64_t about) { return about & 255; }

static inline uint64_t fs_about(const fs_value *v) { return (uint64_t)v->kind | (uint64_t)v->length << 8; }

static inline int fs_slot_look(fs_heap *heap, const fs_slot *slot, fs_seen *out) {
    uint64_t about = fs_load_relaxed(&slot->about);
    out->kind = about & 255;
    out->length = about >> 8 & 255;
    out->value = fs_load_acquire(&slot->value); /* pairs with the store in fs_vector_set */
    return out->kind ? fs_value_look(heap, out) : FS_CORRUPT;
}

/* What an optimistic look found, for fs_vector_peek_valid. */
typedef struct {
    uint64_t version, n;
} fs_glance;

/* An optimistic look at item i (counted from the end when negative); it counts once fs_vector_peek_valid says so. */
static inline int fs_vector_peek(fs_heap *heap, fs_vector *v, int64_t i, fs_glance *g, fs_seen *out) {
    fs_span s;
    g->version = fs_read_begin(&v->o.lock);
    if (fs_unlikely(g->version & 1))
        return FS_BUSY;
    int r = fs_span_make(heap, v, &s);
    if (r != FS_OK)
        return r;
    g->n = s.n;
    if (i < 0)
        i += (int64_t)s.n;
    if (i < 0 || (uint64_t)i >= s.n)
        return FS_RANGE;
    return fs_slot_look(heap, &s.slots->slot[s.start + (uint64_t)i], out);
}

/* An item counted from the end is the one it was taken for only while nothing was appended, which the version does not tell. */
static inline int fs_vector_peek_valid(const fs_vector *v, int64_t i, const fs_glance *g) {
    fs_fence_acquire();
    if (i < 0 && fs_load_relaxed(&v->n) != g->n)
        return 0;
    return fs_load_relaxed(&v->o.lock.version) == g->version;
}

/* Before anything of a change is seen. A change of one word leaves the version alone, so who reads several items looks here,
 * too. */
static inline void fs_vector_stamp(fs_vector *v) { fs_store_relaxed(&v->stamp, v->stamp + 1); }

/* --- settling ------------------------------------------------------------------------------------------------------------ */

/* A splice under way, out of the redo record: what lies from `first` up to `from` goes, the items of `fresh` come to lie at `into`,
 * and the ones behind, which are at [from, from + behind) before and at [to, to + behind) after, are moved beginning with the one
 * whose place is free. */
typedef struct {
    fs_slots *fresh; /* own[0]; NULL when none come */
    uint64_t first, into, count, from, to, behind, moved;
} fs_splice;

static int fs_splice_make(fs_heap *heap, const fs_redo *r, const fs_span *s, fs_splice *p) {
    uint64_t fresh = fs_load_relaxed(&r->own[0]), gone = fs_load_relaxed(&r->before[2]), front = fs_load_relaxed(&r->before[3]);
    p->moved = fs_load_relaxed(&r->before[0]);
    p->first = fs_load_relaxed(&r->before[1]);
    p->count = 0;
    p->fresh = NULL;
    if (fresh) {
        if (!(p->fresh = fs_kind_at(heap, fresh, FS_SLOTS, sizeof(fs_slots))))
            return FS_CORRUPT;
        p->count = fs_load_relaxed(&p->fresh->n);
        if (p->count > (fs_room(heap, &p->fresh->block) - sizeof(fs_slots)) / sizeof(fs_slot))
            return FS_CORRUPT;
    }
    uint64_t end = s->start + s->n;
    if (!s->slots || p->first < s->start || p->first > end || gone > end - p->first || front > gone)
        return FS_CORRUPT;
    p->from = p->first + gone;
    p->into = p->first + front;
    if (p->count > s->capacity - p->into)
        return FS_CORRUPT;
    p->to = p->into + p->count;
    p->behind = end - p->from;
    return p->moved > p->behind || p->behind > s->capacity - p->to ? FS_CORRUPT : FS_OK;
}

static int fs_vector_settle(const fs_self *me, fs_vector *v) {
    fs_redo *r = &v->redo;
    fs_span s;
    fs_splice p;
    uint64_t state = fs_load_relaxed(&r->state), from, to;
    int code;
    switch (state) {
    case FS_IDLE:
        return FS_OK;
    case FS_FILL:
        from = fs_load_relaxed(&r->before[0]);
        if (fs_span_make(me->heap, v, &s) != FS_OK || !s.slots || from > s.capacity - s.start - s.n)
            return FS_CORRUPT;
        for (uint64_t i = 0; i < from; i++) {
            fs_slot *slot = &s.slots->slot[s.start + s.n + i];
            if (fs_owning(fs_about_kind(slot->about)) && slot->value && (code = fs_drop(me, &slot->value)) != FS_OK)
                return code;
        }
        r->state = FS_PREPARING;
        break;
    case FS_SHIFT_UP:
    case FS_SHIFT_DOWN:
        fs_write_begin(&v->o.lock);
        from = fs_load_relaxed(&r->before[0]);
        to = fs_load_relaxed(&r->before[1]);
        if (fs_span_make(me->heap, v, &s) != FS_OK || !s.slots || from >= s.capacity || to >= s.capacity)
            return FS_CORRUPT;
        if (state == FS_SHIFT_UP) {
            for (uint64_t i = from; i > to; i--) {
                fs_slot_copy(&s.slots->slot[i], &s.slots->slot[i - 1]);
                fs_crash_order();
                r->before[0] = i - 1;
                fs_crash_order();
            }
        } else {
            for (uint64_t i = from; i < to; i++) {
                fs_slot_copy(&s.slots->slot[i], &s.slots->slot[i + 1]);
                fs_crash_order();
                r->before[0] = i + 1;
                fs_crash_order();
            }
        }
        r->state = FS_COMMITTED;
        break;
    case FS_SPLICE:
        fs_write_begin(&v->o.lock);
        if (fs_span_make(me->heap, v, &s) != FS_OK || fs_splice_make(me->heap, r, &s, &p) != FS_OK)
            return FS_CORRUPT;
        for (uint64_t k = p.to == p.from ? p.behind : p.moved; k < p.behind; k++) {
            uint64_t i = p.to > p.from ? p.behind - 1 - k : k;
            fs_slot_copy(&s.slots->slot[p.to + i], &s.slots->slot[p.from + i]);
            fs_crash_order();
            r->before[0] = k + 1;
            fs_crash_order();
        }
        for (uint64_t i = 0; i < p.count; i++)
            fs_slot_copy(&s.slots->slot[p.into + i], &p.fresh->slot[i]);
        fs_crash_order();
        r->state = FS_COMMITTED;
        break;
    default:
        break;
    }
    fs_crash_order();
    if (r->state == FS_COMMITTED && r->n)
        fs_write_begin(&v->o.lock);
    return fs_redo_settle(me, r);
}

static inline void fs_vector_leave(const fs_self *me, fs_vector *v, int entered) {
    if (entered != FS_NESTED) {
        fs_settle(&v->o.lock);
        fs_leave(me, &v->o.lock);
    }
}

static inline int fs_vector_enter(const fs_self *me, fs_vector *v, fs_span *s) {
    int entered = fs_enter(me, &v->o.lock);
    if (entered < 0)
        return entered;
    int r = fs_vector_settle(me, v);
    if (fs_likely(r == FS_OK))
        r = fs_span_make(me->heap, v, s);
    if (fs_unlikely(r != FS_OK)) {
        /* What could not be settled yet is committed, or out of a reader's sight; what is damaged is neither. */
        if (r != FS_CORRUPT)
            fs_vector_leave(me, v, entered);
        else if (entered != FS_NESTED)
            fs_leave(me, &v->o.lock);
        return r;
    }
    return entered;
}

/* After the words are listed: stores them, and what cannot be dropped at once is left to the next operation. */
static inline int fs_vector_commit(const fs_self *me, fs_vector *v, uint64_t state) {
    fs_crash_order();
    v->redo.state = state;
    fs_crash_order();
    return fs_vector_settle(me, v) == FS_CORRUPT ? FS_CORRUPT : FS_OK;
}

/* --- room ---------------------------------------------------------------------------------------------------------------- */

static int fs_slots_alloc(const fs_self *me, uint64_t *own, uint64_t capacity, fs_slots **out) {
    fs_block *b;
    if (capacity > me->heap->size / sizeof(fs_slot))
        return FS_NOMEM;
    int code = fs_alloc_to(me, sizeof(fs_slots) - FS_HEADER + capacity * sizeof(fs_slot), FS_RAW, own, &b);
    if (code == FS_OK) {
        *out = (fs_slots *)b;
        (*out)->link = (*out)->n = 0;
    }
    return code;
}

/* Makes room for `more` slots behind the end, in a new block with half as many again. */
FS_COLD static int fs_vector_grow(const fs_self *me, fs_vector *v, fs_span *s, uint64_t more) {
    fs_heap *heap = me->heap;
    fs_redo *r = &v->redo;
    fs_slots *new;
    uint64_t want = s->n + more, capacity = s->n + s->n / 2 + 6;
    if (capacity < want)
        capacity = want;
    fs_redo_prepare(r);
    int code = fs_slots_alloc(me, &r->own[1], capacity, &new);
    if (code != FS_OK) {
        fs_redo_settle(me, r);
        return code;
    }
    if (s->n)
        fs_copy_racy(new->slot, s->slots->slot + s->start, s->n * sizeof(fs_slot));
    fs_write_begin(&v->o.lock);
    if (s->slots) {
        fs_redo_add(heap, r, &s->slots->block.kind, fs_pair(FS_RAW, 1));
        r->drop[1] = v->slots;
    }
    fs_redo_add(heap, r, &new->block.kind, fs_pair(FS_SLOTS, 1));
    fs_redo_add(heap, r, &v->slots, r->own[1]);
    fs_redo_add(heap, r, &v->start, 0);
    fs_redo_add(heap, r, &v->capacity, capacity);
    code = fs_vector_commit(me, v, FS_COMMITTED);
    if (code == FS_OK && r->state != FS_IDLE)
        return FS_BUSY;
    return code == FS_OK ? fs_span_make(heap, v, s) : code;
}

static inline int fs_vector_room(const fs_self *me, fs_vector *v, fs_span *s, uint64_t more) {
    return fs_likely(more <= s->capacity - s->start - s->n) ? FS_OK : fs_vector_grow(me, v, s, more);
}

/* --- operations, with the lock held -------------------------------------------------------------------------------------- */

static int fs_vector_set(const fs_self *me, fs_vector *v, fs_span *s, uint64_t i, const fs_value *val) {
    fs_redo *r = &v->redo;
    fs_slot *slot = &s->slots->slot[s->start + i];
    uint64_t word = val->value, about = fs_about(val);
    fs_vector_stamp(v);
    if (fs_likely(!fs_owning(val->kind) && slot->about == about)) {
        fs_store_release(&slot->value, word);
        return FS_OK;
    }
    fs_redo_prepare(r);
    if (fs_owning(val->kind)) {
        int code = fs_value_make(me, val, &r->own[0], &word);
        if (code != FS_OK) {
            fs_redo_settle(me, r);
            return code;
        }
    }
    if (fs_owning(fs_about_kind(slot->about)))
        r->drop[0] = slot->value;
    fs_redo_add(me->heap, r, &slot->about, about);
    fs_redo_add(me->heap, r, &slot->value, word);
    return fs_vector_commit(me, v, FS_COMMITTED);
}

static int fs_vector_append(const fs_self *me, fs_vector *v, fs_span *s, const fs_value *val) {
    fs_redo *r = &v->redo;
    int code = fs_vector_room(me, v, s, 1);
    if (code != FS_OK)
        return code;
    fs_slot *slot = &s->slots->slot[s->start + s->n];
    uint64_t word = val->value;
    fs_vector_stamp(v);
    if (fs_owning(val->kind)) {
        fs_redo_prepare(r);
        if ((code = fs_value_make(me, val, &r->own[0], &word)) != FS_OK) {
            fs_redo_settle(me, r);
            return code;
        }
        fs_redo_add(me->heap, r, &slot->about, fs_about(val));
        fs_redo_add(me->heap, r, &slot->value, word);
        fs_redo_add(me->heap, r, &v->n, s->n + 1);
        /* slot and n are stored in this order; n is what makes the slot visible, so the version may stay */
        fs_crash_order();
        r->state = FS_COMMITTED;
        fs_crash_order();
        return fs_redo_settle(me, r) == FS_CORRUPT ? FS_CORRUPT : FS_OK;
    }
    fs_store_relaxed(&slot->about, fs_about(val));
    fs_store_relaxed(&slot->value, word);
    fs_crash_order();
    fs_store_release(&v->n, s->n + 1);
    return FS_OK;
}

static int fs_vector_extend(const fs_self *me, fs_vector *v, fs_span *s, const fs_value *vals, uint64_t count) {
    fs_redo *r = &v->redo;
    int code = fs_vector_room(me, v, s, count);
    if (code != FS_OK || !count)
        return code;
    fs_vector_stamp(v);
    r->before[0] = 0;
    fs_crash_order();
    r->state = FS_FILL;
    fs_crash_order();
    for (uint64_t i = 0; i < count; i++) {
        fs_slot *slot = &s->slots->slot[s->start + s->n + i];
        uint64_t word;
        fs_store_relaxed(&slot->about, fs_about(&vals[i]));
        fs_store_relaxed(&slot->value, fs_owning(vals[i].kind) ? 0 : vals[i].value);
        if (fs_owning(vals[i].kind)) {
            fs_crash_order();
            r->before[0] = i + 1;
            fs_crash_order();
            if ((code = fs_value_make(me, &vals[i], &slot->value, &word)) != FS_OK) {
                fs_vector_settle(me, v);
                return code;
            }
        }
    }
    fs_redo_add(me->heap, r, &v->n, s->n + count);
    fs_crash_order();
    r->state = FS_COMMITTED;
    fs_crash_order();
    return fs_redo_settle(me, r) == FS_CORRUPT ? FS_CORRUPT : FS_OK;
}

/* Words, which nobody owns: they are seen with one store to n. */
static int fs_vector_extend_words(const fs_self *me, fs_vector *v, fs_span *s, const fs_slot *words, uint64_t count) {
    int code = fs_vector_room(me, v, s, count);
    if (code != FS_OK || !count)
        return code;
    fs_vector_stamp(v);
    fs_copy_racy(&s->slots->slot[s->start + s->n], words, count * sizeof(fs_slot));
    fs_crash_order();
    fs_store_release(&v->n, s->n + count);
    return FS_OK;
}

static int fs_vector_insert(const fs_self *me, fs_vector *v, fs_span *s, uint64_t i, const fs_value *val) {
    fs_heap *heap = me->heap;
    fs_redo *r = &v->redo;
    uint64_t word = val->value;
    int code;
    if (i == s->n)
        return fs_vector_append(me, v, s, val);
    int front = i == 0 && s->start > 0;
    if (!front && (code = fs_vector_room(me, v, s, 1)) != FS_OK)
        return code;
    fs_vector_stamp(v);
    fs_redo_prepare(r);
    if (fs_owning(val->kind) && (code = fs_value_make(me, val, &r->own[0], &word)) != FS_OK) {
        fs_redo_settle(me, r);
        return code;
    }
    fs_slot *slot = &s->slots->slot[s->start + i - (front ? 1 : 0)];
    fs_redo_add(heap, r, &slot->about, fs_about(val));
    fs_redo_add(heap, r, &slot->value, word);
    fs_redo_add(heap, r, &v->n, s->n + 1);
    if (front)
        fs_redo_add(heap, r, &v->start, s->start - 1);
    r->before[0] = s->start + s->n;
    r->before[1] = s->start + i;
    fs_write_begin(&v->o.lock);
    return fs_vector_commit(me, v, front ? FS_COMMITTED : FS_SHIFT_UP);
}

static int fs_vector_delete(const fs_self *me, fs_vector *v, fs_span *s, uint64_t i) {
    fs_heap *heap = me->heap;
    fs_redo *r = &v->redo;
    fs_slot *slot = &s->slots->slot[s->start + i];
    fs_vector_stamp(v);
    fs_write_begin(&v->o.lock);
    fs_redo_prepare(r);
    if (fs_owning(fs_about_kind(slot->about)))
        r->drop[0] = slot->value;
    fs_redo_add(heap, r, &v->n, s->n - 1);
    if (i == 0 || i == s->n - 1) {
        fs_redo_add(heap, r, &slot->about, 0);
        fs_redo_add(heap, r, &v->start, s->n == 1 ? 0 : s->start + (i == 0 ? 1 : 0));
        return fs_vector_commit(me, v, FS_COMMITTED);
    }
    r->before[0] = s->start + i;
    r->before[1] = s->start + s->n - 1;
    return fs_vector_commit(me, v, FS_SHIFT_DOWN);
}

/* Slots of their own for new items, referred to by own[0]. */
static int fs_slots_make(const fs_self *me, fs_redo *r, const fs_value *vals, uint64_t count, fs_slots **out) {
    fs_slots *new;
    int code = fs_slots_alloc(me, &r->own[0], count, &new);
    if (code != FS_OK)
        return code;
    fs_store_release(&new->block.kind, FS_SLOTS);
    for (uint64_t i = 0; i < count && code == FS_OK; i++) {
        uint64_t word;
        int owning = fs_owning(vals[i].kind);
        fs_store_relaxed(&new->slot[i].about, fs_about(&vals[i])); /* the checker may be looking, up to new->n */
        fs_store_relaxed(&new->slot[i].value, owning ? 0 : vals[i].value);
        fs_crash_order();
        fs_store_release(&new->n, i + 1);
        fs_crash_order();
        if (owning)
            code = fs_value_make(me, &vals[i], &new->slot[i].value, &word);
    }
    *out = new;
    return code;
}

/* A copy of slots that stay where they are until the change is committed: what they own is dropped with it then. In own[1]. */
static int fs_slots_leave(const fs_self *me, fs_redo *r, const fs_slot *from, uint64_t count, fs_slots **out) {
    int code = fs_slots_alloc(me, &r->own[1], count, out);
    if (code == FS_OK) {
        fs_copy_racy((*out)->slot, from, count * sizeof(fs_slot));
        (*out)->n = count;
    }
    return code;
}

/* `count` other items instead of the `gone` from item i on. It needs no memory when none come, and those that go own nothing. */
static int fs_vector_splice(const fs_self *me, fs_vector *v, fs_span *s, uint64_t i, uint64_t gone, const fs_value *vals,
                            uint64_t count) {
    fs_heap *heap = me->heap;
    fs_redo *r = &v->redo;
    fs_slots *new = NULL, *old = NULL;
    uint64_t front = i || gone < count ? 0 : gone - count; /* the first ones go: the start moves instead of the others */
    int code, owning = 0;
    if (!gone && !count)
        return FS_OK;
    if (count > gone && (code = fs_vector_room(me, v, s, count - gone)) != FS_OK)
        return code;
    const fs_slot *slot = &s->slots->slot[s->start + i];
    for (uint64_t k = 0; k < gone && !owning; k++)
        owning = fs_owning(fs_about_kind(slot[k].about));
    fs_vector_stamp(v);
    fs_redo_prepare(r);
    if ((count && (code = fs_slots_make(me, r, vals, count, &new)) != FS_OK) ||
        (owning && (code = fs_slots_leave(me, r, slot, gone, &old)) != FS_OK)) {
        fs_store_relaxed(&v->stamp, v->stamp - 1); /* nothing has changed */
        fs_redo_settle(me, r);
        return code;
    }
    fs_write_begin(&v->o.lock);
    if (count) {
        fs_redo_add(heap, r, &new->block.kind, fs_pair(FS_RAW, 1));
        r->drop[0] = r->own[0];
    }
    if (owning) {
        fs_redo_add(heap, r, &old->block.kind, fs_pair(FS_SLOTS, 1));
        r->drop[1] = r->own[1];
    }
    fs_redo_add(heap, r, &v->start, s->n + count == gone ? 0 : s->start + front);
    fs_redo_add(heap, r, &v->n, s->n - gone + count);
    r->before[0] = 0;
    r->before[1] = s->start + i;
    r->before[2] = gone;
    r->before[3] = front;
    return fs_vector_commit(me, v, FS_SPLICE);
}

/* New contents: item k is the old item plan[k] when that is >= 0, else the value vals[-1 - plan[k]]. */
static int fs_vector_replan(const fs_self *me, fs_vector *v, fs_span *s, const int64_t *plan, uint64_t count,
                            const fs_value *vals) {
    fs_heap *heap = me->heap;
    fs_redo *r = &v->redo;
    fs_slots *new = NULL;
    int code = FS_OK;
    fs_vector_stamp(v);
    fs_redo_prepare(r);
    if (count) {
        if ((code = fs_slots_alloc(me, &r->own[1], count, &new)) != FS_OK)
            goto fail;
        fs_store_release(&new->block.kind, FS_SLOTS);
        for (uint64_t k = 0; k < count; k++) {
            uint64_t about, value, word;
            if (plan[k] >= 0) {
                if ((uint64_t)plan[k] >= s->n) { /* the plan was made of what had this stamp and, then, more items */
                    code = FS_CORRUPT;
                    goto fail;
                }
                const fs_slot *old = &s->slots->slot[s->start + (uint64_t)plan[k]];
                about = old->about;
                value = old->value;
            } else {
                about = fs_about(&vals[-1 - plan[k]]);
                value = vals[-1 - plan[k]].value;
            }
            int owning = fs_owning(fs_about_kind(about));
            fs_store_relaxed(&new->slot[k].about, about); /* the checker may be looking, up to new->n */
            fs_store_relaxed(&new->slot[k].value, owning ? 0 : value);
            fs_crash_order();
            fs_store_release(&new->n, k + 1);
            fs_crash_order();
            if (owning) {
                code = plan[k] >= 0 ? fs_ref_to(me, value, &new->slot[k].value)
                                    : fs_value_make(me, &vals[-1 - plan[k]], &new->slot[k].value, &word);
                if (code != FS_OK)
                    goto fail;
            }
        }
    }
    fs_write_begin(&v->o.lock);
    if (s->slots) {
        r->drop[1] = v->slots;
        fs_redo_add(heap, r, &s->slots->n, s->start + s->n);
        /* slots in front of the start are zero (fs_vector_delete), or were left by another start */
        for (uint64_t i = 0; i < s->start; i++)
            fs_store_relaxed(&s->slots->slot[i].about, 0);
    }
    fs_redo_add(heap, r, &v->slots, count ? r->own[1] : 0);
    fs_redo_add(heap, r, &v->start, 0);
    fs_redo_add(heap, r, &v->n, count);
    fs_redo_add(heap, r, &v->capacity, count);
    return fs_vector_commit(me, v, FS_COMMITTED);
fail:
    fs_store_relaxed(&v->stamp, v->stamp - 1); /* nothing has changed */
    fs_redo_settle(me, r);
    return code;
}

#endif
