/* words.h: a list's items of one word, in slots that a handle has found before. */
#ifndef FASTSHM_WORDS_H
#define FASTSHM_WORDS_H

#include "vector.h"

/* Where slots were found once. That these bytes are the segment's stays true, whatever comes to lie there. */
typedef struct {
    uint64_t at, capacity;
    fs_slot *slot;
} fs_known;

FS_COLD static void fs_vector_learn_anew(fs_heap *heap, fs_vector *v, fs_known *k) {
    fs_span s;
    if (fs_span_make(heap, v, &s) == FS_OK && s.slots) {
        k->at = fs_offset(heap, s.slots);
        k->capacity = s.capacity;
        k->slot = s.slots->slot;
    }
}

static inline void fs_vector_learn(fs_heap *heap, fs_vector *v, fs_known *k) {
    if (fs_unlikely(fs_load_relaxed(&v->slots) != k->at || fs_load_relaxed(&v->capacity) != k->capacity))
        fs_vector_learn_anew(heap, v, k);
}

/* The first slot in use, of n; NULL when there are none, or they are not the ones that are known. A new block may lie where one was before, and be
 * smaller. */
static inline fs_slot *fs_known_slots(const fs_vector *v, const fs_known *k, uint64_t *n) {
    uint64_t start;
    if (fs_unlikely(fs_load_relaxed(&v->slots) != k->at || fs_load_relaxed(&v->capacity) != k->capacity))
        return NULL;
    *n = fs_load_acquire(&v->n);
    start = fs_load_relaxed(&v->start);
    return fs_likely(start < k->capacity && *n <= k->capacity - start) ? k->slot + start : NULL;
}

/* Item i, counted from the end when negative, if it is a word and nothing is in the way: 1. Else 0, and fs_vector_peek
 * tells. */
static inline int fs_vector_word_peek(const fs_vector *v, const fs_known *k, int64_t i, uint64_t *about, uint64_t *value) {
    uint64_t version = fs_read_begin(&v->o.lock), n = 0, place = (uint64_t)i;
    const fs_slot *slot = fs_known_slots(v, k, &n);
    if (i < 0)
        place += n;
    if (fs_unlikely(version & 1 || !slot || place >= n))
        return 0;
    *about = fs_load_relaxed(&slot[place].about);
    *value = fs_load_acquire(&slot[place].value); /* pairs with the store in fs_vector_set_word */
    return fs_vector_peek_valid(v, i, &(fs_glance){version, n}) && !fs_owning(fs_about_kind(*about));
}

/* With the lock just taken, which is left: one word that replaces another of its kind, that comes behind the others, or that is
 * taken from there. 0: nothing was done, as it takes more than that; then the lock is left as it was found, for whoever
 * settles. */
static inline int fs_word_done(const fs_self *me, fs_vector *v, int done) {
    if (fs_likely(done))
        fs_settle(&v->o.lock);
    fs_leave(me, &v->o.lock);
    return done;
}

static inline int fs_vector_set_word(const fs_self *me, fs_vector *v, const fs_known *k, int64_t i, uint64_t about,
                                     uint64_t word) {
    uint64_t n = 0, place = (uint64_t)i;
    fs_slot *slot = v->redo.state == FS_IDLE ? fs_known_slots(v, k, &n) : NULL;
    if (i < 0)
        place += n;
    int fits = slot && place < n && slot[place].about == about;
    if (fs_likely(fits)) {
        fs_vector_stamp(v);
        fs_store_release(&slot[place].value, word);
    }
    return fs_word_done(me, v, fits);
}

static inline int fs_vector_append_word(const fs_self *me, fs_vector *v, const fs_known *k, uint64_t about, uint64_t word) {
    uint64_t n = 0;
    fs_slot *slot = v->redo.state == FS_IDLE ? fs_known_slots(v, k, &n) : NULL;
    int fits = slot && slot + n < k->slot + k->capacity;
    if (fs_likely(fits)) {
        fs_vector_stamp(v);
        fs_store_relaxed(&slot[n].about, about);
        fs_store_relaxed(&slot[n].value, word);
        fs_crash_order();
        fs_store_release(&v->n, n + 1);
    }
    return fs_word_done(me, v, fits);
}

/* The last item, if it is still that word. The version is odd meanwhile: the next one to be appended comes to lie there. */
static inline int fs_vector_pop_word(const fs_self *me, fs_vector *v, const fs_known *k, uint64_t about, uint64_t word) {
    uint64_t n = 0;
    const fs_slot *slot = v->redo.state == FS_IDLE ? fs_known_slots(v, k, &n) : NULL;
    int fits = slot && n && slot[n - 1].about == about && slot[n - 1].value == word;
    if (fs_likely(fits)) {
        fs_vector_stamp(v);
        fs_write_begin(&v->o.lock);
        fs_store_release(&v->n, n - 1);
        if (n == 1) {
            fs_crash_order();
            fs_store_relaxed(&v->start, 0);
        }
    }
    return fs_word_done(me, v, fits);
}

#endif
