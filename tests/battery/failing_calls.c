/* failing_calls.c: the n-th call of each kind that the C layer makes fails, for n = 1, 2, ... until the operation makes fewer.
 *
 *   gcc -std=gnu11 -O2 -Isrc/fastshm -Wl,--wrap=open,--wrap=mmap,... tests/battery/failing_calls.c -o failing_calls -lpthread
 *   ./failing_calls [NAME]                                                             (failing_calls.py knows all the flags)
 *
 * An operation either succeeds or is refused with what the call said. Then nothing is held, the object is as it was, all
 * invariants hold, no descriptor and not a byte is lost, and the operation works when it is tried again. Memory of the segment
 * fails by grains: exactly b of them are left, for b = 0, 1, ... until the operation succeeds.
 *
 * An operation joins by one line in operations.h, or in `others` when its picture is nobody else's business.
 */
#include "operations.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>

/* --- failing ------------------------------------------------------------------------------------------------------------- */

enum { OPEN, MMAP, FALLOCATE, FCNTL, MALLOC, REALLOC, CALLOC, FUTEX, CALLS };
static const char *const call_names[] = {"open", "mmap", "posix_fallocate", "fcntl", "malloc", "realloc", "calloc", "futex"};

#define FOR_EVER 1000000000

static struct { /* shared with forked children */
    int call;      /* -1: none fails */
    int error;
    long at, length; /* the calls number at, at + 1, ... at + length - 1 fail */
    long seen, failed;
} *plan;

static __thread int is_victim; /* the threads whose calls fail */

static int fails(int call) {
    if (!plan || plan->call != call || !is_victim)
        return 0;
    long n = ++plan->seen;
    if (n < plan->at || n - plan->at >= plan->length)
        return 0;
    plan->failed++;
    errno = plan->error;
    return 1;
}

int __real_open(const char *path, int flags, ...);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __real_posix_fallocate(int fd, off_t offset, off_t length);
int __real_fcntl(int fd, int command, ...);
void *__real_malloc(size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_calloc(size_t n, size_t size);
long __real_syscall(long number, ...);

int __wrap_open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = flags & O_CREAT ? va_arg(rest, int) : 0;
    va_end(rest);
    return fails(OPEN) ? -1 : __real_open(path, flags, mode);
}
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    return fails(MMAP) ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}
int __wrap_posix_fallocate(int fd, off_t offset, off_t length) {
    return fails(FALLOCATE) ? plan->error : __real_posix_fallocate(fd, offset, length);
}
int __wrap_fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return fails(FCNTL) ? -1 : __real_fcntl(fd, command, argument);
}
void *__wrap_malloc(size_t size) { return fails(MALLOC) ? NULL : __real_malloc(size); }
void *__wrap_realloc(void *p, size_t size) { return fails(REALLOC) ? NULL : __real_realloc(p, size); }
void *__wrap_calloc(size_t n, size_t size) { return fails(CALLOC) ? NULL : __real_calloc(n, size); }
long __wrap_syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    return number == SYS_futex && fails(FUTEX) ? -1 : __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static const struct {
    int call, error;
    long lengths[3]; /* a signal or a conflict does not come back for ever */
} ways[] = {
    {OPEN, EMFILE, {1, 2, FOR_EVER}},      {OPEN, ENFILE, {1}},      {OPEN, ENOMEM, {1}},     {OPEN, EINTR, {1, 2}},
    {MMAP, ENOMEM, {1, 2, FOR_EVER}},      {MMAP, EAGAIN, {1}},
    {FALLOCATE, ENOSPC, {1, 2, FOR_EVER}}, {FALLOCATE, ENOMEM, {1, FOR_EVER}}, {FALLOCATE, EINTR, {1, 2, 9}},
    {FALLOCATE, EFBIG, {1, FOR_EVER}},     {FALLOCATE, EDQUOT, {1, FOR_EVER}},
    {FCNTL, EINTR, {1, 2, 9}},             {FCNTL, EAGAIN, {1, 2}},  {FCNTL, ENOLCK, {1, 2, FOR_EVER}}, {FCNTL, ENOMEM, {1}},
    {MALLOC, ENOMEM, {1, 2, FOR_EVER}},    {REALLOC, ENOMEM, {1, 2, FOR_EVER}}, {CALLOC, ENOMEM, {1, 2, FOR_EVER}},
    {FUTEX, EINTR, {1, 2, 9}},             {FUTEX, EAGAIN, {1, 2, FOR_EVER}}, {FUTEX, ETIMEDOUT, {1, 2, FOR_EVER}},
    {FUTEX, ENOMEM, {1, FOR_EVER}},
};

