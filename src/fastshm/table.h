/* table.h: an insertion-ordered hash table, read without a lock.
 *
 *   table  --entries-->  [ n | entry 0 | entry 1 | ... ]         in the order of insertion, one cache line each
 *          --index---->  [ tag, number | empty | deleted | ... ] open addressing, linear probing, at most 2/3 full
 *
 * This is the compact dict of CPython (R. Hettinger), over offsets. A key is the bytes of its canonical form: equal keys have
 * equal bytes, so nothing here needs to know Python.
 *
 * An insert fills an entry that nobody can find and publishes it with one store to the index. A value of one word is
 * replaced by one store; a wider one goes to a fresh block, and the entry's head (seq, kind, length) brackets the change.
 * Deleting leaves a mark in the index; marks and dead entries go when the arrays are rebuilt. Rebuilding happens beside the old
 * arrays, and they are swapped while the version is odd.
 *
 * Readers: version, index slot, entry head, value; then slot, head and version once more. Equal: the value was there at the
 * instant of the first look at the head. A reader that fails a few times takes the lock.
 *
 *   cost        get, set, delete O(1); insert O(1) amortised; clear O(1) + freeing; snapshot O(n)
 *   invariants  used <= fill <= capacity, n <= capacity < 2/3 (mask + 1) + 1; every live entry is named by exactly one index
 *               slot that its hash leads to without crossing an empty one; entries from n on own nothing
 */
#ifndef FASTSHM_TABLE_H
#define FASTSHM_TABLE_H

#include "keys.h"
#include "redo.h"
#include "wait.h"

#define FS_EMPTY 0ull
#define FS_DELETED 1ull

/* --- looking ------------------------------------------------------------------------------------------------------------- */

/* The arrays, bounds checked. Good while the table's version is the (even) one it was made at. */
typedef struct {
    uint64_t version;
    fs_entries *entries;
    uint64_t *index;
    uint64_t mask, capacity;
} fs_view;

FS_UNUSED static int fs_view_make(fs_heap *heap, fs_table *t, fs_view *v) {
    uint64_t e = fs_load_relaxed(&t->entries), x = fs_load_relaxed(&t->index);
    uint64_t mask = fs_load_relaxed(&t->mask), capacity = fs_load_relaxed(&t->capacity);
    v->entries = NULL;
    v->mask = v->capacity = 0;
    if (!e)
        return FS_OK;
    if (mask & (mask + 1) || mask > heap->size / 8 || capacity > mask)
        return FS_CORRUPT;
    char *index = fs_kind_at(heap, x, FS_RAW, FS_HEADER + (mask + 1) * 8);
    fs_entries *entries = fs_kind_at(heap, e, FS_ENTRIES, sizeof(fs_entries) + capacity * sizeof(fs_entry));
    if (!index || !entries)
        return FS_CORRUPT;
    v->index = (uint64_t *)(index + FS_HEADER);
    v->entries = entries;
    v->mask = mask;
    v->capacity = capacity;
    return FS_OK;
}

/* With the lock held: the view that an earlier operation has left, if it still counts, else a new one. */
static inline int fs_view_renew(fs_heap *heap, fs_table *t, fs_view *v) {
    uint64_t version = fs_load_relaxed(&t->o.lock.version);
    if (fs_likely(v->version == version && !(version & 1)))
        return FS_OK;
    int r = fs_view_make(heap, t, v);
    v->version = r == FS_OK && !(version & 1) ? version : 1; /* odd: it may change before it is even again */
    return r;
}

static inline int fs_key_equal(fs_heap *heap, const fs_entry *e, uint64_t head, const fs_key *k) {
    fs_entry copy;
    copy.head = head;
    if ((copy.form & ~FS_KEY_IN_BLOB) != k->form || fs_load_relaxed(&e->key_length) != k->length)
        return 0;
    if (fs_likely(!(copy.form & FS_KEY_IN_BLOB))) {
        if (fs_unlikely(k->length > FS_KEY_INLINE))
            return 0;
        uint64_t d = fs_load_relaxed(&e->key.words[0]) ^ k->words[0];
        if (k->length > 8) {
            d |= fs_load_relaxed(&e->key.words[1]) ^ k->words[1];
            if (k->length > 16)
                d |= (fs_load_relaxed(&e->key.words[2]) ^ k->words[2]) | (fs_load_relaxed(&e->key.words[3]) ^ k->words[3]);
        }
        return !d;
    }
    fs_blob *b = fs_at(heap, fs_load_relaxed(&e->key.blob), sizeof(fs_blob) + k->length);
    return b && !memcmp(b->bytes, k->bytes, k->length);
}

/* Word by word, each loaded once. */
static inline void fs_entry_copy(fs_entry *to, const fs_entry *from) {
    for (size_t i = 0; i < sizeof *to / 8; i++)
        ((uint64_t *)to)[i] = fs_load_relaxed((const uint64_t *)from + i);
}

typedef struct {
    uint64_t slot;   /* of the index */
    uint64_t held;   /* what it held */
    uint64_t number; /* of the entry */
    uint64_t head;   /* the entry's, from before its key was compared: while it stays, so does the key */
    fs_entry *entry;
} fs_place;

