/* survivor.h: what is asked of a segment after a death, and the segment in which the harnesses kill. */
#ifndef FASTSHM_SURVIVOR_H
#define FASTSHM_SURVIVOR_H

#include "operations.h"

static _Noreturn void refused(int code) {
    errno = -code;
    die("a step", "return code in errno");
}

static int failures;

static int broken(long n, long rescue, const char *why) {
    printf("%s, killed after %ld", current->name, n);
    if (rescue)
        printf(", its rescuer after %ld", rescue);
    printf(" instructions: %s\n", why);
    return ++failures;
}

/* Before anybody has repaired: the keys that readers find without the lock must be as many as the length that they are told. */
static int readers_agree(void) {
    fs_view v;
    uint64_t count, found = 0;
    if (current->slot != TABLE || fs_table_count(table(), &count) != FS_OK)
        return 1;
    if (fs_view_make(&heap, table(), &v) != FS_OK)
        return 0;
    for (uint64_t i = 0; v.entries && i <= v.mask; i++)
        if ((uint32_t)v.index[i] >= 2)
            found += v.entries->entry[(uint32_t)v.index[i] - 2].kind != FS_V_ABSENT;
    return found == count;
}

/* What the survivor writes without the heap, of which some words may still be to be put back: these must not be under it. */
static void write_more(void) {
    static const int64_t item = 77;
    fs_run run;
    if (current->slot == ARRAY) {
        wish(fs_run_make(&heap, array(), &run));
        if (run.count)
            fs_copy_racy(run.p, &item, 8);
    } else if (current->slot == BOUNDED) {
        fs_bounded_take(&me, bounded(), 0);
    }
}

static int64_t slowest;

/* Is everything as it must be after one death, or two? */
static void judge(long n, long rescue) {
    fs_census census;
    const char *what = NULL;
    if (!readers_agree())
        broken(n, rescue, "readers find another number of keys than the length says");
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
    write_more();
    uint64_t written = picture(current->slot);
    int r = fs_check(&me, &census, &what);
    if (r != FS_OK) {
        broken(n, rescue, what ? what : "check failed");
        exit(1);
    }
    if (picture(current->slot) != written)
        broken(n, rescue, "what the survivor has written is gone");
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

static char segment_path[64];

/* The segment of this process, with nothing in it. */
static void begin_segment(const char *harness) {
    snprintf(segment_path, sizeof segment_path, "/dev/shm/fastshm-%s-%d", harness, getpid());
    int fd = open(segment_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd == -1 || ftruncate(fd, 1 << 30) == -1 || fs_identity_start() != FS_OK)
        die(segment_path, "cannot be made");
    if (fs_segment_create(&heap, fd, 1 << 30, 0, 0) != FS_OK || fs_heap_register(&heap) != FS_OK)
        die(segment_path, "cannot be made");
    fs_segment_named(&heap, segment_path);
    wish(fs_me(&heap, &me));
    me.wait = 1;
    heap.free_count -= EXTRA + 1; /* the slots used here by number are nobody else's */
}

#endif