/* --- trying -------------------------------------------------------------------------------------------------------------- */

static char way[80];
static char path[64];
static long tried, failures;
static jmp_buf out;
static int trying, code_of_refusal, errno_of_refusal;

static _Noreturn void refused(int code) {
    if (!trying) {
        fprintf(stderr, "%s, %s: code %d\n", current ? current->name : "start", way, code);
        die("preparation", "refused");
    }
    code_of_refusal = code;
    errno_of_refusal = errno;
    longjmp(out, 1);
}

static void wrong(const char *why) {
    printf("%s, %s: %s\n", current->name, way, why);
    fflush(stdout);
    failures++;
}

/* FS_OK, or the code it was refused with. */
static int attempt(void) {
    trying = 1;
    code_of_refusal = FS_OK;
    if (!setjmp(out))
        current->operate();
    trying = 0;
    return code_of_refusal;
}

static int descriptors(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int mappings(void) {
    int n = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    while (fgets(line, sizeof line, f))
        n += strstr(line, "/dev/shm/") != NULL;
    fclose(f);
    return n;
}

static uint64_t used(void) {
    fs_census census;
    const char *what = NULL;
    int r = fs_check(&me, &census, &what);
    if (r != FS_OK) {
        wrong(what ? what : "the check fails");
        printf("%ld tried, %ld failed: ended at the first damage\n", tried, failures);
        exit(1);
    }
    return census.bytes_used - census.tickets * FS_GRAIN;
}

#define HOGS 600
static uint64_t hogs[HOGS];
static int hog_count;

static int hog(uint64_t grains) {
    fs_block *b;
    if (hog_count == HOGS)
        die("hogs", "too few");
    if (fs_alloc_to(&me, grains * FS_GRAIN - FS_HEADER, FS_RAW, fs_slot_word(&heap, hogs[hog_count]), &b) != FS_OK)
        return 0;
    hog_count++;
    return 1;
}

/* From now on the segment has one free block of `left` grains, and cannot grow. */
static void squeeze(uint64_t left) {
    plan->call = FALLOCATE;
    plan->error = ENOSPC;
    plan->at = 1;
    plan->length = FOR_EVER;
    plan->seen = plan->failed = 0;
    is_victim = 0;
    while (left && !hog(left)) /* room for the block itself */
        die("hogs", "no room");
    int kept = hog_count;
    is_victim = 1;
    for (uint64_t grains = 1 << 14; grains;)
        if (!hog(grains))
            grains /= 2;
    plan->failed = 0;
    if (left)
        wish(fs_drop(&me, fs_slot_word(&heap, hogs[kept - 1])));
}

static void relax(void) {
    plan->call = -1;
    while (hog_count) {
        uint64_t *word = fs_slot_word(&heap, hogs[--hog_count]);
        if (*word)
            wish(fs_drop(&me, word));
    }
}

static int64_t slots_in_use(void) {
    uint64_t at = ((fs_process *)(heap.base + heap.process))->more, all = FS_HANDLES_INLINE;
    for (; at; at = ((fs_handles *)(heap.base + at))->more)
        all += FS_HANDLES_CHUNK;
    return (int64_t)(all - heap.free_count);
}

static int is_held(const fs_lock *l) {
    uint32_t owner = l->word & FS_LOCK_OWNER;
    return owner && fs_alive(&heap, owner);
}

static void judge(int r, int fds, int maps) {
    static const int kinds[] = {TABLE, VECTOR, ARRAY, CELL, INNER};
    if (r == FS_SYSTEM && errno_of_refusal != plan->error)
        wrong("the system's error is another than the call's");
    if (r != FS_OK && r != FS_NOMEM && r != FS_SYSTEM && r != FS_INTERRUPTED && r != FS_PRIVATE_NOMEM)
        wrong("refused with a code that says something else");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (*slot_word(kinds[i]) && is_held(&object(kinds[i])->lock))
            wrong("an object's lock is still held");
    if (is_held(&heap.super->heap) || is_held(&heap.super->reaper))
        wrong("the heap's or the reaper's lock is still held");
    if (current->slot >= 0) {
        uint64_t now = picture(current->slot);
        if (r == FS_OK ? now != after : now != before)
            wrong(r == FS_OK ? "it said that it was done, and it is not" : "it was refused, and has changed something");
    }
    if (descriptors() != fds)
        wrong("a descriptor is left open, or was closed");
    if (mappings() != maps)
        wrong("a mapping is left, or was taken away");
}

/* Room that a container has made before it was refused is its own, and may stay. */
static uint64_t growth(void) {
    uint64_t h = 1;
    if (current->slot == TABLE) {
        h = fold(h, &table()->entries, 8);
        h = fold(h, &table()->index, 8);
        h = fold(h, &table()->capacity, sizeof table()->capacity);
        fs_block *entries = fs_block_at(&heap, table()->entries); /* longer, while there was no room for a larger index */
        if (entries)
            h = fold(h, &entries->size, sizeof entries->size);
    } else if (current->slot == VECTOR) {
        h = fold(h, &vector()->slots, 8);
        h = fold(h, &vector()->capacity, sizeof vector()->capacity);
    }
    return h;
}

/* One try. 0 when nothing failed in it, because it makes fewer calls. */
static int one(uint64_t empty, long left) {
    int call = plan->call;
    plan->call = -1;
    prepare();
    uint64_t had = used(), where = growth();
    if (left >= 0)
        squeeze((uint64_t)left);
    else
        plan->call = call;
    int fds = descriptors(), maps = mappings();
    int64_t slots = slots_in_use();
    plan->seen = plan->failed = 0;
    int r = attempt();
    plan->call = -1;
    int hit = plan->failed > 0;
    tried += hit;
    judge(r, fds, maps);
    if (slots_in_use() != slots)
        wrong("handle slots are lost");
    relax();
    if (r != FS_OK) { /* what it has made on its way is its own */
        wish(fs_drop(&me, slot_word(SPARE)));
        wish(fs_drop(&me, slot_word(EXTRA)));
        fs_reap(&me);
    }
    uint64_t has = used();
    if (r != FS_OK && current->slot != KEEPS && has > had && growth() == where)
        wrong("it was refused, and bytes are kept");
    if (r != FS_OK) {
        strcat(way, ", then again");
        if (attempt() != FS_OK)
            wrong("it is refused although nothing fails any more");
        else if (current->slot >= 0 && picture(current->slot) != after)
            wrong("it does not do what it should");
    }
    drop_all();
    if (used() > empty && current->slot != KEEPS)
        wrong("bytes are left when all is dropped");
    plan->call = call;
    return hit;
}

/* --- operations that are of no interest to those who kill ------------------------------------------------------------------ */

static fs_heap other;

static void read_wide(void) {
    fs_key k = key("wide");
    fs_copy c = {0};
    fs_witness seen;
    wish(fs_table_read(&me, table(), &k, NULL, &c, &seen));
    free(c.data);
}

static void copy_table(void) {
    uint64_t pins[] = {fs_slot_offset(&heap, SPARE), fs_slot_offset(&heap, EXTRA)};
    fs_snapshot s;
    fs_extent extent;
    wish(fs_table_copy(&me, table(), 1, 0, 0, pins, 2, &s, &extent));
    free(s.buffer);
    wish(fs_drop(&me, slot_word(SPARE)));
}

static void copy_vector(void) {
    uint64_t pins[] = {fs_slot_offset(&heap, SPARE), fs_slot_offset(&heap, EXTRA)}, stamp;
    fs_items s;
    wish(fs_vector_copy(&me, vector(), 0, 100, 1, pins, 2, &s, &stamp));
    free(s.buffer);
    wish(fs_drop(&me, slot_word(SPARE)));
}

static void walk(void) {
    fs_census census;
    const char *what;
    wish(fs_check(&me, &census, &what));
}

static void *first_change(void *failed) {
    fs_self self;
    is_victim = 1;
    int r = fs_me(&heap, &self);
    if (r == FS_OK) {
        fs_cell *c = (fs_cell *)object(CELL);
        int entered = fs_enter(&self, &c->o.lock);
        fs_item_write(&c->value, 8, 9);
        fs_array_leave(&self, &c->o, entered);
    }
    *(int *)failed = r == FS_SYSTEM ? r - 1000 * errno : r;
    return NULL;
}

static void in_a_thread(void) {
    pthread_t thread;
    int r = FS_OK;
    is_victim = 0;
    if (pthread_create(&thread, NULL, first_change, &r))
        die("thread", "cannot be made");
    pthread_join(thread, NULL);
    is_victim = 1;
    if (r < -1000) {
        errno = (FS_SYSTEM - r) / 1000;
        r = FS_SYSTEM;
    }
    wish(r);
}

static void leave_other(int is_last) {
    fs_self self = {&other, other.process_id, 1};
    int r = fs_part(&self);
    if (r >= 0 && r != is_last && !plan->failed)
        die("leaving", "who is the last is not known");
    fs_unmap(&other);
}

static void make_segment(void) {
    char name[80];
    snprintf(name, sizeof name, "%s-other", path);
    int fd = __real_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), r = FS_OK;
    if (fd == -1 || ftruncate(fd, 1 << 24))
        die(name, "cannot be made");
    r = fs_segment_create(&other, fd, 1 << 24, 0, 0);
    if (r == FS_OK)
        leave_other(1);
    unlink(name);
    wish(r);
}