/* FS_OK with the place, or FS_MISSING with the empty slot where the search ended. */
static inline int fs_find(fs_heap *heap, const fs_view *v, const fs_key *k, fs_place *p) {
    if (fs_unlikely(!v->entries))
        return FS_MISSING;
    uint64_t i = k->hash & v->mask, tag = k->hash >> 32;
    for (uint64_t steps = 0; steps <= v->mask; steps++, i = (i + 1) & v->mask) {
        uint64_t s = fs_load_acquire(&v->index[i]); /* pairs with the redo store that publishes an entry */
        if (s == FS_EMPTY) {
            p->slot = i;
            return FS_MISSING;
        }
        if (s >> 32 != tag || (uint32_t)s < 2)
            continue;
        uint64_t number = (uint32_t)s - 2;
        if (fs_unlikely(number >= v->capacity))
            return FS_CORRUPT;
        fs_entry *e = &v->entries->entry[number];
        p->head = fs_load_acquire(&e->head);
        if (fs_load_relaxed(&e->hash) == k->hash && fs_key_equal(heap, e, p->head, k)) {
            p->slot = i;
            p->held = s;
            p->number = number;
            p->entry = e;
            return FS_OK;
        }
    }
    return FS_CORRUPT;
}

/* An optimistic look at one key's value. Afterwards, and after `seen.data` was copied, fs_peek_valid says whether it counts. */
typedef struct {
    fs_view view;
    fs_place place;
    fs_seen seen;
} fs_peek;

/* FS_OK, FS_MISSING, FS_BUSY (held by a user or being changed), FS_CORRUPT (which an optimistic look may also say of a
 * change). */
static inline int fs_peek_at(fs_heap *heap, fs_table *t, const fs_key *k, fs_peek *p) {
    uint64_t version = fs_read_begin(&t->o.lock);
    if (fs_unlikely(version & 1))
        return FS_BUSY;
    if (fs_unlikely(p->view.version != version)) {
        p->view.version = 1;
        int r = fs_view_make(heap, t, &p->view);
        if (!fs_read_valid(&t->o.lock, version))
            return FS_BUSY;
        if (r != FS_OK)
            return r;
        p->view.version = version;
    }
    int r = fs_find(heap, &p->view, k, &p->place);
    if (r != FS_OK)
        return r;
    fs_entry head;
    head.head = p->place.head;
    if (fs_unlikely(head.seq & 1 || !head.kind))
        return FS_BUSY;
    p->seen.kind = head.kind;
    p->seen.length = head.length;
    p->seen.value = fs_load_acquire(&p->place.entry->value);
    return fs_value_look(heap, &p->seen);
}

/* The slot before the head: while the slot names the entry, what its head was is committed. The other way round, an entry could
 * be filled again, for the same key, between the two. (tests/models/table_publish.pml) */
static inline int fs_peek_valid(fs_table *t, const fs_peek *p, int found) {
    fs_fence_acquire();
    if (found && (fs_load_acquire(&p->view.index[p->place.slot]) != p->place.held ||
                  fs_load_acquire(&p->place.entry->head) != p->place.head))
        return 0;
    return fs_load_relaxed(&t->o.lock.version) == p->view.version;
}

/* A place that was found before, to go to without a search. Nothing is held by it: it counts while the version, and the entry's
 * head and hash, are what they were. `entry` is a place in the mapping, whatever lies there by now. */
typedef struct {
    uint64_t version, head, hash;
    fs_entry *entry;
} fs_hint;

static inline void fs_hint_take(fs_hint *h, const fs_peek *p) {
    h->version = p->view.version;
    h->head = p->place.head;
    h->hash = fs_load_relaxed(&p->place.entry->hash);
    h->entry = p->place.entry;
}

static inline uint64_t fs_hint_number(const fs_hint *h, const fs_view *v) { return (uint64_t)(h->entry - v->entries->entry); }

/* Does the key still live there? With the hash, since a head comes again after 2^32 changes. */
static inline int fs_hint_holds(const fs_table *t, const fs_hint *h) {
    return fs_load_acquire(&h->entry->head) == h->head && fs_load_relaxed(&h->entry->hash) == h->hash &&
           fs_load_relaxed(&t->o.lock.version) == h->version;
}

/* As fs_peek_at and fs_peek_valid for a value of one word, without the lock. That the index names the entry was seen when the
 * hint was taken; it stops doing so after the head has changed, or under an odd version. */
static inline int fs_hint_look(const fs_table *t, const fs_hint *h, uint64_t *value) {
    *value = fs_load_acquire(&h->entry->value);
    fs_fence_acquire();
    return fs_hint_holds(t, h);
}

/* --- settling ------------------------------------------------------------------------------------------------------------ */

static inline void fs_head_set(fs_entry *e, uint32_t kind, uint32_t length) {
    fs_entry h;
    h.head = e->head;
    h.kind = (uint8_t)kind;
    h.length = (uint8_t)length;
    fs_store_release(&e->head, h.head);
}

static uint64_t fs_slot_of(const fs_view *v, uint64_t number, uint64_t hash) {
    uint64_t want = hash >> 32 << 32 | (number + 2), i = hash & v->mask;
    for (uint64_t steps = 0; steps <= v->mask && v->index[i] != FS_EMPTY; steps++, i = (i + 1) & v->mask)
        if (v->index[i] == want)
            return i;
    return UINT64_MAX;
}

