/* merge.h: many keys of a table as one change.
 *
 * All is written in place under an odd version. What was there before goes to an undo log first, owned by redo.batch; new keys
 * go behind redo.before[0]. A death, or an error, puts back (fs_batch_rollback in table.h); one store of COMMITTED makes it
 * count.
 */
#ifndef FASTSHM_MERGE_H
#define FASTSHM_MERGE_H

#include "snapshot.h"

/* The undo log of a batch under way, checked once. */
typedef struct {
    fs_undo_log *log; /* NULL until something is logged */
    uint64_t room;
} fs_logging;

FS_COLD static int fs_batch_log_make(const fs_self *me, fs_table *t, uint64_t room, fs_logging *l) {
    fs_block *b;
    int code = fs_alloc_to(me, sizeof(fs_undo_log) - FS_HEADER + room * sizeof(fs_undo_entry), FS_RAW, &t->redo.batch, &b);
    if (code != FS_OK)
        return code;
    l->log = (fs_undo_log *)b;
    l->log->link = l->log->n = 0;
    fs_crash_order();
    fs_store_release(&b->kind, FS_UNDO_LOG);
    l->room = room;
    return FS_OK;
}

static inline int fs_batch_log(const fs_self *me, fs_table *t, uint64_t room, const fs_entry *e, uint64_t number,
                               fs_logging *l) {
    int code;
    if (fs_unlikely(!l->log) && (code = fs_batch_log_make(me, t, room, l)) != FS_OK)
        return code;
    uint64_t n = fs_load_relaxed(&l->log->n);
    if (fs_unlikely(n >= l->room))
        return FS_CORRUPT;
    fs_undo_entry *u = &l->log->undo[n];
    fs_store_relaxed(&u->entry, number); /* the checker may be looking, up to log->n */
    fs_store_relaxed(&u->about, (uint64_t)e->kind | (uint64_t)e->length << 8);
    fs_store_relaxed(&u->value, e->value);
    fs_crash_order();
    fs_store_release(&l->log->n, n + 1);
    fs_crash_order();
    return FS_OK;
}

/* One item. FS_RANGE when its key is new and there is no room for it. */
static int fs_batch_put(const fs_self *me, fs_table *t, const fs_view *v, const fs_key *k, const fs_value *val, int how,
                        uint64_t left, fs_logging *l) {
    fs_redo *r = &t->redo;
    fs_place p;
    uint64_t word = val->value;
    int code = fs_find(me->heap, v, k, &p);
    if (code == FS_OK && how == FS_ADD && (code = fs_sum(p.entry, val, &word)) != FS_OK)
        return code;
    if (code == FS_OK) {
        /* An object over itself changes nothing. In the log, it could not be told from an old value that is back already. */
        if (val->kind == FS_V_OBJECT && p.entry->kind == FS_V_OBJECT && p.entry->value == val->value)
            return FS_OK;
        /* Logged first, so that own[0] is always the new value of the log's last item. */
        if ((code = fs_batch_log(me, t, left, p.entry, p.number, l)) != FS_OK)
            return code;
        if (fs_owning(val->kind) && (code = fs_value_make(me, val, &r->own[0], &word)) != FS_OK)
            return code;
        /* While the kind says owning, the value must be an offset: a rollback goes by it. */
        if (!fs_owning(val->kind)) {
            fs_store_release(&p.entry->head, fs_head_next(p.entry, val->kind, val->length, 0));
            fs_crash_order();
            fs_store_relaxed(&p.entry->value, word);
            return FS_OK;
        }
        fs_store_relaxed(&p.entry->value, word);
        fs_crash_order();
        fs_store_release(&p.entry->head, fs_head_next(p.entry, val->kind, val->length, 0));
        fs_crash_order();
        r->own[0] = 0;
        return FS_OK;
    }
    if (code != FS_MISSING)
        return code;
    uint64_t n = fs_load_relaxed(&v->entries->n);
    if (n >= v->capacity || t->fill >= v->capacity)
        return FS_RANGE;
    fs_entry *e = &v->entries->entry[n];
    int in_blob = !fs_key_is_inline(k);
    fs_entry h;
    h.head = e->head;
    h.seq = (h.seq | 1) + 1;
    h.form = k->form | (in_blob ? FS_KEY_IN_BLOB : 0);
    h.display = k->display;
    h.kind = (uint8_t)val->kind;
    h.length = (uint8_t)val->length;
    fs_store_relaxed(&e->hash, k->hash);
    fs_store_relaxed(&e->key_length, k->length);
    fs_store_relaxed(&e->value, fs_owning(val->kind) ? 0 : word);
    for (int i = 0; i < 4; i++)
        fs_store_relaxed(&e->key.words[i], in_blob ? 0 : k->words[i]);
    fs_store_release(&e->head, h.head);
    fs_crash_order();
    fs_store_release(&v->entries->n, n + 1); /* from here on a rollback looks at it */
    fs_crash_order();
    if (in_blob) {
        fs_value bytes = {FS_V_BYTES_BLOB, 0, 0, k->bytes, k->total, NULL, 0, 0};
        if ((code = fs_value_make(me, &bytes, &e->key.blob, &word)) != FS_OK)
            return code;
    }
    if (fs_owning(val->kind) && (code = fs_value_make(me, val, &e->value, &word)) != FS_OK)
        return code;
    fs_crash_order();
    fs_store_release(&v->index[p.slot], k->hash >> 32 << 32 | (n + 2));
    t->used++;
    t->fill++;
    t->others += k->form == FS_K_OTHER;
    return FS_OK;
}

