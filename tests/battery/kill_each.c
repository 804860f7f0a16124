/* kill_each.c: kills a process after each single instruction of each operation, and looks at what it leaves.
 *
 *   gcc -std=gnu11 -O2 -Isrc/fastshm tests/battery/kill_each.c -o kill_each -lpthread && ./kill_each [STEP [NAME]]
 *
 * A child does one operation on a segment that this process has mapped, too, and is traced: after n steps it is killed, for
 * n = STEP, 2 STEP, ... until the operation ends by itself. Then the survivor wants the object's lock (within a deadline), asks
 * for all invariants, and looks whether the operation is wholly there or not at all. At the end all is dropped, and not a byte
 * may be left. A second child is killed, after a number of instructions drawn by chance, while it repairs what the first left: after
 * each first death when STEP is 1, else after every fourth.
 *
 * An operation joins by one line in `operations` (operations.h).
 */
#include "operations.h"

#include <sys/ptrace.h>
#include <sys/wait.h>

static _Noreturn void refused(int code) {
    errno = -code;
    die("a step", "return code in errno");
}

/* --- killing ------------------------------------------------------------------------------------------------------------- */

static const operation *current;

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
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        what();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    for (long i = 0; i < n; i++) {
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
        waitpid(pid, &status, 0);
        if (WIFEXITED(status)) {
            if (WEXITSTATUS(status))
                die(current->name, "the child failed");
            return 0;
        }
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return 1;
}

static int failures;

static int broken(long n, long rescue, const char *why) {
    printf("%s, killed after %ld", current->name, n);
    if (rescue)
        printf(", its rescuer after %ld", rescue);
    printf(" instructions: %s\n", why);
    return ++failures;
}

static int64_t slowest;

/* Is everything as it must be after one death, or two? */
static void judge(long n, long rescue, uint64_t before, uint64_t after) {
    fs_census census;
    const char *what = NULL;
    int64_t began = fs_now();
    if (current->slot >= 0) {
        fs_object *o = object(current->slot);
        int r = fs_lock_wait(&heap, &o->lock, me.id, began + 2000000000);
        int64_t took = fs_now() - began;
        if (took > slowest)
            slowest = took;
        if (r < 0) {
            broken(n, rescue, "the lock cannot be had");
            exit(1);
        }
        if (fs_object_settle(&me, o) != FS_OK)
            broken(n, rescue, "the object cannot be settled");
        fs_settle(&o->lock);
        o->lock.hold = 0;
        fs_leave(&me, &o->lock);
        uint64_t now = picture(current->slot);
        if (now != before && now != after)
            broken(n, rescue, "half of it is there");
    }
    int r = fs_check(&me, &census, &what);
    if (r != FS_OK) {
        broken(n, rescue, what ? what : "check failed");
        exit(1);
    }
}

static uint64_t used(void) {
    fs_census census;
    const char *what = NULL;
    if (fs_check(&me, &census, &what) != FS_OK) {
        broken(0, 0, what ? what : "check failed");
        exit(1);
    }
    return census.bytes_used - census.tickets * FS_GRAIN;
}

int main(int count, char **arguments) {
    long step = count > 1 ? atol(arguments[1]) : 1, all = 0, rescues = 0;
    const char *only = count > 2 ? arguments[2] : "";
    char name[64];
    snprintf(name, sizeof name, "/dev/shm/fastshm-kill-each-%d", getpid());
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd == -1 || ftruncate(fd, 1 << 30) == -1 || fs_identity_start() != FS_OK)
        die(name, "cannot be made");
    if (fs_segment_create(&heap, fd, 1 << 30, 0, 0) != FS_OK || fs_heap_register(&heap) != FS_OK)
        die(name, "cannot be made");
    fs_segment_named(&heap, name);
    wish(fs_me(&heap, &me));
    me.wait = 1;
    heap.free_count -= EXTRA + 1; /* the slots used here by number are nobody else's */
    drop_all();
    uint64_t empty = used();
    srand(1);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        current = &operations[i];
        if (!strstr(current->name, only))
            continue;
        long kills = 0, second = 0;
        slowest = 0;
        current->prepare();
        uint64_t before = picture(current->slot);
        if (current->operate != leave)
            work();
        uint64_t after = picture(current->slot);
        for (long n = step;; n += step) {
            drop_all();
            current->prepare();
            int died = kill_after(work, n);
            if (died && current->slot >= 0 && (step == 1 || rand() % 4 == 0)) {
                second += kill_after(repair, 1 + rand() % 2000);
                judge(n, second, before, after);
            } else {
                judge(n, 0, before, after);
            }
            kills += died;
            if (!died)
                break;
        }
        drop_all();
        uint64_t left = used();
        if (left != empty && current->slot != KEEPS)
            broken(0, 0, "bytes are left when all is dropped");
        empty = left;
        printf("%-40s %7ld kills, %6ld of rescuers, lock free after at most %.1f ms\n", current->name, kills, second,
               (double)slowest / 1e6);
        fflush(stdout);
        all += kills;
        rescues += second;
    }
    printf("%ld kills, %ld of rescuers, %d failed\n", all, rescues, failures);
    unlink(name);
    return failures != 0;
}
