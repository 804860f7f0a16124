/* kill_both.c: kills a parent and its child after each single instruction of a fork in which the child claims its number by itself.
 *
 *   gcc -std=gnu11 -O2 -Isrc/fastshm tests/battery/kill_both.c -o kill_both -lpthread && ./kill_both [STEP [NAME [SEED]]]
 *
 * A process that dropped its privileges can open no further description of the segment, so its child claims its number as a process,
 * while the parent shares it (registry.h). Both step themselves through all of that: from before the heir is made until the parent
 * has given up its part, and the child has done one operation. Who is killed, and by whom, says `orders`; each for every STEP-th of the
 * parent's instructions and every (STEP / 20)-th of the child's, until both come to their ends. The two run at once, so who of them is
 * ahead is left to chance, but where one waits for the other's death.
 *
 * The parent must not wait for a dead child, and what was made for that must be gone while the parent lives; a child must have all
 * that was made for it, or, when its parent died, say that it has nothing. Then a survivor judges (survivor.h). The fork is a bare system
 * call with the handlers around it, for the library's blocks the signal by which they step.
 */
#include "survivor.h"

#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define TRAP_FLAG 0x100
#define LONGEST 5 /* seconds of the clock, for what takes milliseconds */

enum { PARENT, CHILD };

typedef struct {
    const char *name;
    int by; /* whose instructions are counted */
    int kills_parent, kills_child;
    int child_waits; /* at its birth, until the parent is dead and buried */
    int goes_on;     /* who kills the other does so, sees it buried, and goes on */
} order;

static const order orders[] = {
    {"the parent", PARENT, 1, 0, 0, 0},
    {"the parent, before the child does anything", PARENT, 1, 0, 1, 0},
    {"the child", CHILD, 0, 1, 0, 0},
    {"the parent, by the child, which goes on", CHILD, 1, 0, 0, 1},
    {"the child, by the parent, which goes on", PARENT, 0, 1, 0, 1},
    {"both, at an instruction of the parent", PARENT, 1, 1, 0, 0},
    {"both, at an instruction of the child", CHILD, 1, 1, 0, 0},
};

static struct {
    volatile long steps[2];
    volatile int please_bury, buried;
    volatile int please_count, counted;
    volatile int reached;   /* the instruction of the deaths */
    volatile int killed[2];
    volatile int parent_pid;
    volatile int child_pid;
    volatile int child_said; /* a return code, 1 before */
    volatile int parent_said;
} *shared;

static const order *now_killing;
static volatile long last_step;
static pid_t parent_pid;
static long told[2]; /* children that were well, or not */

