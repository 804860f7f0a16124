/* snapshot.h: a table's entries, all of one instant, in private memory.
 *
 *   buffer  | record | record | ...          in the order of insertion
 *   record  | entry |                        a key and a value that lie in the entry itself
 *           | entry | sizes, pin | key bytes | value bytes | padding to 8      any other: entry.spare is 1
 *
 * In the copy of an entry, `hash` is its number. Under the lock nothing is done but this copying, in one pass.
 */
#ifndef FASTSHM_SNAPSHOT_H
#define FASTSHM_SNAPSHOT_H

#include "table.h"

typedef struct {
    fs_entry entry;
    /* if entry.spare */
    uint64_t key_total, value_size; /* of the bytes that follow */
    uint64_t pin; /* of a value that a handle slot now refers to, whose bytes do not follow: 1 + the slot's index, else 0 */
} fs_record;

static inline uint64_t fs_record_size(const fs_record *r) {
    return r->entry.spare ? (sizeof *r + r->key_total + r->value_size + 7) & ~(uint64_t)7 : sizeof r->entry;
}

/* The key's canonical form, and what to show behind it: *total bytes. */
static inline const unsigned char *fs_record_key(const fs_record *r, uint64_t *total) {
    *total = r->entry.spare ? r->key_total : r->entry.key_length;
    return r->entry.spare ? (const unsigned char *)(r + 1) : (const unsigned char *)r->entry.key.words;
}

static inline const unsigned char *fs_record_value(const fs_record *r, uint64_t *size) {
    *size = r->entry.spare ? r->value_size : 0;
    return r->entry.spare ? (const unsigned char *)(r + 1) + r->key_total : NULL;
}

typedef struct {
    unsigned char *buffer; /* malloc'ed */
    uint64_t count;
    uint64_t pins; /* handle slots needed */
} fs_snapshot;

typedef struct {
    unsigned char *start, *to, *end;
} fs_growing;

/* Room for `size` more bytes. */
static inline int fs_growing_room(fs_growing *g, uint64_t size) {
    if (fs_likely((uint64_t)(g->end - g->to) >= size))
        return FS_OK;
    uint64_t used = (uint64_t)(g->to - g->start), room = used + size + used / 2;
    unsigned char *more = realloc(g->start, room);
    if (!more)
        return FS_PRIVATE_NOMEM;
    g->start = more;
    g->to = more + used;
    g->end = more + room;
    return FS_OK;
}

static inline int fs_key_look(fs_heap *heap, const fs_entry *e, const unsigned char **data, uint64_t *total) {
    if (!(e->form & FS_KEY_IN_BLOB)) {
        *data = (const unsigned char *)e->key.words;
        *total = e->key_length;
        return e->key_length <= FS_KEY_INLINE ? FS_OK : FS_CORRUPT;
    }
    fs_seen s = {FS_V_BYTES_BLOB, 0, e->key.blob, NULL, 0};
    int r = fs_value_look(heap, &s);
    *data = s.data;
    *total = s.size;
    return r == FS_OK && s.size < e->key_length ? FS_CORRUPT : r;
}

/* An entry whose key or value lies elsewhere. The value's slot is the next of `slots`; FS_RANGE when it needs one, and there is
 * none. */
static int fs_record_long(const fs_self *me, const fs_entry *e, int values, const uint64_t *slots, uint64_t *pinned,
                          uint64_t pin_room, fs_growing *g) {
    const unsigned char *key;
    uint64_t total;
    fs_seen s = {e->kind, e->length, e->value, NULL, 0};
    int r = fs_key_look(me->heap, e, &key, &total);
    if (r == FS_OK && values)
        r = fs_value_look(me->heap, &s);
    if (r != FS_OK)
        return r;
    int pin = values && fs_is_pinned(&s, fs_is_short(slots, pin_room));
    uint64_t bytes = fs_owning(s.kind) && values && !pin ? s.size : 0;
    if (pin && *pinned == pin_room)
        return FS_RANGE;
    if ((r = fs_growing_room(g, sizeof(fs_record) + total + bytes + 8)) != FS_OK)
        return r;
    fs_record *record = (fs_record *)g->to;
    record->entry = *e;
    record->entry.spare = 1;
    record->key_total = total;
    record->value_size = bytes;
    record->pin = 0;
    memcpy(g->to + sizeof(fs_record), key, total);
    if (bytes)
        memcpy(g->to + sizeof(fs_record) + total, s.data, bytes);
    g->to += fs_record_size(record);
    if (pin) {
        if ((r = fs_pin(me, e->value, slots[*pinned])) != FS_OK)
            return r;
        record->pin = ++*pinned;
    }
    return FS_OK;
}