/* Puts a batch back, newest change first. */
FS_COLD static int fs_batch_rollback(const fs_self *me, fs_table *t) {
    fs_redo *r = &t->redo;
    fs_view v;
    uint64_t n;
    int code;
    if (fs_view_make(me->heap, t, &v) != FS_OK || !v.entries)
        return FS_CORRUPT;
    fs_block *logged = r->batch ? fs_block_at(me->heap, r->batch) : NULL;
    if (logged && logged->kind == FS_RAW) { /* allocated, and nothing logged yet */
        if ((code = fs_drop(me, &r->batch)) != FS_OK)
            return code;
    } else if (r->batch) {
        fs_undo_log *log = fs_kind_at(me->heap, r->batch, FS_UNDO_LOG, sizeof(fs_undo_log));
        n = log ? fs_load_relaxed(&log->n) : 0;
        if (!log || n > (fs_room(me->heap, &log->block) - sizeof(fs_undo_log)) / sizeof(fs_undo_entry))
            return FS_CORRUPT;
        for (uint64_t left = n; left > 0; left--) {
            fs_undo_entry *u = &log->undo[left - 1];
            uint64_t number = fs_load_relaxed(&u->entry);
            if (number >= v.capacity)
                return FS_CORRUPT;
            fs_entry *e = &v.entries->entry[number];
            /* own[0] is the last item's new value, and goes before any other item is looked at */
            if (r->own[0]) {
                if (e->value == r->own[0])
                    fs_store_relaxed(&e->value, 0);
                fs_crash_order();
                if ((code = fs_drop(me, &r->own[0])) != FS_OK)
                    return code;
            }
            /* an old owned value that is back already stays */
            int back = fs_owning(u->about & 255) && e->value == u->value;
            if (fs_owning(e->kind) && e->value && !back && (code = fs_drop(me, &e->value)) != FS_OK)
                return code;
            /* while the kind says owning, the value is an offset or 0 */
            if (!fs_owning(u->about & 255))
                fs_head_set(e, u->about & 255, u->about >> 8 & 255);
            fs_crash_order();
            fs_store_release(&e->value, u->value);
            fs_crash_order();
            fs_head_set(e, u->about & 255, u->about >> 8 & 255);
            fs_crash_order();
            fs_store_release(&log->n, left - 1);
            fs_crash_order();
        }
        if ((code = fs_drop(me, &r->batch)) != FS_OK)
            return code;
    }
    n = fs_load_relaxed(&v.entries->n);
    if (r->before[0] > n || n > v.capacity)
        return FS_CORRUPT;
    for (; n > r->before[0]; n--) {
        uint64_t number = n - 1;
        fs_entry *e = &v.entries->entry[number];
        uint64_t slot = fs_slot_of(&v, number, e->hash);
        if (slot != UINT64_MAX)
            fs_store_relaxed(&v.index[slot], FS_EMPTY);
        if (e->form & FS_KEY_IN_BLOB && e->key.blob && (code = fs_drop(me, &e->key.blob)) != FS_OK)
            return code;
        if (fs_owning(e->kind) && e->value && (code = fs_drop(me, &e->value)) != FS_OK)
            return code;
        fs_crash_order();
        fs_store_release(&v.entries->n, number);
        fs_crash_order();
    }
    t->used = r->before[1];
    t->fill = r->before[2];
    t->others = r->before[3];
    fs_crash_order();
    r->state = FS_PREPARING;
    return fs_redo_settle(me, r);
}

static int fs_table_settle(const fs_self *me, fs_table *t) {
    if (fs_likely(t->redo.state == FS_IDLE))
        return FS_OK;
    if (t->redo.state == FS_BATCH) {
        fs_write_begin(&t->o.lock);
        return fs_batch_rollback(me, t);
    }
    if (t->redo.state == FS_COMMITTED && t->redo.n)
        fs_write_begin(&t->o.lock); /* the words may be those of new arrays */
    return fs_redo_settle(me, &t->redo);
}

/* Of who has only looked: those who wait for a change are not woken, or one that looks would wake itself. */
static inline void fs_table_leave_unchanged(const fs_self *me, fs_table *t, int entered) {
    if (entered != FS_NESTED) {
        fs_settle(&t->o.lock);
        fs_leave(me, &t->o.lock);
    }
}

/* A change is a plain store, which may still be on its way when `turn` is looked at: who waits finds out when his nap is over.
 * A fence would cost every change more than that is worth. */
static inline void fs_table_leave(const fs_self *me, fs_table *t, int entered) {
    fs_table_leave_unchanged(me, t, entered);
    if (fs_unlikely(fs_load_relaxed(&t->turn) & FS_TURN_ASLEEP))
        fs_turn_wake(&t->turn, FS_ALL);
}

/* The lock, with nothing left over from before. */
static inline int fs_table_enter(const fs_self *me, fs_table *t) {
    int entered = fs_enter(me, &t->o.lock);
    if (entered < 0)
        return entered;
    int r = fs_table_settle(me, t);
    if (fs_unlikely(r != FS_OK)) {
        /* Readers must not see what is half settled. A quiet even version is given only to a settled table. */
        if (entered != FS_NESTED) {
            if (t->redo.state == FS_IDLE || (t->redo.state == FS_COMMITTED && !t->redo.n) || t->redo.state == FS_PREPARING)
                fs_settle(&t->o.lock);
            fs_leave(me, &t->o.lock);
        }
        return r;
    }
    return entered;
}