/* The entry that a search for this hash will most likely look at first. */
static inline void fs_entry_prefetch(const fs_view *v, uint64_t hash) {
    uint64_t number = (uint32_t)fs_load_relaxed(&v->index[hash & v->mask]) - 2ull;
    if (number < v->capacity)
        __builtin_prefetch(&v->entries->entry[number]);
}

/* How many of every `step`-th of these keys are new? */
static uint64_t fs_batch_fresh(fs_heap *heap, const fs_view *v, const fs_key *keys, uint64_t count, uint64_t step) {
    uint64_t fresh = 0;
    fs_place p;
    for (uint64_t i = 0; i < count; i += step) {
        if (i + 8 * step < count)
            __builtin_prefetch(&v->index[keys[i + 8 * step].hash & v->mask]);
        fresh += fs_find(heap, v, &keys[i], &p) == FS_MISSING;
    }
    return fresh;
}

/* Room for the keys that are new. All may be, or none; a few tell with which to begin, and when `certain`, all are asked. */
static int fs_batch_room(const fs_self *me, fs_table *t, fs_view *v, const fs_key *keys, uint64_t count, int certain) {
    uint64_t n = v->entries ? v->entries->n : 0, full = n > t->fill ? n : t->fill;
    if (v->entries && full <= v->capacity && count <= v->capacity - full)
        return FS_OK;
    if (v->entries && full <= v->capacity && !certain && !fs_batch_fresh(me->heap, v, keys, count, count / 16 + 1))
        return FS_OK;
    uint64_t fresh = v->entries ? fs_batch_fresh(me->heap, v, keys, count, 1) : count;
    if (v->entries && full <= v->capacity && fresh <= v->capacity - full)
        return FS_OK;
    int code = fs_table_grow(me, t, fresh + 1);
    if (code == FS_OK)
        code = fs_view_make(me->heap, t, v);
    return code == FS_OK && !v->entries ? FS_CORRUPT : code;
}

static int fs_batch_run(const fs_self *me, fs_table *t, const fs_view *v, const fs_key *keys, const fs_value *values,
                        uint64_t count, int how) {
    fs_redo *r = &t->redo;
    fs_logging l = {NULL, 0};
    int code = FS_OK;
    fs_write_begin(&t->o.lock);
    r->before[0] = v->entries->n;
    r->before[1] = t->used;
    r->before[2] = t->fill;
    r->before[3] = t->others;
    fs_crash_order();
    r->state = FS_BATCH;
    fs_crash_order();
    for (uint64_t i = 0; i < count && code == FS_OK; i++) {
        if (i + 16 < count)
            __builtin_prefetch(&v->index[keys[i + 16].hash & v->mask]);
        if (i + 8 < count)
            fs_entry_prefetch(v, keys[i + 8].hash);
        code = fs_batch_put(me, t, v, &keys[i], &values[i], how, count - i, &l);
    }
    if (code != FS_OK)
        return code;
    r->drop[0] = r->batch;
    fs_redo_add(me->heap, r, &r->batch, 0);
    fs_redo_add(me->heap, r, &t->keys_changed, t->keys_changed + v->entries->n - r->before[0]);
    return fs_redo_commit(me, r);
}

