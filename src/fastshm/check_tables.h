/* check_tables.h: are a table and a vector whole that stand still? */
#ifndef FASTSHM_CHECK_TABLES_H
#define FASTSHM_CHECK_TABLES_H

#include "check_owned.h"

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

#endif