static uint64_t fs_pins_of(fs_heap *heap, const fs_view *v, uint64_t first, uint64_t n, uint8_t form, int is_short) {
    uint64_t pins = 0;
    for (uint64_t i = first; i < n; i++) {
        const fs_entry *e = &v->entries->entry[i];
        fs_seen s = {e->kind, e->length, e->value, NULL, 0};
        if (fs_owning(s.kind) && (!form || (e->form & ~FS_KEY_IN_BLOB) == form))
            pins += fs_value_look(heap, &s) == FS_OK && fs_is_pinned(&s, is_short);
    }
    return pins;
}

/* Live entries from number `first` on, with the lock held; of one form of key, unless that is 0. `slots` are the offsets of
 * `pin_room` empty handle slots (fs_is_short). When more are needed, FS_RANGE with out->pins set: the caller empties those that were used.
 * Values are left out unless `values`. */
FS_UNUSED static int fs_table_snapshot(const fs_self *me, fs_table *t, int values, uint8_t form, uint64_t first, uint64_t end,
                                       const uint64_t *slots, uint64_t pin_room, fs_snapshot *out) {
    fs_view v;
    int r = fs_view_make(me->heap, t, &v);
    out->buffer = NULL;
    out->count = out->pins = 0;
    if (r != FS_OK || !v.entries)
        return r;
    uint64_t n = fs_load_relaxed(&v.entries->n), used = fs_load_relaxed(&t->used), pinned = 0, made = 0;
    if (n > v.capacity || used > n)
        return FS_CORRUPT;
    n = end < n ? end : n;
    if (first >= n)
        return FS_OK;
    uint64_t room = (form ? 16 : used < n - first ? used : n - first) * sizeof(fs_entry);
    fs_growing g = {malloc(room), NULL, NULL};
    if (room && !g.start)
        return FS_PRIVATE_NOMEM;
    g.to = g.start;
    g.end = g.start + room;
    for (uint64_t i = first; i < n && r == FS_OK; i++) {
        const fs_entry *from = &v.entries->entry[i];
        if (!from->kind || (form && (from->form & ~FS_KEY_IN_BLOB) != form))
            continue;
        fs_entry e;
        fs_copy_racy(&e, from, sizeof e);
        e.hash = i;
        e.spare = 0;
        if (fs_likely(!(e.form & FS_KEY_IN_BLOB) && e.key_length <= FS_KEY_INLINE && (!values || !fs_owning(e.kind)))) {
            if (fs_likely((r = fs_growing_room(&g, sizeof e)) == FS_OK)) {
                memcpy(g.to, &e, sizeof e);
                g.to += sizeof e;
            }
        } else {
            r = fs_record_long(me, &e, values, slots, &pinned, pin_room, &g);
        }
        made++;
    }
    if (r != FS_OK) { /* the pins taken so far stay in their slots */
        free(g.start);
        if (r == FS_RANGE)
            out->pins = fs_pins_of(me->heap, &v, first, n, form, fs_is_short(slots, pin_room));
        return r;
    }
    out->buffer = g.start;
    out->count = made;
    return FS_OK;
}

/* What one entry held when it was last looked at. */
typedef struct {
    uint64_t head, value;
} fs_sight;

/* Which values of one word are others than at the last look? `sights` has all `count` live entries in order, and becomes what
 * is there now; `changed` gets the places of those that differ, *n of them. FS_CHANGED: other keys, or other values than words:
 * then `sights` is to be thrown away. */