/* All of the items, or none: set (FS_PUT), or added to what is there (FS_ADD; each key once). `looked` as for fs_table_put. */
FS_UNUSED static int fs_table_merge(const fs_self *me, fs_table *t, const fs_key *keys, const fs_value *values, uint64_t count,
                                    int how, uint64_t looked) {
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    fs_view v;
    int code = fs_view_make(me->heap, t, &v);
    if (code == FS_OK && looked != t->keys_changed && (looked != UINT64_MAX || t->others))
        code = FS_CHANGED;
    for (int certain = 0; code == FS_OK && count; certain++) {
        code = fs_batch_room(me, t, &v, keys, count, certain);
        if (code != FS_OK)
            break;
        code = fs_batch_run(me, t, &v, keys, values, count, how);
        if (code == FS_OK)
            break;
        int back = t->redo.state == FS_BATCH ? fs_batch_rollback(me, t) : FS_OK;
        if (back != FS_OK && entered != FS_NESTED) {
            fs_leave(me, &t->o.lock); /* the version stays odd: whoever comes next goes on putting it back */
            return back == FS_CORRUPT ? back : code == FS_RANGE ? back : code;
        }
        if (code == FS_RANGE)
            code = back == FS_OK && certain ? FS_CORRUPT : back; /* once more, with room for all */
    }
    fs_table_leave(me, t, entered);
    return code;
}

/* --- keys out and keys in, as one change --------------------------------------------------------------------------------- */

/* Entry n of `to`, which nobody can find, becomes what `from` is, with references of its own. While it is being made its words
 * are 0. */
static int fs_entry_share(const fs_self *me, fs_entries *to, const fs_entry *from) {
    uint64_t n = to->n;
    fs_entry *e = &to->entry[n];
    int in_blob = from->form & FS_KEY_IN_BLOB, owning = fs_owning(from->kind), code = FS_OK;
    *e = *from;
    if (in_blob)
        e->key.blob = 0;
    if (owning)
        e->value = 0;
    fs_crash_order();
    fs_store_release(&to->n, n + 1);
    fs_crash_order();
    if (in_blob)
        code = fs_ref_to(me, from->key.blob, &e->key.blob);
    if (code == FS_OK && owning)
        code = fs_ref_to(me, from->value, &e->value);
    return code;
}

/* The same for a key that is new. */
static int fs_entry_add(const fs_self *me, fs_entries *to, const fs_key *k, const fs_value *val) {
    uint64_t n = to->n, word = val->value;
    fs_entry *e = &to->entry[n];
    int in_blob = !fs_key_is_inline(k), owning = fs_owning(val->kind), code = FS_OK;
    memset(e, 0, sizeof *e);
    e->hash = k->hash;
    e->key_length = k->length;
    e->form = k->form | (in_blob ? FS_KEY_IN_BLOB : 0);
    e->display = k->display;
    e->kind = (uint8_t)val->kind;
    e->length = (uint8_t)val->length;
    if (!owning)
        e->value = word;
    if (!in_blob)
        memcpy(e->key.words, k->words, sizeof e->key.words);
    fs_crash_order();
    fs_store_release(&to->n, n + 1);
    fs_crash_order();
    if (in_blob) {
        fs_value bytes = {FS_V_BYTES_BLOB, 0, 0, k->bytes, k->total, NULL, 0, 0};
        code = fs_value_make(me, &bytes, &e->key.blob, &word);
    }
    if (code == FS_OK && owning)
        code = fs_value_make(me, val, &e->value, &word);
    return code;
}