static void open_segment(void) {
    int why, fd = __real_open(path, O_RDWR | O_CLOEXEC), r = fs_segment_open(&other, fd, &why);
    if (r == FS_OK)
        leave_other(0);
    wish(r);
}

static void end_well(int status) {
    if (WIFEXITED(status) && WEXITSTATUS(status) < 100) {
        errno = WEXITSTATUS(status);
        wish(errno ? FS_SYSTEM : FS_OK);
    } else if (WIFEXITED(status) && WEXITSTATUS(status) < 200) {
        wish(100 - WEXITSTATUS(status));
    } else {
        wrong("the child died of a signal, or saw what it must not");
    }
}

/* A child that does one thing and says how it went. */
static void in_a_child(int (*what)(fs_self *self)) {
    int status;
    fs_fork_before();
    pid_t pid = fork();
    if (!pid) {
        fs_self self;
        int r = fs_me(&heap, &self);
        self.wait = 1;
        if (r == FS_OK) {
            r = what(&self);
        } else if (heap.shut) { /* there was no heir: that is said, and nothing touched */
            r = heap.shut_code;
            errno = heap.shut_errno;
        }
        _exit(r == FS_SYSTEM ? errno : r < 0 ? 100 - r : r ? 250 : 0);
    }
    if (pid == -1 || waitpid(pid, &status, 0) != pid)
        die("fork", "failed");
    end_well(status);
}