/* --- growing ------------------------------------------------------------------------------------------------------------- */

static inline void fs_index_put(uint64_t *index, uint64_t mask, uint64_t hash, uint64_t number) {
    uint64_t i = hash & mask;
    while (index[i] != FS_EMPTY)
        i = (i + 1) & mask;
    index[i] = hash >> 32 << 32 | (number + 2);
}

static inline uint64_t fs_index_size(uint64_t entries) {
    uint64_t size = 8;
    while (size * 2 / 3 < entries)
        size *= 2;
    return size;
}

/* A new index, owned by own[3]. */
static int fs_index_make(const fs_self *me, fs_redo *r, uint64_t size, uint64_t **index) {
    fs_block *b;
    int code = fs_alloc_to(me, size * 8, FS_RAW, &r->own[3], &b);
    if (code == FS_OK) {
        *index = (uint64_t *)((char *)b + FS_HEADER);
        memset(*index, 0, size * 8);
    }
    return code;
}

static void fs_index_fill(uint64_t *index, uint64_t size, const fs_entry *entry, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        if (i + 16 < n)
            __builtin_prefetch(&index[entry[i + 16].hash & (size - 1)], 1);
        fs_index_put(index, size - 1, entry[i].hash, i);
    }
}

/* After the words of new arrays are listed. */
static int fs_table_swap(const fs_self *me, fs_table *t, fs_redo *r, uint64_t size, uint64_t capacity) {
    if (r->own[3]) {
        r->drop[3] = t->index;
        fs_redo_add(me->heap, r, &t->index, r->own[3]);
        fs_redo_add(me->heap, r, &t->mask, size - 1);
    }
    fs_redo_add(me->heap, r, &t->capacity, capacity);
    fs_redo_add(me->heap, r, &t->fill, t->used);
    int code = fs_redo_commit(me, r);
    return code == FS_OK && r->state != FS_IDLE ? FS_BUSY : code;
}

static inline int fs_entries_lengthen(const fs_self *me, const fs_view *v, uint64_t capacity) {
    return fs_lengthen(me, &v->entries->block, sizeof(fs_entries) - FS_HEADER + capacity * sizeof(fs_entry));
}

/* Ends a growth that has failed before its commit. */
static int fs_growth_fail(const fs_self *me, fs_redo *r, int code) {
    int settled = fs_redo_settle(me, r);
    return settled == FS_OK ? code : settled;
}

/* A new index of `size` slots, so that the entries can grow over where the old one lies, right behind them, and by as much more
 * as makes `grains`. FS_MISSING when that cannot be. */
static int fs_index_beyond(const fs_self *me, fs_table *t, const fs_view *v, uint64_t size, uint64_t grains) {
    fs_redo *r = &t->redo;
    fs_block *old = fs_block_at(me->heap, t->index);
    uint64_t between = old ? fs_load_relaxed(&old->size) : 0, *index;
    int code = FS_OK;
    if (!old || t->index != t->entries + (uint64_t)fs_load_relaxed(&v->entries->block.size) * FS_GRAIN)
        return FS_MISSING;
    fs_redo_prepare(r);
    if (grains > between)
        code = fs_alloc_behind(me, old, grains - between, FS_RAW, &r->own[2]);
    if (code == FS_OK)
        code = fs_index_make(me, r, size, &index);
    if (code != FS_OK)
        return fs_growth_fail(me, r, code == FS_NOMEM ? FS_MISSING : code);
    fs_index_fill(index, size, v->entries->entry, v->entries->n);
    r->drop[2] = r->own[2];
    fs_write_begin(&t->o.lock);
    return fs_table_swap(me, t, r, size, t->capacity);
}

/* Growth of a large table where the entries lie. What stands in their way is mostly their own index. */
static int fs_table_lengthen_far(const fs_self *me, fs_table *t, const fs_view *v, uint64_t more, uint64_t *size,
                                 uint64_t *capacity) {
    uint64_t n = t->used, step = more > n / 8 ? more : n / 8, far = more > n / 2 ? more : n / 2;
    int code = FS_MISSING, larger = *size * 2 / 3 < n + step;
    *capacity = n + step;
    if (!larger && (code = fs_entries_lengthen(me, v, *capacity)) != FS_MISSING)
        return code;
    *size = fs_index_size(n + step);
    *capacity = n + far < *size * 2 / 3 ? n + far : *size * 2 / 3;
    if (larger && (code = fs_entries_lengthen(me, v, *capacity)) != FS_MISSING)
        return code;
    uint64_t grains = 1 + *capacity; /* of the block; an entry is a grain, and so is what is before them */
    code = fs_index_beyond(me, t, v, *size, grains - fs_load_relaxed(&v->entries->block.size));
    return code == FS_OK ? fs_entries_lengthen(me, v, *capacity) : code;
}

#ifndef FS_LARGE_TABLE /* the tests have a smaller one */
#define FS_LARGE_TABLE 4096
#endif

