/* interrupts.c: what interrupts.py cannot do in Python.
 *
 *   as a library   a timer that interrupts the calling thread at any instruction, by a handler without SA_RESTART; it counts how
 *                  often, how often within given code, and how often it ended a system call with EINTR
 *   as a program   interrupts SEGMENT HOLD PAUSE: a process of that segment which holds the heap's lock for HOLD microseconds, again and
 *                  again, PAUSE microseconds apart, until its standard input ends
 */
#include "check.h"
#include "identity.h"
#include "segment.h"

#include <poll.h>
#include <signal.h>
#include <ucontext.h>

#define SIGNAL SIGUSR2
#define MOST_RANGES 32

static volatile uint64_t interrupted, inside, cut_short;
static uintptr_t range[MOST_RANGES][2];
static int ranges;
static timer_t timer;

static void note(int signal, siginfo_t *info, void *context) {
    const greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t pc = (uintptr_t)r[REG_RIP];
    const unsigned char *before = (const unsigned char *)pc - 2;
    (void)signal, (void)info;
    interrupted++;
    for (int i = 0; i < ranges; i++)
        if (pc >= range[i][0] && pc < range[i][1])
            inside++;
    if (r[REG_RAX] == -EINTR && before[0] == 0x0f && before[1] == 0x05)
        cut_short++;
}

/* Code to be counted as "inside". */
int storm_range(uintptr_t from, uintptr_t to) {
    if (ranges == MOST_RANGES)
        return -1;
    range[ranges][0] = from;
    range[ranges++][1] = to;
    return 0;
}

int storm_start(long nanoseconds) {
    struct sigaction a = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    struct sigevent e = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGNAL};
    struct itimerspec t = {{0, nanoseconds}, {0, nanoseconds}};
    e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (sigaction(SIGNAL, &a, NULL) == -1 || timer_create(CLOCK_MONOTONIC, &e, &timer) == -1)
        return -1;
    return timer_settime(timer, 0, &t, NULL);
}

/* Counts since the last stop. */
int storm_stop(uint64_t *out) {
    int r = timer_delete(timer);
    out[0] = interrupted;
    out[1] = inside;
    out[2] = cut_short;
    interrupted = inside = cut_short = 0;
    return r;
}

#ifdef CUT_CLAIMS
#include <dlfcn.h>

uint64_t claims_cut_short;

/* Preloaded: two of three calls are as if a signal had come. */
int posix_fallocate64(int fd, off64_t start, off64_t length) {
    static uint64_t calls;
    int (*next)(int, off64_t, off64_t) = (int (*)(int, off64_t, off64_t))dlsym(RTLD_NEXT, "posix_fallocate64");
    if (calls++ % 3 == 2)
        return next(fd, start, length);
    claims_cut_short++;
    return EINTR;
}

int posix_fallocate(int fd, off_t start, off_t length) { return posix_fallocate64(fd, start, length); }
#endif

static int input_ended(long microseconds) {
    struct pollfd p = {0, POLLIN, 0};
    struct timespec t = {microseconds / 1000000, microseconds % 1000000 * 1000};
    return ppoll(&p, 1, &t, NULL) != 0;
}

int main(int argc, char **argv) {
    static fs_heap heap;
    fs_self me;
    int why = 0, fd = argc == 4 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1, ended = 0, told = 0;
    if (fd == -1 || fs_identity_start() != FS_OK || fs_segment_open(&heap, fd, &why) != FS_OK)
        return 2;
    fs_segment_named(&heap, argv[1]);
    if (fs_heap_register(&heap) != FS_OK || fs_me(&heap, &me) != FS_OK)
        return 2;
    me.wait = 1;
    while (!ended) {
        while (fs_heap_enter(&me) == FS_INTERRUPTED)
            ;
        if (!told++ && write(1, ".", 1) != 1)
            ended = 1;
        ended |= input_ended(atol(argv[2]));
        fs_heap_leave(&me);
        ended = ended || input_ended(atol(argv[3]));
    }
    return fs_part(&me) < 0;
}