static int set_inherited(fs_self *self) {
    fs_cell *c = (fs_cell *)object(CELL);
    int entered = fs_enter(self, &c->o.lock);
    if (entered < 0)
        return entered;
    fs_item_write(&c->value, 8, 4);
    fs_array_leave(self, &c->o, entered);
    return FS_OK;
}
static void fork_and_set(void) { in_a_child(set_inherited); }

static int part_as_child(fs_self *self) { return fs_part(self) == 1; /* 1 would take the name from the living */ }
static void fork_and_leave(void) { in_a_child(part_as_child); }

static int die_holding(fs_self *self) {
    fs_enter(self, &object(CELL)->lock);
    return FS_OK;
}
static void make_cell_of_the_dead(void) {
    make_cell();
    in_a_child(die_holding);
}

static int wait_and_set(void) {
    fs_cell *c = (fs_cell *)object(CELL);
    int r = FS_INTERRUPTED;
    me.wait = 1;
    for (int tries = 0; r == FS_INTERRUPTED && tries < 12; tries++) /* who cannot be told dead is waited for, for ever */
        r = fs_enter(&me, &c->o.lock);
    if (r < 0)
        return r;
    fs_item_write(&c->value, 8, 6);
    fs_array_leave(&me, &c->o, FS_OK);
    return FS_OK;
}

static void wait_for_the_dead(void) { wish(wait_and_set()); }

static pthread_barrier_t held;