/* Growth where the entries lie, when none of them is dead and there is room behind them: nothing is copied. FS_MISSING when
 * not. */
static int fs_table_lengthen(const fs_self *me, fs_table *t, const fs_view *v, uint64_t more) {
    fs_redo *r = &t->redo;
    uint64_t n = t->used, capacity = n + (more > n / 8 + 8 ? more : n / 8 + 8), size = v->mask + 1;
    int code;
    if (v->entries->n != n || t->fill != n || n > v->capacity || capacity > UINT32_MAX / 4)
        return FS_MISSING;
    if (n > FS_LARGE_TABLE) {
        code = fs_table_lengthen_far(me, t, v, more, &size, &capacity);
    } else {
        code = fs_entries_lengthen(me, v, capacity);
        if (size * 2 / 3 < capacity)
            size = fs_index_size(capacity);
    }
    if (code != FS_OK)
        return code;
    fs_redo_prepare(r);
    if (size > t->mask + 1) {
        uint64_t *index;
        code = fs_index_make(me, r, size, &index);
        if (code != FS_OK)
            return fs_growth_fail(me, r, code);
        fs_index_fill(index, size, v->entries->entry, n);
    }
    fs_write_begin(&t->o.lock);
    return fs_table_swap(me, t, r, size, capacity);
}

/* New arrays, without the dead entries. Readers go on with the old ones. The index comes first: so the entries, which grow most
 * often, are likely to have room behind them. */
static int fs_table_move(const fs_self *me, fs_table *t, const fs_view *v, uint64_t more) {
    fs_heap *heap = me->heap;
    fs_redo *r = &t->redo;
    fs_block *b;
    uint64_t n = v->entries ? fs_load_relaxed(&v->entries->n) : 0, used = fs_load_relaxed(&t->used), m = 0;
    uint64_t spare = used < 4096 ? used / 2 : used / 4, want = used + (more > spare ? more : spare);
    if (n > v->capacity || used > n)
        return FS_CORRUPT;
    if (want > UINT32_MAX / 2)
        return FS_NOMEM;
    uint64_t size = fs_index_size(want), capacity = size * 2 / 3;
    if (capacity > want + 64)
        capacity = want;
    uint64_t *index;
    fs_redo_prepare(r);
    int code = fs_index_make(me, r, size, &index);
    if (code == FS_OK)
        code = fs_alloc_to(me, sizeof(fs_entries) - FS_HEADER + capacity * sizeof(fs_entry), FS_RAW, &r->own[2], &b);
    if (code == FS_OK) {
        fs_entries *e = (fs_entries *)b;
        memset(e->pad, 0, sizeof e->pad);
        for (uint64_t i = 0; i < n && m <= used; i++)
            if (v->entries->entry[i].kind)
                e->entry[m++] = v->entries->entry[i]; /* capacity > used */
        e->n = m;
        e->link = 0;
        if (m != used)
            code = FS_CORRUPT;
        if (code == FS_OK) {
            fs_index_fill(index, size, e->entry, m);
            fs_write_begin(&t->o.lock);
            if (v->entries) {
                fs_redo_add(heap, r, &v->entries->block.kind, fs_pair(FS_RAW, 1));
                r->drop[2] = t->entries;
            }
            fs_redo_add(heap, r, &e->block.kind, fs_pair(FS_ENTRIES, 1));
            fs_redo_add(heap, r, &t->entries, r->own[2]);
            fs_redo_add(heap, r, &t->moved, t->moved + 1);
            return fs_table_swap(me, t, r, size, capacity);
        }
    }
    fs_redo_settle(me, r);
    return code;
}

/* Room for `more` entries beyond the live ones. */
FS_COLD static int fs_table_grow(const fs_self *me, fs_table *t, uint64_t more) {
    fs_view v;
    int code = fs_view_make(me->heap, t, &v);
    if (code != FS_OK)
        return code;
    code = v.entries ? fs_table_lengthen(me, t, &v, more) : FS_MISSING;
    return code == FS_MISSING ? fs_table_move(me, t, &v, more) : code;
}

/* --- changing one key, with the lock held -------------------------------------------------------------------------------- */

static inline uint64_t fs_head_next(const fs_entry *e, uint32_t kind, uint32_t length, int odd) {
    fs_entry h;
    h.head = e->head;
    h.seq = (h.seq | 1) + (odd ? 0 : 1);
    h.kind = (uint8_t)kind;
    h.length = (uint8_t)length;
    return h.head;
}