FS_UNUSED static int fs_table_delta(const fs_self *me, fs_table *t, uint64_t keys_changed, fs_sight *sights, uint64_t count,
                                    uint32_t *changed, uint64_t *n) {
    fs_view v;
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    int r = fs_view_make(me->heap, t, &v);
    uint64_t end = v.entries ? fs_load_relaxed(&v.entries->n) : 0, at = 0;
    *n = 0;
    if (r == FS_OK && (t->keys_changed != keys_changed || end > v.capacity))
        r = FS_CHANGED;
    for (uint64_t i = 0; i < end && r == FS_OK; i++) {
        const fs_entry *e = &v.entries->entry[i];
        fs_entry head;
        head.head = fs_load_relaxed(&e->head);
        uint64_t value = fs_load_relaxed(&e->value);
        if (!head.kind)
            continue;
        if (fs_unlikely(at == count)) {
            r = FS_CHANGED;
        } else if (fs_unlikely(head.head != sights[at].head || value != sights[at].value)) {
            sights[at].head = head.head;
            sights[at].value = value;
            changed[(*n)++] = (uint32_t)at;
            if (fs_owning(head.kind))
                r = FS_CHANGED;
        }
        at++;
    }
    if (r == FS_OK && at != count)
        r = FS_CHANGED;
    fs_table_leave_unchanged(me, t, entered);
    return r;
}

#define FS_NEWEST UINT64_MAX
#define FS_OLDEST (UINT64_MAX - 1)

/* What a snapshot was taken of, for whoever wants to know what has changed since. */
typedef struct {
    uint64_t n, used, keys_changed, moved;
    uint64_t first; /* number of the first entry taken */
} fs_extent;

/* The same with the lock taken; FS_CHANGED when entry `first` is not what it was at the extent handed in, if first is not 0.
 * With first FS_OLDEST or FS_NEWEST, the first or the last live entry alone; the first is looked for from extent->first on, if
 * nothing has moved since. */
FS_UNUSED static int fs_table_copy(const fs_self *me, fs_table *t, int values, uint8_t form, uint64_t first,
                                   const uint64_t *slots, uint64_t pin_room, fs_snapshot *out, fs_extent *extent) {
    fs_view v;
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    int r = fs_view_make(me->heap, t, &v);
    out->buffer = NULL;
    out->count = out->pins = 0;
    uint64_t end = UINT64_MAX;
    if (r == FS_OK && (first == FS_OLDEST || first == FS_NEWEST)) {
        uint64_t from = extent->moved == t->moved ? extent->first : 0;
        first = first == FS_OLDEST ? fs_table_first(&v, from) : fs_table_last(&v);
        end = first == UINT64_MAX ? first : first + 1;
    } else if (r == FS_OK && first && extent->moved != t->moved)
        r = FS_CHANGED;
    extent->n = v.entries ? v.entries->n : 0;
    extent->used = t->used;
    extent->keys_changed = t->keys_changed;
    extent->moved = t->moved;
    extent->first = first;
    if (r == FS_OK)
        r = fs_table_snapshot(me, t, values, form, first, end, slots, pin_room, out);
    fs_table_leave_unchanged(me, t, entered);
    return r;
}

/* With the lock held: FS_CHANGED when keys have come or gone since the extent was looked at, or values of `seen` were replaced, if
 * that is not NULL: a snapshot of all of it. While `moved` stays, an entry's seq tells one value from the next. */
static int fs_extent_holds(const fs_table *t, const fs_view *v, const fs_extent *extent, const fs_snapshot *seen) {
    if (t->keys_changed != extent->keys_changed)
        return FS_CHANGED;
    if (!seen)
        return FS_OK;
    if (t->moved != extent->moved)
        return FS_CHANGED;
    const unsigned char *at = seen->buffer;
    uint64_t n = v->entries ? v->entries->n : 0, left = seen->count;
    for (uint64_t i = 0; i < n; i++) {
        const fs_entry *e = &v->entries->entry[i];
        const fs_record *r = (const fs_record *)at;
        if (!e->kind)
            continue;
        if (!left || e->head != r->entry.head || e->value != r->entry.value)
            return FS_CHANGED;
        at += fs_record_size(r);
        left--;
    }
    return left ? FS_CHANGED : FS_OK;
}

#endif
