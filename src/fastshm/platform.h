/* platform.h: what differs between machines and systems, and the only #ifdefs.
 *
 * Three things are asked of a platform:
 *   atomics   loads, stores and compare-exchanges with C11 orders, on naturally aligned words;
 *   waiting   sleep on a 32-bit word until somebody wakes it, between processes;
 *   liveness  may a number that a process once claimed still be in use?
 *
 * Waiting is a futex where there is one. With FASTSHM_PORTABLE_WAIT (or without futexes) it is a bounded sleep, which is slower
 * to notice but equally right: every caller re-reads its word in a loop.
 *
 * Liveness is an open-file-description lock on one byte of the segment's file. The kernel drops it when the last descriptor of
 * that description is gone, however its process ended, and it means the same in every PID namespace. A probe must go through
 * another description than the claim: a description never conflicts with itself.
 */
#ifndef FASTSHM_PLATFORM_H
#define FASTSHM_PLATFORM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && !defined(FASTSHM_PORTABLE_WAIT)
#define FS_HAVE_FUTEX 1
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#if !defined(F_OFD_SETLK)
#error "this platform has no open-file-description locks; liveness needs another way here (process handles, start times)"
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FS_BYTE_ORDER 0x0102
#else
#define FS_BYTE_ORDER 0x0201
#endif

#define fs_likely(x) __builtin_expect(!!(x), 1)
#define fs_unlikely(x) __builtin_expect(!!(x), 0)
#define FS_COLD __attribute__((noinline, cold, unused))
#define FS_UNUSED __attribute__((unused))

/* Return codes of the whole C layer. Nothing below _core.pyx knows Python's exceptions. */
enum {
    FS_OK = 0,
    FS_NESTED = 1,      /* the lock was already ours */
    FS_TAKEN_OVER = 2,  /* the lock was a dead owner's: repair before use */
    FS_MISSING = 3,     /* no such key or object */
    FS_EXISTS = 4,
    FS_BUSY = -1,       /* held by another; nothing was done */
    FS_TIMEOUT = -2,
    FS_INTERRUPTED = -3, /* a signal arrived; nothing was done */
    FS_NOMEM = -4,      /* of the segment */
    FS_CORRUPT = -5,
    FS_GONE = -6,       /* the object no longer exists */
    FS_NOT_OWNER = -7,
    FS_RANGE = -8,      /* index out of range */
    FS_TYPE = -9,       /* the value has another type than the operation needs */
    FS_OVERFLOW = -10,
    FS_CHANGED = -11,   /* the object changed since it was looked at */
    FS_SYSTEM = -12,    /* errno tells */
    FS_PRIVATE_NOMEM = -13, /* malloc has none */
};

/* --- atomics ------------------------------------------------------------------------------------------------------------- */

#define fs_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define fs_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define fs_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define fs_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define fs_fence_acquire() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define fs_fence_release() __atomic_thread_fence(__ATOMIC_RELEASE)
/* In one order with all others of these: who says "I sleep" and then looks, and who changes and then asks "does anybody?",
 * never miss each other. */
#define fs_fence_ordered() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define fs_load_ordered(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define fs_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define fs_fetch_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)

/* A process can be killed between any two instructions, and its stores are then all there or never were. So the order in which
 * the COMPILER emits stores is the order in which they survive. */
#define fs_crash_order() __atomic_signal_fence(__ATOMIC_SEQ_CST)

static inline int fs_cas_u32(uint32_t *p, uint32_t expected, uint32_t desired) {
    return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static inline int fs_cas_ordered(uint32_t *p, uint32_t expected, uint32_t desired) {
    return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline int fs_cas_u64(uint64_t *p, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline void fs_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#else
    fs_crash_order();
#endif
}

/* Bytes that another process may be writing, or looking at, meanwhile. What was copied counts only once a version says that
 * nobody was. ThreadSanitizer does not watch it. (Where the heap is damaged, from and to may overlap.) */
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline))
#endif
FS_UNUSED static void fs_copy_racy(void *to, const void *from, size_t n) {
#if defined(__SANITIZE_THREAD__)
    for (size_t i = 0; i < n; i++)
        ((volatile unsigned char *)to)[i] = ((const volatile unsigned char *)from)[i];
#else
    memmove(to, from, n);
#endif
}

/* Are they the same as those? */
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline))
#endif
FS_UNUSED static int fs_same_racy(const void *here, const void *there, size_t n) {
#if defined(__SANITIZE_THREAD__)
    for (size_t i = 0; i < n; i++)
        if (((const volatile unsigned char *)here)[i] != ((const volatile unsigned char *)there)[i])
            return 0;
    return 1;
#else
    return !memcmp(here, there, n);
#endif
}

/* A copy of text that must be ASCII: 0 when it is not. */
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline))
#endif
FS_UNUSED static int fs_copy_ascii(void *to, const void *from, size_t n) {
    typedef uint64_t pair __attribute__((vector_size(16), aligned(1), may_alias));
    unsigned char *p = to, high = 0;
    const unsigned char *q = from;
    pair seen = {0, 0};
    for (; n >= 16; n -= 16, p += 16, q += 16) {
        pair here = *(const pair *)q;
        *(pair *)p = here;
        seen |= here;
    }
    for (; n; n--) {
        unsigned char c = fs_load_relaxed(q++);
        *p++ = c;
        high |= c;
    }
    return !((seen[0] | seen[1]) & 0x8080808080808080ull || high & 0x80);
}

