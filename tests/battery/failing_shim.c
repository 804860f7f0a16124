/* failing_shim.c: for LD_PRELOAD: makes the calls number at, at + 1, ... at + length - 1 of one kind fail in this process.
 *
 *   gcc -shared -fPIC failing_shim.c -o failing_shim.so -ldl
 *
 * malloc, realloc and calloc fail only for fastshm's extensions; what Python allocates for its objects is the kind PYTHON, which
 * goes through the interpreter's own allocator hooks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OPEN, MMAP, FALLOCATE, TRUNCATE, FCNTL, MEMFD, FUTEX, MALLOC, REALLOC, CALLOC, PYTHON };

static struct {
    int call, error;
    long at, length, seen, failed;
} plan = {.call = -1};

void failing_begin(int call, int error, long at, long length) {
    plan.call = -1;
    plan.error = error;
    plan.at = at;
    plan.length = length;
    plan.seen = plan.failed = 0;
    plan.call = call;
}

/* How many calls have failed. */
long failing_end(void) {
    plan.call = -1;
    return plan.failed;
}

static int fails(int call) {
    if (plan.call != call)
        return 0;
    long n = ++plan.seen;
    if (n < plan.at || n - plan.at >= plan.length)
        return 0;
    plan.failed++;
    errno = plan.error;
    return 1;
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

#define OPEN_AS(NAME)                                                             \
    int NAME(const char *path, int flags, ...) {                                  \
        va_list rest;                                                             \
        va_start(rest, flags);                                                    \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;         \
        va_end(rest);                                                             \
        return fails(OPEN) ? -1 : REAL(int, #NAME, const char *, int, ...)(path, flags, mode); \
    }
OPEN_AS(open)
OPEN_AS(open64)

int shm_open(const char *name, int flags, mode_t mode) {
    return fails(OPEN) ? -1 : REAL(int, "shm_open", const char *, int, mode_t)(name, flags, mode);
}

#define MMAP_AS(NAME)                                                                        \
    void *NAME(void *at, size_t size, int protection, int flags, int fd, off_t offset) {     \
        return fails(MMAP) ? MAP_FAILED                                                      \
                           : REAL(void *, #NAME, void *, size_t, int, int, int, off_t)(at, size, protection, flags, fd, offset); \
    }
MMAP_AS(mmap)
MMAP_AS(mmap64)

#define FALLOCATE_AS(NAME) \
    int NAME(int fd, off_t at, off_t n) { return fails(FALLOCATE) ? plan.error : REAL(int, #NAME, int, off_t, off_t)(fd, at, n); }
FALLOCATE_AS(posix_fallocate)
FALLOCATE_AS(posix_fallocate64)

#define TRUNCATE_AS(NAME) \
    int NAME(int fd, off_t n) { return fails(TRUNCATE) ? -1 : REAL(int, #NAME, int, off_t)(fd, n); }
TRUNCATE_AS(ftruncate)
TRUNCATE_AS(ftruncate64)

#define FCNTL_AS(NAME)                                                             \
    int NAME(int fd, int command, ...) {                                           \
        va_list rest;                                                              \
        va_start(rest, command);                                                   \
        void *argument = va_arg(rest, void *);                                     \
        va_end(rest);                                                              \
        return fails(FCNTL) ? -1 : REAL(int, #NAME, int, int, ...)(fd, command, argument); \
    }
FCNTL_AS(fcntl)
FCNTL_AS(fcntl64)

int memfd_create(const char *name, unsigned flags) {
    return fails(MEMFD) ? -1 : REAL(int, "memfd_create", const char *, unsigned)(name, flags);
}

long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_futex && fails(FUTEX))
        return -1;
    return REAL(long, "syscall", long, ...)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

void *__libc_malloc(size_t n);
void *__libc_realloc(void *p, size_t n);
void *__libc_calloc(size_t n, size_t size);

static int is_ours(void *caller) {
    Dl_info info;
    return dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "/fastshm/");
}

void *malloc(size_t n) {
    if (plan.call == MALLOC && is_ours(__builtin_return_address(0)) && fails(MALLOC))
        return NULL;
    return __libc_malloc(n);
}
void *realloc(void *p, size_t n) {
    if (plan.call == REALLOC && is_ours(__builtin_return_address(0)) && fails(REALLOC))
        return NULL;
    return __libc_realloc(p, n);
}
void *calloc(size_t n, size_t size) {
    if (plan.call == CALLOC && is_ours(__builtin_return_address(0)) && fails(CALLOC))
        return NULL;
    return __libc_calloc(n, size);
}

/* PyMemAllocatorEx, a part of CPython's documented interface. */
typedef struct {
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} allocator;

static allocator below[3]; /* raw, mem, object */

static void *python_malloc(void *a, size_t n) {
    return fails(PYTHON) ? NULL : ((allocator *)a)->malloc(((allocator *)a)->context, n);
}
static void *python_calloc(void *a, size_t n, size_t size) {
    return fails(PYTHON) ? NULL : ((allocator *)a)->calloc(((allocator *)a)->context, n, size);
}
static void *python_realloc(void *a, void *p, size_t n) {
    return fails(PYTHON) ? NULL : ((allocator *)a)->realloc(((allocator *)a)->context, p, n);
}
static void python_free(void *a, void *p) { ((allocator *)a)->free(((allocator *)a)->context, p); }

/* Once, in a running interpreter. */
void failing_hook_python(void) {
    void (*get)(int, allocator *) = (void (*)(int, allocator *))dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    void (*set)(int, allocator *) = (void (*)(int, allocator *))dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
    for (int domain = 0; domain < 3; domain++) {
        get(domain, &below[domain]);
        allocator mine = {&below[domain], python_malloc, python_calloc, python_realloc, python_free};
        set(domain, &mine);
    }
}
