/* kernel.h: the system calls that the headers make, answered in private memory, so that a segment can be thrown away thousands of
 * times a second. Include it in front of the headers.
 *
 * There is one file, whose pages [0, kernel.pages) exist: a sanitizer sees every access beyond them, and nothing is mapped around
 * it. There is one process; who else lives is told by `kernel.alive`. Sleeping takes no time but moves the clock, and when somebody
 * has slept KERNEL_NAPS times for the living, they die: so whatever goes on for ever here would go on for ever anywhere.
 */
#ifndef BATTERY_KERNEL_H
#define BATTERY_KERNEL_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define KERNEL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KERNEL_ASAN 1
#endif
#endif
#ifdef KERNEL_ASAN
#include <sanitizer/asan_interface.h>
#define kernel_forbid(p, n) __asan_poison_memory_region((p), (n))
#define kernel_allow(p, n) __asan_unpoison_memory_region((p), (n))
#else
#define kernel_forbid(p, n) ((void)0)
#define kernel_allow(p, n) ((void)0)
#endif

#define KERNEL_NAPS 64
#define KERNEL_CLAIMS 64

static struct {
    char *base;
    uint64_t size, pages;
    int64_t now;
    int naps;
    int alone; /* claiming all numbers succeeds */
    uint64_t alive[KERNEL_CLAIMS]; /* numbers that are claimed: by whom does not matter, but for the first `ours` */
    int claims, ours;
} kernel;

static void kernel_start(uint64_t size) {
    char *p = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p + size / 2, size, PROT_READ | PROT_WRITE))
        abort();
    kernel.base = p + size / 2;
    kernel.size = size;
    kernel_forbid(kernel.base, size);
}

static void kernel_pages(uint64_t pages) {
    if (pages < kernel.pages)
        kernel_forbid(kernel.base + pages, kernel.pages - pages);
    else if (pages > kernel.pages)
        kernel_allow(kernel.base + kernel.pages, pages - kernel.pages);
    kernel.pages = pages;
}

static int kernel_fstat(int fd, struct stat *st) {
    memset(st, 0, sizeof *st);
    if (fd < 0) {
        errno = EBADF;
        return -1;
    }
    st->st_dev = 1;
    st->st_ino = 1;
    st->st_mode = S_IFREG | 0600;
    st->st_uid = geteuid();
    st->st_size = (off_t)kernel.size;
    st->st_blocks = (blkcnt_t)(kernel.pages / 512);
    st->st_nlink = 1;
    return 0;
}

static int kernel_is_alive(uint64_t id) {
    for (int i = 0; i < (kernel.naps < KERNEL_NAPS ? kernel.claims : kernel.ours); i++)
        if (kernel.alive[i] == id)
            return 1;
    return 0;
}

static int kernel_fcntl(int fd, int command, struct flock *f) {
    if (fd < 0) {
        errno = EBADF;
        return -1;
    }
    if (command == F_OFD_GETLK) {
        f->l_type = kernel_is_alive((uint64_t)f->l_start) ? F_WRLCK : F_UNLCK;
    } else if (f->l_type == F_WRLCK && (f->l_len == 0 ? !kernel.alone : kernel_is_alive((uint64_t)f->l_start))) {
        errno = EAGAIN;
        return -1;
    } else if (f->l_type == F_WRLCK && f->l_len == 1 && kernel.claims < KERNEL_CLAIMS) {
        kernel.alive[kernel.claims++] = (uint64_t)f->l_start;
    }
    return 0;
}

static int kernel_allocate(uint64_t start, uint64_t length) {
    if (start > kernel.pages || length > kernel.size - start) /* a hole would be left */
        return ENOSPC;
    if (start + length > kernel.pages)
        kernel_pages(start + length);
    return 0;
}

static ssize_t kernel_pread(void *to, size_t n, uint64_t at) {
    if (at > kernel.size || n > kernel.size - at)
        return 0;
    memset(to, 0, n);
    if (at < kernel.pages)
        memcpy(to, kernel.base + at, n < kernel.pages - at ? n : kernel.pages - at);
    return (ssize_t)n;
}

static int kernel_sleep(const struct timespec *t) {
    kernel.now += (int64_t)t->tv_sec * 1000000000 + t->tv_nsec + 1;
    kernel.naps++;
    return 0;
}

static int kernel_clock(struct timespec *t) {
    kernel.now += 100;
    t->tv_sec = (time_t)(kernel.now / 1000000000);
    t->tv_nsec = (long)(kernel.now % 1000000000);
    return 0;
}

static long kernel_futex(int operation, const struct timespec *t) { return operation == FUTEX_WAIT ? kernel_sleep(t) : 0; }

#define __builtin_ia32_pause() ((void)0)
#define fstat(fd, st) kernel_fstat((fd), (st))
#define fcntl(fd, command, f) kernel_fcntl((fd), (command), (f))
#define posix_fallocate(fd, at, n) kernel_allocate((uint64_t)(at), (uint64_t)(n))
#define pread(fd, to, n, at) kernel_pread((to), (n), (uint64_t)(at))
#define open(...) 9
#define close(fd) ((void)(fd))
#define mmap(...) ((void *)kernel.base)
#define munmap(p, n) ((void)(p))
#define madvise(p, n, advice) ((void)(p))
#define nanosleep(t, rest) kernel_sleep(t)
#define clock_gettime(which, t) kernel_clock(t)
#define syscall(number, word, operation, value, t, ...) kernel_futex((operation), (t))

#endif