static void *hold_for_a_while(void *unused) {
    fs_self self;
    fs_cell *c = (fs_cell *)object(CELL);
    if (fs_me(&heap, &self) != FS_OK)
        die("holder", "has no number");
    self.wait = 1; /* the lock may be reserved for one who has given up */
    if (fs_enter(&self, &c->o.lock) != FS_OK)
        die("holder", "cannot hold");
    pthread_barrier_wait(&held);
    usleep(14000);
    if (!fs_is_mine(&self, &c->o.lock))
        wrong("the lock was taken from the living");
    else
        fs_array_leave(&self, &c->o, FS_OK);
    return unused;
}

static void wait_for_the_living(void) {
    pthread_t thread;
    is_victim = 0;
    if (pthread_create(&thread, NULL, hold_for_a_while, NULL))
        die("thread", "cannot be made");
    pthread_barrier_wait(&held);
    is_victim = 1;
    int r = wait_and_set();
    pthread_join(thread, NULL);
    wish(r);
}

static const operation others[] = {
    {"read a value", TABLE, fill_table, read_wide},
    {"copy a dict", TABLE, fill_table, copy_table},
    {"copy a list", VECTOR, fill_vector, copy_vector},
    {"check", TABLE, fill_table, walk},
    {"a thread's first change", CELL, make_cell, in_a_thread},
    {"make a segment", -1, make_cell, make_segment},
    {"open a segment", -1, make_cell, open_segment},
    {"fork, and change in the child", CELL, make_cell, fork_and_set},
    {"fork, and leave in the child", CELL, make_cell, fork_and_leave},
    {"wait for the living", CELL, make_cell, wait_for_the_living},
    {"wait for the dead", CELL, make_cell_of_the_dead, wait_for_the_dead},
};

/* --- all of it ------------------------------------------------------------------------------------------------------------- */

static void try_operation(const operation *o) {
    long before = tried;
    current = o;
    plan->call = -1;
    strcpy(way, "nothing fails");
    drop_all();
    used();
    o->prepare();
    if (attempt() != FS_OK) {
        fprintf(stderr, "%s: code %d\n", o->name, code_of_refusal);
        die(o->name, "refused although nothing fails");
    }
    drop_all();
    uint64_t empty = used();
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        for (int j = 0; j < 3 && ways[i].lengths[j]; j++)
            for (long n = 1; n <= (ways[i].call == FUTEX ? 12 : FOR_EVER); n++) { /* a waiter whose naps fail takes any number */
                plan->call = ways[i].call;
                plan->error = ways[i].error;
                plan->at = n;
                plan->length = ways[i].lengths[j];
                snprintf(way, sizeof way, "%s number %ld%s fails with errno %d", call_names[plan->call], n,
                         plan->length == 1 ? "" : " and on", plan->error);
                if (!one(empty, -1))
                    break;
            }
    for (long left = 0; left < 1 << 16; left += 1 + left / 128) {
        snprintf(way, sizeof way, "%ld grains are left", left);
        plan->call = FALLOCATE;
        if (!one(empty, left))
            break;
    }
    printf("%-40s %6ld failing calls\n", o->name, tried - before);
    fflush(stdout);
}

int main(int count, char **arguments) {
    const char *only = count > 1 ? arguments[1] : "";
    plan = __real_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    plan->call = -1;
    snprintf(path, sizeof path, "/dev/shm/fastshm-failing-calls-%d", getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd == -1 || ftruncate(fd, 1 << 30) == -1 || fs_identity_start() != FS_OK)
        die(path, "cannot be made");
    wish(fs_segment_create(&heap, fd, 1 << 30, 0, 0));
    wish(fs_heap_register(&heap));
    wish(fs_heap_register(&other));
    fs_segment_named(&heap, path);
    wish(fs_me(&heap, &me));
    pthread_barrier_init(&held, NULL, 2);
    me.wait = 1;
    heap.free_count -= EXTRA + 1; /* the slots used here by number are nobody else's */
    wish(fs_slots_reserve(&me, HOGS));
    for (int i = 0; i < HOGS; i++)
        hogs[i] = heap.free_slots[--heap.free_count];
    is_victim = 1;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (operations[i].slot != ALONE && strstr(operations[i].name, only)) /* making and leaving a segment are among the others */
            try_operation(&operations[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strstr(others[i].name, only))
            try_operation(&others[i]);
    unlink(path);
    printf("%ld tried, %ld failed\n", tried, failures);
    return failures != 0;
}
