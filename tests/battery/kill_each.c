/* kill_each.c: kills a process after each single instruction of each operation, and looks at what it leaves.
 *
 *   gcc -std=gnu11 -O2 -Isrc/fastshm tests/battery/kill_each.c -o kill_each -lpthread && ./kill_each [STEP [NAME [SEED]]]
 *
 * A child does one operation on a segment that this process has mapped, too, single-stepped by the processor's trap flag: after n
 * instructions it is killed, for every STEP-th n until the operation ends by itself. Next it is the turn of one or two who repair what
 * it left: each is killed after a number of instructions drawn by chance. Then the survivor wants the object's lock (within a
 * deadline), asks for all invariants, and looks whether the operation is wholly there or not at all; at the end all is dropped, and not
 * a byte may be left. Last, the first death is the one that leaves the most to repair, and the rescuer is killed after every
 * instruction of its own, and a second one by chance.
 *
 * An operation joins by one line in `operations` (operations.h).
 */
#include "survivor.h"

#include <limits.h>
#include <signal.h>
#include <sys/wait.h>

/* --- killing ------------------------------------------------------------------------------------------------------------- */

static void work(void) { current->operate(); }

static void repair(void) {
    if (current->slot >= 0) {
        fs_object *o = object(current->slot);
        int r = fs_enter(&me, &o->lock);
        if (r < 0)
            exit(3);
        if (fs_object_settle(&me, o) != FS_OK)
            exit(4);
        fs_settle(&o->lock);
        fs_leave(&me, &o->lock);
    }
    fs_bury(&me);
    fs_reap(&me);
}

/* The processor traps after every instruction while this flag is set; a child steps itself, which takes a tenth of a tracer's time. */
#define TRAP_FLAG 0x100

static volatile long *steps; /* done by the last child, shared */
static volatile long last_step;

static void count_step(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    if (++*steps >= last_step)
        kill(getpid(), SIGKILL);
}

static void begin_steps(long n) {
    struct sigaction action = {.sa_sigaction = count_step, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    *steps = 0;
    last_step = n;
    __asm__ volatile("pushfq; orq %0, (%%rsp); popfq" : : "i"(TRAP_FLAG) : "memory", "cc");
}

static void end_steps(void) { __asm__ volatile("pushfq; andq %0, (%%rsp); popfq" : : "i"(~TRAP_FLAG) : "memory", "cc"); }

/* Kills a child after n instructions of `what`. 0 when it ended before. */
static int kill_after(void (*what)(void), long n) {
    fs_fork_before();
    pid_t pid = fork();
    int status;
    if (pid == -1)
        die("fork", "failed");
    if (!pid) {
        if (fs_me(&heap, &me) != FS_OK)
            _exit(5);
        me.wait = 1;
        begin_steps(n);
        what();
        end_steps();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return 1;
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        die(current->name, "the child failed");
    return 0;
}

/* A first death after n instructions; then rescuers, each killed after its number of instructions. */
static int deaths(long n, long first_rescuer, long second_rescuer, long *rescuers) {
    prepare();
    int died = kill_after(work, n);
    if (died && first_rescuer) {
        *rescuers += kill_after(repair, first_rescuer);
        if (second_rescuer)
            *rescuers += kill_after(repair, second_rescuer);
    }
    judge(n, first_rescuer);
    return died;
}

/* The first death, of a few, that leaves its rescuer the most to do. */
static long hardest(long instructions, long *length) {
    long worst = 1;
    *length = 0;
    for (int i = 1; i < 24; i++) {
        prepare();
        if (!kill_after(work, 1 + instructions * i / 24))
            continue;
        kill_after(repair, LONG_MAX);
        if (*steps > *length) {
            *length = *steps;
            worst = 1 + instructions * i / 24;
        }
    }
    return worst;
}

static void sweep(const operation *operation, long step, uint64_t *empty) {
    long kills = 0, rescuers = 0, length, failed = failures;
    current = operation;
    slowest = 0;
    for (long n = step == 1 ? 1 : 1 + rand() % step;; n += step) {
        int others = rand() % 4; /* none: then it is for the survivor to repair all */
        if (!deaths(n, others ? 1 + rand() % 1500 : 0, others > 1 ? 1 + rand() % 1500 : 0, &rescuers))
            break;
        kills++;
    }
    long at = hardest(*steps, &length);
    for (long m = step; m < length; m += step, kills++)
        deaths(at, m, 1 + rand() % length, &rescuers);
    drop_all();
    uint64_t left = used();
    if (left != *empty && current->slot != KEEPS)
        broken(0, 0, "bytes are left when all is dropped");
    *empty = left;
    printf("%s: %ld kills, %ld of rescuers, %ld failed, lock free after at most %.2f ms\n", current->name, kills, rescuers,
           failures - failed, (double)slowest / 1e6);
    fflush(stdout);
}

int main(int count, char **arguments) {
    size_t n = sizeof operations / sizeof *operations;
    long step = count > 1 ? atol(arguments[1]) : 1;
    const char *name = count > 2 ? arguments[2] : "";
    if (count > 1 && !strcmp(arguments[1], "--list")) {
        for (size_t i = 0; i < n; i++)
            puts(operations[i].name);
        return 0;
    }
    srand(count > 3 ? (unsigned)atoi(arguments[3]) : 1);
    begin_segment("kill-each");
    steps = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    drop_all();
    uint64_t empty = used();
    for (size_t i = 0; i < n; i++)
        if (!*name || !strcmp(operations[i].name, name))
            sweep(&operations[i], step, &empty);
    fill_and_forget_fresh();
    unlink(segment_path);
    return failures != 0;
}
