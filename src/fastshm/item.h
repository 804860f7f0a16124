/* item.h: one typed item of up to eight bytes: how it is read, written and changed.
 *
 * An item is named by its form and its size in bytes (1, 2, 4 or 8; a double is 8, a float 4). In between it is a word: its
 * bits in the low bytes, what lies above them is without meaning. It is read and written by one aligned access, so it is never
 * torn, and a death never halves it.
 *
 *   change            forms                    result, in terms of C
 *   PLUS, MINUS       integers                 wraps around as two's complement does
 *                     float, double            + and -
 *   AND, OR, XOR      integers                 bit by bit
 *   MAX, MIN          integers                 by their own sign
 *                     float, double            fmaximum_num, fminimum_num of C23: -0.0 is below 0.0; a NaN stands for a missing
 *                                              value, so any number takes its place, and it takes the place of none
 *
 * Bools, characters and bytes are not computed with.
 */
#ifndef FASTSHM_ITEM_H
#define FASTSHM_ITEM_H

#include "platform.h"

enum { FS_SIGNED, FS_UNSIGNED, FS_DOUBLE, FS_FLOAT, FS_CHAR, FS_WIDE, FS_BOOL, FS_BYTES_ONLY }; /* integers, floats, the rest */

enum { FS_PLUS, FS_MINUS, FS_AND, FS_OR, FS_XOR, FS_MAX, FS_MIN };

static inline uint64_t fs_item_read(const void *p, uint32_t size) {
    if (fs_likely(size == 8))
        return fs_load_relaxed((const uint64_t *)p);
    if (size == 4)
        return fs_load_relaxed((const uint32_t *)p);
    if (size == 2)
        return fs_load_relaxed((const uint16_t *)p);
    return fs_load_relaxed((const uint8_t *)p);
}

static inline void fs_item_write(void *p, uint32_t size, uint64_t word) {
    if (fs_likely(size == 8))
        fs_store_relaxed((uint64_t *)p, word);
    else if (size == 4)
        fs_store_relaxed((uint32_t *)p, (uint32_t)word);
    else if (size == 2)
        fs_store_relaxed((uint16_t *)p, (uint16_t)word);
    else
        fs_store_relaxed((uint8_t *)p, (uint8_t)word);
}

/* What is above the item's own bits, gone. */
static inline uint64_t fs_item_bits(uint32_t size, uint64_t word) { return word & (UINT64_MAX >> (64 - 8 * size)); }

static inline int64_t fs_item_signed(uint32_t size, uint64_t word) {
    uint32_t shift = 64 - 8 * size;
    return (int64_t)(word << shift) >> shift;
}

static inline double fs_item_double(uint64_t word) {
    double x;
    memcpy(&x, &word, 8);
    return x;
}

static inline float fs_item_float(uint64_t word) {
    uint32_t low = (uint32_t)word;
    float x;
    memcpy(&x, &low, 4);
    return x;
}

static inline uint64_t fs_double_item(double x) {
    uint64_t word;
    memcpy(&word, &x, 8);
    return word;
}

static inline uint64_t fs_float_item(float x) {
    uint32_t low;
    memcpy(&low, &x, 4);
    return low;
}

static inline int fs_can_change(int form, int what) {
    return form <= FS_UNSIGNED || (form <= FS_FLOAT && (what < FS_AND || what > FS_XOR));
}

static inline int fs_number_below(double x, double y) {
    return x < y || (x == y && __builtin_signbit(x) && !__builtin_signbit(y)) || (x != x && y == y);
}

FS_UNUSED static uint64_t fs_item_extreme(int form, uint32_t size, int what, uint64_t a, uint64_t b) {
    int takes;
    if (form == FS_SIGNED) {
        int64_t x = fs_item_signed(size, a), y = fs_item_signed(size, b);
        takes = what == FS_MAX ? x < y : y < x;
    } else if (form == FS_UNSIGNED) {
        uint64_t x = fs_item_bits(size, a), y = fs_item_bits(size, b);
        takes = what == FS_MAX ? x < y : y < x;
    } else {
        double x = form == FS_DOUBLE ? fs_item_double(a) : (double)fs_item_float(a);
        double y = form == FS_DOUBLE ? fs_item_double(b) : (double)fs_item_float(b);
        takes = what == FS_MAX ? fs_number_below(x, y) : x != x ? y == y : y == y && fs_number_below(y, x);
    }
    return takes ? b : a;
}

FS_UNUSED static uint64_t fs_item_sum(int form, int what, uint64_t a, uint64_t b) {
    if (form == FS_DOUBLE) {
        double x = fs_item_double(a), y = fs_item_double(b);
        return fs_double_item(what == FS_PLUS ? x + y : x - y);
    }
    float x = fs_item_float(a), y = fs_item_float(b);
    return fs_float_item(what == FS_PLUS ? x + y : x - y);
}

/* What an item `a` becomes when it is changed by `b`; itself, where it cannot be. */
static inline uint64_t fs_item_changed(int form, uint32_t size, int what, uint64_t a, uint64_t b) {
    if (fs_likely(form <= FS_UNSIGNED))
        switch (what) {
        case FS_PLUS:
            return a + b;
        case FS_MINUS:
            return a - b;
        case FS_AND:
            return a & b;
        case FS_OR:
            return a | b;
        case FS_XOR:
            return a ^ b;
        default:
            return fs_item_extreme(form, size, what, a, b);
        }
    if (!fs_can_change(form, what))
        return a;
    return what <= FS_MINUS ? fs_item_sum(form, what, a, b) : fs_item_extreme(form, size, what, a, b);
}

/* The item as it was. Whoever else changes it is kept away by its lock. */
static inline uint64_t fs_item_change(void *p, int form, uint32_t size, int what, uint64_t b) {
    uint64_t old;
    if (fs_likely(size == 8)) {
        old = fs_load_relaxed((uint64_t *)p);
        fs_store_relaxed((uint64_t *)p, fs_item_changed(form, 8, what, old, b));
    } else {
        old = fs_item_read(p, size);
        fs_item_write(p, size, fs_item_changed(form, size, what, old, b));
    }
    return old;
}

/* `count` items, each by the one in its place in `source`. Nobody else sees them. */
FS_UNUSED static void fs_items_change(char *p, int form, uint32_t size, int what, const void *source, uint64_t count) {
    const char *from = source;
    for (uint64_t i = 0; i < count; i++)
        fs_item_change(p + i * size, form, size, what, fs_item_read(from + i * size, size));
}

#endif