/* The new arrays, in own[2] and own[3]; what is in them is counted. `gone` has a bit for each old entry that is left out. */
static int fs_exchange_make(const fs_self *me, fs_redo *r, const fs_view *old, const uint8_t *gone, const fs_key *keys,
                            const fs_value *values, uint64_t count, fs_view *v, uint64_t *others) {
    uint64_t n = old->entries ? old->entries->n : 0, live = 0;
    fs_block *b;
    fs_place p;
    for (uint64_t i = 0; i < n; i++)
        live += old->entries->entry[i].kind && !(gone[i / 8] >> i % 8 & 1);
    uint64_t want = live + count + live / 4 + 8, size = fs_index_size(want);
    if (want > UINT32_MAX / 2)
        return FS_NOMEM;
    int code = fs_index_make(me, r, size, &v->index);
    if (code == FS_OK)
        code = fs_alloc_to(me, sizeof(fs_entries) - FS_HEADER + want * sizeof(fs_entry), FS_RAW, &r->own[2], &b);
    if (code != FS_OK)
        return code;
    v->entries = (fs_entries *)b;
    v->mask = size - 1;
    v->capacity = want;
    memset(v->entries->pad, 0, sizeof v->entries->pad);
    v->entries->n = v->entries->link = 0;
    fs_crash_order();
    fs_store_release(&b->kind, FS_ENTRIES); /* from here on it owns what its entries below n own */
    fs_crash_order();
    *others = 0;
    for (uint64_t i = 0; i < n && code == FS_OK; i++) {
        const fs_entry *from = &old->entries->entry[i];
        if (!from->kind || gone[i / 8] >> i % 8 & 1)
            continue;
        if (v->entries->n == v->capacity)
            return FS_CORRUPT;
        fs_index_put(v->index, v->mask, from->hash, v->entries->n);
        *others += (from->form & ~FS_KEY_IN_BLOB) == FS_K_OTHER;
        code = fs_entry_share(me, v->entries, from);
    }
    for (uint64_t i = 0; i < count && code == FS_OK; i++) {
        if ((code = fs_find(me->heap, v, &keys[i], &p)) != FS_MISSING)
            continue; /* it is there */
        if (v->entries->n == v->capacity)
            return FS_CORRUPT;
        fs_index_put(v->index, v->mask, keys[i].hash, v->entries->n);
        *others += keys[i].form == FS_K_OTHER;
        code = fs_entry_add(me, v->entries, &keys[i], &values[i]);
    }
    return code;
}

/* Takes `out_count` keys out (all that there are when `out` is NULL) and puts `count` others in, as one change; those that are
 * not there, or are, stay as they are. It makes new arrays beside the old ones: O(n). FS_CHANGED unless the table is as it was
 * when it was looked at (fs_extent_holds). */
FS_UNUSED static int fs_table_exchange(const fs_self *me, fs_table *t, const fs_key *out, uint64_t out_count,
                                       const fs_key *keys, const fs_value *values, uint64_t count, const fs_extent *looked,
                                       const fs_snapshot *seen) {
    fs_heap *heap = me->heap;
    fs_redo *r = &t->redo;
    fs_view old, v;
    fs_place p;
    uint64_t others = 0;
    uint8_t *gone = NULL;
    int entered = fs_table_enter(me, t);
    if (entered < 0)
        return entered;
    int code = fs_view_make(heap, t, &old);
    if (code == FS_OK && old.entries && old.entries->n > old.capacity)
        code = FS_CORRUPT;
    if (code == FS_OK)
        code = fs_extent_holds(t, &old, looked, seen);
    if (code == FS_OK && !(gone = calloc(old.capacity / 8 + 1, 1)))
        code = FS_PRIVATE_NOMEM;
    if (code == FS_OK && !out) {
        memset(gone, 0xff, old.capacity / 8 + 1);
        out_count = t->used;
    }
    for (uint64_t i = 0; out && i < out_count && code == FS_OK; i++) {
        int found = fs_find(heap, &old, &out[i], &p);
        if (found == FS_OK)
            gone[p.number / 8] |= (uint8_t)(1 << p.number % 8);
        else if (found != FS_MISSING)
            code = found;
    }
    if (code == FS_OK) {
        fs_redo_prepare(r);
        code = fs_exchange_make(me, r, &old, gone, keys, values, count, &v, &others);
        if (code != FS_OK)
            code = fs_growth_fail(me, r, code);
        else {
            uint64_t n = v.entries->n;
            fs_write_begin(&t->o.lock);
            r->drop[2] = t->entries;
            r->drop[3] = t->index;
            fs_redo_add(heap, r, &t->entries, r->own[2]);
            fs_redo_add(heap, r, &t->index, r->own[3]);
            fs_redo_add(heap, r, &t->mask, v.mask);
            fs_redo_add(heap, r, &t->capacity, v.capacity);
            fs_redo_add(heap, r, &t->used, n);
            fs_redo_add(heap, r, &t->fill, n);
            fs_redo_add(heap, r, &t->others, others);
            fs_redo_add(heap, r, &t->keys_changed, t->keys_changed + out_count + count);
            fs_redo_add(heap, r, &t->moved, t->moved + 1);
            code = fs_redo_commit(me, r);
        }
    }
    free(gone);
    fs_table_leave(me, t, entered);
    return code;
}

#endif