static int fs_table_overwrite(const fs_self *me, fs_table *t, fs_entry *e, const fs_value *val) {
    fs_heap *heap = me->heap;
    fs_redo *r = &t->redo;
    uint64_t word = val->value;
    if (fs_likely(!fs_owning(val->kind) && e->kind == val->kind && e->length == val->length)) {
        fs_store_release(&e->value, word); /* pairs with the load in fs_peek_at */
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
    if (fs_owning(e->kind))
        r->drop[0] = e->value;
    fs_redo_add(heap, r, &e->head, fs_head_next(e, e->kind, e->length, 1));
    fs_redo_add(heap, r, &e->value, word);
    fs_redo_add(heap, r, &e->head, fs_head_next(e, val->kind, val->length, 0));
    return fs_redo_commit(me, r);
}

/* Key and value into entry `e`, which nobody can find; blocks they need are owned by own[1] and own[0]. */
static int fs_entry_fill(const fs_self *me, fs_redo *r, fs_entry *e, const fs_key *k, const fs_value *val) {
    uint64_t word = val->value, blob = 0;
    int in_blob = !fs_key_is_inline(k), code;
    fs_redo_prepare(r);
    if (fs_owning(val->kind) && (code = fs_value_make(me, val, &r->own[0], &word)) != FS_OK)
        return code;
    if (in_blob) {
        fs_value bytes = {FS_V_BYTES_BLOB, 0, 0, k->bytes, k->total, NULL, 0, 0};
        if ((code = fs_value_make(me, &bytes, &r->own[1], &blob)) != FS_OK)
            return code;
    }
    fs_entry h;
    h.head = e->head;
    h.seq = (h.seq | 1) + 1; /* goes on where the slot's last tenant left off: a reader still there sees that it moved */
    h.form = k->form | (in_blob ? FS_KEY_IN_BLOB : 0);
    h.display = k->display;
    h.kind = 0;
    h.length = 0;
    fs_store_release(&e->head, h.head);
    fs_store_relaxed(&e->hash, k->hash);
    fs_store_relaxed(&e->key_length, k->length);
    if (in_blob) {
        fs_store_relaxed(&e->key.blob, blob);
    } else {
        for (int i = 0; i < 4; i++)
            fs_store_relaxed(&e->key.words[i], k->words[i]);
    }
    fs_store_relaxed(&e->value, word);
    h.kind = (uint8_t)val->kind;
    h.length = (uint8_t)val->length;
    fs_store_release(&e->head, h.head);
    return FS_OK;
}

static int fs_table_insert(const fs_self *me, fs_table *t, fs_view *v, fs_place *p, const fs_key *k, const fs_value *val) {
    fs_heap *heap = me->heap;
    fs_redo *r = &t->redo;
    uint64_t n = v->entries ? fs_load_relaxed(&v->entries->n) : 0;
    int code;
    if (!v->entries || n >= v->capacity || t->fill >= v->capacity) {
        v->version = 1;
        code = fs_table_grow(me, t, 1);
        if (code == FS_OK)
            code = fs_view_make(heap, t, v);
        if (code != FS_OK)
            return code;
        if (fs_find(heap, v, k, p) != FS_MISSING || !v->entries || (n = fs_load_relaxed(&v->entries->n)) >= v->capacity)
            return FS_CORRUPT;
    }
    fs_entry *e = p->entry = &v->entries->entry[n];
    code = fs_entry_fill(me, r, e, k, val);
    if (code != FS_OK) {
        fs_redo_settle(me, r);
        return code;
    }
    fs_redo_add(heap, r, &v->index[p->slot], k->hash >> 32 << 32 | (n + 2));
    fs_redo_add(heap, r, &v->entries->n, n + 1);
    fs_redo_add(heap, r, &t->used, t->used + 1);
    fs_redo_add(heap, r, &t->fill, t->fill + 1);
    fs_redo_add(heap, r, &t->keys_changed, t->keys_changed + 1);
    if (k->form == FS_K_OTHER)
        fs_redo_add(heap, r, &t->others, t->others + 1);
    return fs_redo_commit(me, r);
}

static int fs_table_delete(const fs_self *me, fs_table *t, fs_view *v, const fs_place *p) {
    fs_heap *heap = me->heap;
    fs_redo *r = &t->redo;
    fs_entry *e = p->entry;
    uint64_t n = fs_load_relaxed(&v->entries->n), next = v->index[(p->slot + 1) & v->mask];
    if (!t->used || n > v->capacity || p->number >= n)
        return FS_CORRUPT;
    fs_redo_prepare(r);
    if (fs_owning(e->kind))
        r->drop[0] = e->value;
    if (e->form & FS_KEY_IN_BLOB)
        r->drop[1] = e->key.blob;
    if (p->number == n - 1) {
        for (n--; n && !v->entries->entry[n - 1].kind; n--)
            ;
        fs_redo_add(heap, r, &t->moved, t->moved + 1);
    }
    fs_redo_add(heap, r, &e->head, fs_head_next(e, FS_V_ABSENT, 0, 0));
    fs_redo_add(heap, r, &v->index[p->slot], next == FS_EMPTY ? FS_EMPTY : FS_DELETED);
    fs_redo_add(heap, r, &v->entries->n, n);
    fs_redo_add(heap, r, &t->used, t->used - 1);
    fs_redo_add(heap, r, &t->fill, t->fill - (next == FS_EMPTY));
    fs_redo_add(heap, r, &t->keys_changed, t->keys_changed + 1);
    if ((e->form & ~FS_KEY_IN_BLOB) == FS_K_OTHER)
        fs_redo_add(heap, r, &t->others, t->others - 1);
    return fs_redo_commit(me, r);
}

static int fs_table_clear(const fs_self *me, fs_table *t) {
    fs_heap *heap = me->heap;
    fs_redo *r = &t->redo;
    if (!t->entries)
        return FS_OK;
    fs_write_begin(&t->o.lock);
    fs_redo_prepare(r);
    r->drop[0] = t->entries;
    r->drop[1] = t->index;
    fs_redo_add(heap, r, &t->entries, 0);
    fs_redo_add(heap, r, &t->index, 0);
    fs_redo_add(heap, r, &t->mask, 0);
    fs_redo_add(heap, r, &t->capacity, 0);
    fs_redo_add(heap, r, &t->used, 0);
    fs_redo_add(heap, r, &t->fill, 0);
    fs_redo_add(heap, r, &t->others, 0);
    fs_redo_add(heap, r, &t->keys_changed, t->keys_changed + 1);
    fs_redo_add(heap, r, &t->moved, t->moved + 1);
    return fs_redo_commit(me, r);
}

/* --- operations ---------------------------------------------------------------------------------------------------------- */

/* With the lock held by the caller: the key's place and a look at its value. */
static int fs_table_look(fs_heap *heap, fs_table *t, const fs_key *k, fs_peek *p) {
    int r = fs_view_make(heap, t, &p->view);
    p->view.version = 1;
    if (r == FS_OK)
        r = fs_find(heap, &p->view, k, &p->place);
    if (r != FS_OK)
        return r;
    p->seen.kind = p->place.entry->kind;
    p->seen.length = p->place.entry->length;
    p->seen.value = p->place.entry->value;
    return p->seen.kind ? fs_value_look(heap, &p->seen) : FS_CORRUPT;
}

/* `used` or `keys_changed` without the lock; FS_BUSY when it must be taken. An insert or a delete shows in the index before it
 * shows in them; who has seen the one must see the other, also when the writer died in between. */
static inline int fs_table_word(fs_table *t, const uint64_t *word, uint64_t *out) {
    uint64_t version = fs_read_begin(&t->o.lock);
    if (version & 1 || fs_load_acquire(&t->redo.state) == FS_COMMITTED)
        return FS_BUSY;
    *out = fs_load_relaxed(word);
    return fs_read_valid(&t->o.lock, version) ? FS_OK : FS_BUSY;
}

static inline int fs_table_count(fs_table *t, uint64_t *used) { return fs_table_word(t, &t->used, used); }

enum { FS_PUT = 0, FS_PUT_IF_ABSENT = 1, FS_ADD = 2 };

/* One value as an earlier look saw it. While `moved` stays, an entry's memory stays, so its seq tells one value from the
 * next. */
typedef struct {
    uint64_t moved, number, head, value;
} fs_witness;

static inline void fs_witness_take(fs_witness *w, const fs_table *t, const fs_place *p) {
    w->moved = t->moved;
    w->number = p->number;
    w->head = p->entry->head;
    w->value = p->entry->value;
}

static inline int fs_witness_holds(const fs_witness *w, const fs_table *t, const fs_place *p) {
    return w->moved == t->moved && w->number == p->number && w->head == p->entry->head && w->value == p->entry->value;
}

static inline int fs_sum(const fs_entry *e, const fs_value *val, uint64_t *result) {
    if ((e->kind != FS_V_INT && e->kind != FS_V_BOOL) || val->kind != FS_V_INT)
        return FS_TYPE;
    return __builtin_add_overflow((int64_t)e->value, (int64_t)val->value, (int64_t *)result) ? FS_OVERFLOW : FS_OK;
}

static int fs_table_add(const fs_self *me, fs_table *t, fs_entry *e, const fs_value *val, uint64_t *result) {
    int r = fs_sum(e, val, result);
    if (r != FS_OK)
        return r;
    fs_value next = {FS_V_INT, 0, *result, NULL, 0, NULL, 0, 0};
    return fs_table_overwrite(me, t, e, &next);
}

/* Sets, inserts or adds. `looked` is the number of changes of keys at which the caller found none equal to this key among those
 * that only Python can compare, or UINT64_MAX when it did not look. With `seen`, only a value that is still the one seen is
 * replaced, else FS_CHANGED. For FS_ADD the new value is left in *result. `p` keeps the view from one call to the next; after
 * FS_OK, it tells where the key is, if view.version is even. */
static int fs_table_put_by(const fs_self *me, fs_table *t, fs_peek *p, const fs_key *k, const fs_value *val, int how,
                           uint64_t looked, const fs_witness *seen, uint64_t *result) {
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    int r = fs_view_renew(me->heap, t, &p->view);
    if (fs_likely(r == FS_OK))
        r = fs_find(me->heap, &p->view, k, &p->place);
    if (r == FS_MISSING) {
        if (seen || (looked != t->keys_changed && (looked != UINT64_MAX || t->others))) {
            r = FS_CHANGED;
        } else {
            r = fs_table_insert(me, t, &p->view, &p->place, k, val);
            if (result)
                *result = val->value;
        }
    } else if (fs_likely(r == FS_OK)) {
        if (seen && !fs_witness_holds(seen, t, &p->place))
            r = FS_CHANGED;
        else if (how == FS_PUT)
            r = fs_table_overwrite(me, t, p->place.entry, val);
        else
            r = how == FS_ADD ? fs_table_add(me, t, p->place.entry, val, result) : FS_EXISTS;
    }
    if (r == FS_OK)
        p->place.head = p->place.entry->head;
    fs_table_leave(me, t, entered);
    return r;
}

FS_UNUSED static int fs_table_put(const fs_self *me, fs_table *t, const fs_key *k, const fs_value *val, int how,
                                  uint64_t looked, const fs_witness *seen, uint64_t *result) {
    fs_peek p;
    p.view.version = 1;
    return fs_table_put_by(me, t, &p, k, val, how, looked, seen, result);
}

/* One word over one of the same kind, of a key that is where the hint says, when that needs no more than the store. FS_MISSING:
 * it needs more, and nothing was done. */
static inline int fs_hint_store(const fs_self *me, fs_table *t, const fs_hint *h, uint32_t kind, uint64_t word) {
    fs_entry e;
    e.head = h->head;
    if (e.kind != kind || !fs_hint_holds(t, h) || fs_load_relaxed(&t->o.lock.word) || !fs_cas_u32(&t->o.lock.word, 0, me->id))
        return FS_MISSING;
    int r = FS_MISSING;
    if (fs_likely(t->redo.state == FS_IDLE && fs_hint_holds(t, h))) {
        fs_store_release(&h->entry->value, word); /* pairs with the loads in fs_peek_at and fs_hint_look */
        r = FS_OK;
    }
    fs_leave(me, &t->o.lock);
    if (fs_unlikely(fs_load_relaxed(&t->turn) & FS_TURN_ASLEEP))
        fs_turn_wake(&t->turn, FS_ALL);
    return r;
}

/* Any value, set or added, for a key that is where the hint says. FS_MISSING: it is not, or the lock is a user's; nothing was
 * done. */
FS_UNUSED static int fs_hint_put(const fs_self *me, fs_table *t, fs_hint *h, const fs_value *val, int how, uint64_t *result) {
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    int r = FS_MISSING;
    if (fs_likely(fs_hint_holds(t, h))) {
        r = how == FS_ADD ? fs_table_add(me, t, h->entry, val, result) : fs_table_overwrite(me, t, h->entry, val);
        h->head = h->entry->head;
    }
    fs_table_leave(me, t, entered);
    return r;
}

/* Deletes a key; with `seen`, only while its value is still the one seen, and with `looked` not UINT64_MAX, while no key has
 * been inserted or deleted since, else FS_CHANGED. */
static int fs_table_remove_by(const fs_self *me, fs_table *t, fs_view *v, const fs_key *k, const fs_witness *seen,
                              uint64_t looked) {
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    fs_place p;
    int r = fs_view_renew(me->heap, t, v);
    if (r == FS_OK)
        r = fs_find(me->heap, v, k, &p);
    if (r == FS_OK)
        r = (seen && !fs_witness_holds(seen, t, &p)) || (looked != UINT64_MAX && looked != t->keys_changed)
                ? FS_CHANGED
                : fs_table_delete(me, t, v, &p);
    fs_table_leave(me, t, entered);
    return r;
}

FS_UNUSED static int fs_table_remove(const fs_self *me, fs_table *t, const fs_key *k, const fs_witness *seen, uint64_t looked) {
    fs_view v;
    v.version = 1;
    return fs_table_remove_by(me, t, &v, k, seen, looked);
}

/* Under the lock: a copy of one value, and what tells whether it is still there. FS_RANGE when it needs a pin. */
FS_UNUSED static int fs_table_read(const fs_self *me, fs_table *t, const fs_key *k, const uint64_t *pin, fs_copy *out,
                                   fs_witness *seen) {
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    fs_peek p;
    int r = fs_table_look(me->heap, t, k, &p);
    if (r == FS_OK) {
        fs_witness_take(seen, t, &p.place);
        r = fs_copy_out(me, &p.seen, pin, out);
    }
    fs_table_leave_unchanged(me, t, entered);
    return r;
}

/* Takes a value out as one step: `make` makes what is handed out, and when it cannot, the value stays. It runs under the lock,
 * so it only allocates and copies; what needs more (FS_TYPE) must be read, made and removed. */
FS_UNUSED static int fs_table_take(const fs_self *me, fs_table *t, const fs_key *k, fs_maker make, void *out) {
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    fs_peek p;
    int r = fs_table_look(me->heap, t, k, &p);
    if (r == FS_OK && p.seen.kind > FS_V_BYTEARRAY_BLOB)
        r = FS_TYPE;
    if (r == FS_OK && (r = make(out, &p.seen)) == FS_OK)
        r = fs_table_delete(me, t, &p.view, &p.place);
    fs_table_leave(me, t, entered);
    return r;
}

FS_UNUSED static int fs_table_empty(const fs_self *me, fs_table *t) {
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    int r = fs_table_clear(me, t);
    fs_table_leave(me, t, entered);
    return r;
}

/* The number of the last live entry, with the lock held; UINT64_MAX when there is none. */
static inline uint64_t fs_table_last(const fs_view *v) {
    if (v->entries)
        for (uint64_t n = fs_load_relaxed(&v->entries->n), i = n <= v->capacity ? n : v->capacity; i-- > 0;)
            if (v->entries->entry[i].kind)
                return i;
    return UINT64_MAX;
}

/* The first one, from number `i` on. */
static inline uint64_t fs_table_first(const fs_view *v, uint64_t i) {
    if (v->entries)
        for (uint64_t n = fs_load_relaxed(&v->entries->n); i < n && i < v->capacity; i++)
            if (v->entries->entry[i].kind)
                return i;
    return UINT64_MAX;
}

#endif