static _Noreturn void end_at_once(int who) {
    shared->killed[who] = 1;
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Until the dead are buried, by the survivor. */
static void see_it_buried(void) {
    shared->please_bury = 1;
    while (!shared->buried)
        sched_yield();
}

static void kill_the_other(int who) {
    if (who == CHILD) {
        shared->killed[PARENT] = 1;
        kill(parent_pid, SIGKILL);
        while (getppid() == parent_pid) /* its locks go before its children do */
            sched_yield();
    } else if (shared->child_pid) {
        shared->killed[CHILD] = 1;
        kill(shared->child_pid, SIGKILL);
        siginfo_t dead;
        waitid(P_PID, (id_t)shared->child_pid, &dead, WEXITED | WNOWAIT);
    }
}

static void count_step(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    int e = errno, who = getpid() == parent_pid ? PARENT : CHILD;
    if (++shared->steps[who] == last_step && who == now_killing->by) {
        shared->reached = 1;
        if (who == CHILD ? now_killing->kills_parent : now_killing->kills_child)
            kill_the_other(who);
        if (now_killing->goes_on)
            see_it_buried();
        else if (who == CHILD ? now_killing->kills_child : now_killing->kills_parent)
            end_at_once(who);
    }
    errno = e;
}

static void begin_steps(void) {
    struct sigaction action = {.sa_sigaction = count_step, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    __asm__ volatile("pushfq; orq %0, (%%rsp); popfq" : : "i"(TRAP_FLAG) : "memory", "cc");
}

static void end_steps(void) { __asm__ volatile("pushfq; andq %0, (%%rsp); popfq" : : "i"(~TRAP_FLAG) : "memory", "cc"); }

/* What a forked child first does: it uses what its parent had. */
static int use_it(void) {
    fs_census census;
    const char *what = NULL;
    int r = fs_me(&heap, &me);
    if (r != FS_OK)
        return r == FS_GONE ? heap.shut_code : r;
    me.wait = 1;
    current->operate();
    end_steps();
    if (fs_check(&me, &census, &what) != FS_OK)
        return FS_CORRUPT;
    for (uint64_t at = heap.super->processes; at; at = ((fs_process *)(heap.base + at))->next)
        if (at == heap.process)
            return fs_alive(&heap, heap.process_id) ? FS_OK : FS_MISSING;
    return FS_MISSING;
}

/* One that waits for its child, which waits for its death, is killed in that. */
static void wait_for_the_parents_death(void) {
    long seen = 0;
    for (int64_t since = fs_now(); getppid() == parent_pid; sched_yield())
        if (shared->steps[PARENT] != seen) {
            seen = shared->steps[PARENT];
            since = fs_now();
        } else if (fs_now() - since > 20000000) {
            kill_the_other(CHILD);
        }
    see_it_buried();
}

static void be_the_child(void) {
    if (now_killing->child_waits)
        wait_for_the_parents_death();
    fs_fork_in_child();
    shared->child_said = use_it();
    end_steps();
    _exit(0);
}

/* The whole of fork(), with what the package does before it and in it. */
static void hand_over(void) {
    begin_steps();
    fs_fork_before();
    fs_fork_prepare();
    pid_t pid = (pid_t)syscall(SYS_fork);
    if (!pid)
        be_the_child();
    shared->child_pid = pid;
    fs_fork_in_parent();
    end_steps();
    if (pid == -1)
        die("fork", "failed");
    shared->parent_said = 0;
    waitpid(pid, NULL, 0);
    shared->please_count = 1;
    while (!shared->counted)
        sched_yield();
    _exit(0);
}

/* From here on nothing opens the segment's file again. */
static void drop_privileges(void) {
    if (fchmod(heap.fd, 0) == -1 || (geteuid() == 0 && (setgroups(0, NULL) || setgid(65534) || setuid(65534))))
        die("privileges", "cannot be dropped");
    prctl(PR_SET_DUMPABLE, 1); /* /proc/self is ours still */
    int fd = fs_redescribe(&heap);
    if (fd != -1 || !fs_is_denied(errno))
        die("the segment", "can be opened still");
}

/* A process whose child claims by itself; in the second generation it is such a child. */
static void be_the_parent(int generation) {
    drop_privileges();
    if (generation) {
        fs_fork_before();
        pid_t pid = fork();
        if (pid) {
            int status;
            _exit(pid == -1 || waitpid(pid, &status, 0) == -1 ? 6 : 0);
        }
    }
    if (fs_me(&heap, &me) != FS_OK || heap.by_process != generation)
        _exit(5);
    me.wait = 1;
    shared->parent_pid = parent_pid = getpid();
    hand_over();
}

/* The processes that are being killed stand still now: only the dead can hold the heap. */
static void bury(void) {
    uint32_t owner = fs_load_relaxed(&heap.super->heap.word) & FS_LOCK_OWNER;
    if (!owner || !fs_alive(&heap, owner))
        fs_bury(&me);
    shared->buried = 1;
}

static int processes(void) {
    int n = 0;
    for (uint64_t at = heap.super->processes; at; at = ((fs_process *)(heap.base + at))->next)
        n++;
    return n;
}

/* The child is dead, and its parent lives: nothing of the child may be left. */
static void count_them(int generation, long n) {
    fs_bury(&me);
    if (processes() != 2 + generation)
        broken(n, 0, "a dead child's record stays while its parent lives");
    shared->counted = 1;
}

static void hangs(long n, const char *who) {
    if (shared->child_pid)
        kill(shared->child_pid, SIGKILL);
    if (shared->parent_pid)
        kill(shared->parent_pid, SIGKILL);
    broken(n, 0, who);
    exit(1);
}

/* One fork, and the deaths of the n-th instruction. 0 when there are not as many. */
static int fork_and_deaths(int generation, long n) {
    prepare();
    memset(shared, 0, sizeof *shared);
    shared->child_said = shared->parent_said = 1;
    last_step = n;
    fs_fork_before();
    pid_t pid = fork();
    if (pid == -1)
        die("fork", "failed");
    if (!pid)
        be_the_parent(generation);
    int64_t began = fs_now();
    for (int status;;) {
        pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended == -1)
            break;
        if (ended && !(WIFEXITED(status) && !WEXITSTATUS(status)) && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
            broken(n, 0, "a process has died by itself");
        if (shared->please_bury && !shared->buried)
            bury();
        if (shared->please_count && !shared->counted)
            count_them(generation, n);
        if (!ended && fs_now() - began > LONGEST * 1000000000ll)
            hangs(n, shared->parent_said == 1 && !shared->killed[PARENT] ? "the parent hangs" : "the child hangs");
        if (!ended)
            nanosleep(&(struct timespec){0, 20000}, NULL);
    }
    if (fchmod(heap.fd, 0600) == -1)
        die("the segment's mode", "cannot be changed");
    int is_born = shared->steps[CHILD] > 0, said = shared->child_said;
    if (!shared->killed[PARENT] && shared->parent_said)
        broken(n, 0, "the parent has not come to its end");
    if (is_born && !shared->killed[CHILD] && said != FS_OK && !(said == FS_GONE && shared->killed[PARENT]))
        broken(n, 0, said == 1 ? "the child has not come to its end" : "the child has not what was made for it");
    judge(n, 0);
    told[said == FS_OK]++;
    return shared->reached;
}

static const operation forks[] = {
    {"a fork without privileges", TABLE, fill_table, set_wide},
    {"a fork without privileges, by a child of one", TABLE, fill_table, set_wide},
};

static void sweep(int generation, long step, uint64_t *empty) {
    current = &forks[generation];
    long kills = 0, failed = failures;
    slowest = 0;
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        now_killing = &orders[i];
        told[0] = told[1] = 0;
        long stride = now_killing->by == CHILD ? (step + 19) / 20 : step; /* where most can happen */
        long n = stride == 1 ? 1 : 1 + rand() % stride;
        for (; fork_and_deaths(generation, n); n += stride)
            kills++;
        fprintf(stderr, "%s, %s: up to %ld instructions; the child was well %ld times\n", current->name, now_killing->name, n, told[1]);
    }
    drop_all();
    wish(fs_bury(&me));
    uint64_t left = used();
    if (left != *empty || processes() != 1)
        broken(0, 0, "bytes or processes are left when all is dropped");
    *empty = left;
    printf("%s: %ld kills, 0 of rescuers, %ld failed, lock free after at most %.2f ms\n", current->name, kills, failures - failed,
           (double)slowest / 1e6);
    fflush(stdout);
}

int main(int count, char **arguments) {
    long step = count > 1 ? atol(arguments[1]) : 1;
    const char *name = count > 2 ? arguments[2] : "";
    int n = sizeof forks / sizeof *forks;
    if (count > 1 && !strcmp(arguments[1], "--list")) {
        for (int i = 0; i < n; i++)
            puts(forks[i].name);
        return 0;
    }
    srand(count > 3 ? (unsigned)atoi(arguments[3]) : 1);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    begin_segment("kill-both");
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    wish(fs_slots_reserve(&me, heap.free_count + 1)); /* the heir is more than one block */
    drop_all();
    uint64_t empty = used();
    for (int i = 0; i < n; i++)
        if (!*name || !strcmp(forks[i].name, name))
            sweep(i, step, &empty);
    unlink(segment_path);
    return failures != 0;
}
