/* keys.h: a key of a table: the bytes of its canonical form, and their hash.
 *
 * Equal keys have equal bytes, so nothing here needs to know Python. What a key looked like (FS_D_) may follow its form.
 */
#ifndef FASTSHM_KEYS_H
#define FASTSHM_KEYS_H

#include "layout.h"

/* --- hashing: seeded folded multiplication, after wyhash (Wang Yi, public domain) ---------------------------------------- */

static inline uint64_t fs_fold(uint64_t a, uint64_t b) {
    __uint128_t p = (__uint128_t)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

#define FS_H0 0xa0761d6478bd642full
#define FS_H1 0xe7037ed1a0b428dbull
#define FS_H2 0x8ebc6af09c88c6e3ull

static inline uint64_t fs_hash_words(const uint64_t *w, uint32_t length, uint8_t form, uint64_t seed) {
    uint64_t about = (uint64_t)form << 32 | length;
    if (fs_likely(length <= 16))
        return fs_fold(fs_fold(w[0] ^ seed ^ FS_H0, w[1] ^ FS_H1) ^ about, seed ^ FS_H2);
    return fs_fold(fs_fold(w[0] ^ seed ^ FS_H0, w[1] ^ FS_H1) ^ fs_fold(w[2] ^ seed ^ FS_H2, w[3] ^ FS_H0) ^ about,
                   seed ^ FS_H2);
}

static inline uint64_t fs_hash_bytes(const unsigned char *p, uint64_t length, uint8_t form, uint64_t seed) {
    uint64_t h = seed ^ FS_H0, left = length, w[4];
    for (; left > 32; left -= 32, p += 32) {
        memcpy(w, p, 32);
        h = fs_fold(w[0] ^ h ^ FS_H1, w[1] ^ seed) ^ fs_fold(w[2] ^ h ^ FS_H2, w[3] ^ FS_H0);
    }
    memset(w, 0, 32);
    memcpy(w, p, left);
    h ^= fs_fold(w[0] ^ h ^ FS_H1, w[1] ^ seed) ^ fs_fold(w[2] ^ h ^ FS_H2, w[3] ^ FS_H0);
    return fs_fold(h ^ FS_H2, length ^ (uint64_t)form << 56 ^ FS_H1);
}

/* --- keys ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t hash;
    uint64_t words[4];          /* the canonical form, zero padded, when it fits */
    const unsigned char *bytes; /* canonical form, then what to show */
    uint64_t total;             /* of both */
    uint32_t length;            /* of the canonical form */
    uint8_t form, display;
} fs_key;

static inline int fs_key_is_inline(const fs_key *k) { return k->total == k->length && k->length <= FS_KEY_INLINE; }

/* bytes, total, length, form and display are set; fills in words and hash. */
static inline void fs_key_prepare(fs_key *k, uint64_t seed) {
    if (fs_likely(k->length <= FS_KEY_INLINE)) {
        uint32_t n = k->length;
        const unsigned char *p = k->bytes;
        uint64_t *w = k->words;
        w[0] = w[1] = w[2] = w[3] = 0;
        if (n >= 8) {
            /* whole words, then the last eight bytes shifted into place */
            uint32_t whole = n / 8, rest = n % 8;
            for (uint32_t i = 0; i < whole; i++)
                memcpy(&w[i], p + 8 * i, 8);
            if (rest) {
                memcpy(&w[whole], p + n - 8, 8);
#if FS_BYTE_ORDER == 0x0102
                w[whole] >>= 8 * (8 - rest);
#else
                w[whole] <<= 8 * (8 - rest);
#endif
            }
        } else {
            unsigned char *to = (unsigned char *)w;
            if (n >= 4) {
                memcpy(to + n - 4, p + n - 4, 4);
                memcpy(to, p, 4);
            } else if (n) {
                to[0] = p[0];
                to[n / 2] = p[n / 2];
                to[n - 1] = p[n - 1];
            }
        }
        k->hash = fs_hash_words(w, n, k->form, seed);
    } else {
        k->hash = fs_hash_bytes(k->bytes, k->length, k->form, seed);
    }
}

static inline void fs_key_of_word(fs_key *k, uint8_t form, uint8_t display, uint64_t word, uint64_t seed) {
    k->words[0] = word;
    k->words[1] = k->words[2] = k->words[3] = 0;
    k->bytes = (const unsigned char *)k->words;
    k->length = 8;
    k->total = 8;
    k->form = form;
    k->display = display;
    k->hash = fs_hash_words(k->words, 8, form, seed);
}

#endif