/* --- time and waiting ---------------------------------------------------------------------------------------------------- */

FS_UNUSED static int64_t fs_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleeps at most ns nanoseconds while *word == expected. FS_INTERRUPTED when a signal came, else FS_OK, which promises
 * nothing. */
FS_COLD static int fs_wait(uint32_t *word, uint32_t expected, int64_t ns) {
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
#if defined(FS_HAVE_FUTEX)
    long r = syscall(SYS_futex, word, FUTEX_WAIT, expected, &t, NULL, 0);
    return r == -1 && errno == EINTR ? FS_INTERRUPTED : FS_OK;
#else
    if (fs_load_relaxed(word) != expected)
        return FS_OK;
    if (ns > 200000) {
        t.tv_sec = 0;
        t.tv_nsec = 200000;
    }
    return nanosleep(&t, NULL) == -1 && errno == EINTR ? FS_INTERRUPTED : FS_OK;
#endif
}

/* How many it woke, -1 when that is not known. */
FS_COLD static int fs_wake(uint32_t *word, int count) {
#if defined(FS_HAVE_FUTEX)
    return (int)syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
#else
    (void)word;
    (void)count;
    return -1;
#endif
}

/* --- liveness ------------------------------------------------------------------------------------------------------------ */

/* A new description of the file that fd refers to, also when its name is gone. */
FS_UNUSED static int fs_reopen(int fd) {
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

static inline int fs_byte_lock(int fd, int command, short type, int64_t start, int64_t length, struct flock *out) {
    struct flock f;
    memset(&f, 0, sizeof f);
    f.l_type = type;
    f.l_whence = SEEK_SET;
    f.l_start = start;
    f.l_len = length;
    int r;
    do
        r = fcntl(fd, command, &f);
    while (r == -1 && errno == EINTR);
    if (out)
        *out = f;
    return r;
}

/* Could it not be opened for want of permission or of a way to it, and not of memory or descriptors? */
FS_UNUSED static int fs_is_denied(int e) {
    return e == EACCES || e == EPERM || e == ENOENT || e == ELOOP || e == ENOTDIR || e == EROFS || e == ENXIO || e == ENODEV;
}

/* Whose a claim is: the description's, or this process's, through whatever descriptor of the file. */
static inline int fs_setting(int by_process) { return by_process ? F_SETLK : F_OFD_SETLK; }

FS_UNUSED static int fs_claim(int fd, int by_process, uint32_t id) {
    return fs_byte_lock(fd, fs_setting(by_process), F_WRLCK, id, 1, NULL);
}

/* Of a number that is claimed, or that another shares. */
FS_UNUSED static int fs_claim_shared(int fd, int by_process, uint32_t id) {
    return fs_byte_lock(fd, fs_setting(by_process), F_RDLCK, id, 1, NULL);
}

/* Does somebody else claim it, too? -1 when the kernel does not answer. */
FS_UNUSED static int fs_is_shared(int fd, int by_process, uint32_t id) {
    struct flock f;
    int r = fs_byte_lock(fd, by_process ? F_GETLK : F_OFD_GETLK, F_WRLCK, id, 1, &f);
    return r == -1 ? -1 : f.l_type != F_UNLCK;
}

FS_UNUSED static void fs_unclaim(int fd, int by_process, uint32_t id) {
    fs_byte_lock(fd, fs_setting(by_process), F_UNLCK, id, 1, NULL);
}

/* Claims every number at once: succeeds only for the last user of the file. */
FS_UNUSED static int fs_claim_all(int fd, int by_process) {
    return fs_byte_lock(fd, fs_setting(by_process), F_WRLCK, 0, 0, NULL);
}

/* Is any number claimed, through another description? Yes, when the kernel does not answer. Keeps nobody out. */
FS_UNUSED static int fs_probe_all(int fd) {
    struct flock f;
    return fs_byte_lock(fd, F_OFD_GETLK, F_WRLCK, 0, 0, &f) == -1 || f.l_type != F_UNLCK;
}

FS_UNUSED static void fs_unclaim_all(int fd, int by_process) {
    fs_byte_lock(fd, fs_setting(by_process), F_UNLCK, 0, 0, NULL);
}

/* 1 alive, 0 dead. When the kernel does not answer, alive: robbing the living is worse than waiting for the dead. */
FS_COLD static int fs_probe(int probe_fd, uint32_t id) {
    struct flock f;
    if (fs_byte_lock(probe_fd, F_OFD_GETLK, F_WRLCK, id, 1, &f) == -1)
        return 1;
    return f.l_type != F_UNLCK;
}

/* --- pages --------------------------------------------------------------------------------------------------------------- */

/* Makes the pages of [start, start+length) exist, so that touching them can never be a SIGBUS. In pieces, because a signal
 * undoes a piece on tmpfs. */
FS_COLD static int fs_claim_pages(int fd, uint64_t start, uint64_t length) {
    uint64_t piece = (uint64_t)4 << 20;
    while (length) {
        uint64_t n = length < piece ? length : piece;
        int e = posix_fallocate(fd, (off_t)start, (off_t)n);
        if (e == EINTR) {
            piece = piece > 65536 ? piece / 2 : piece;
            continue;
        }
        if (e == ENOSPC || e == ENOMEM || e == EFBIG || e == EDQUOT)
            return FS_NOMEM;
        if (e) {
            errno = e;
            return FS_SYSTEM;
        }
        start += n;
        length -= n;
    }
    return FS_OK;
}

#endif
