/* local.h: what one process knows about a segment it has mapped. Private memory; nothing here is shared.
 *
 * Offsets that come from shared memory become pointers only in fs_at(), against bounds kept here, so that damage is
 * FS_CORRUPT and never a stray access.
 */
#ifndef FASTSHM_LOCAL_H
#define FASTSHM_LOCAL_H

#include "layout.h"

struct fs_pin {
    void *page;
    struct fs_pin *next;
};

typedef struct {
    char *base;
    fs_super *super;
    uint64_t limit;   /* private copy of super->committed: pages below it exist */
    uint64_t size;    /* of the mapping */
    int fd;           /* the mapping's description: probes, page claims */
    int live_fd;      /* the description that claims our numbers */
    dev_t device;     /* of the file: a descriptor that is not on it is not ours any more */
    ino_t inode;
    char path[64];    /* where to open it again, if the name is still there */
    struct fs_pin *live_pins; /* a page mapped through live_fd, and through those before it that were lost: the claims outlast a
                                 stray close(), and a fork does not inherit them */
    uint32_t process_id;
    uint64_t process;  /* offset of our fs_process, 0 before joining and after leaving */
    uint64_t epoch;    /* changes in a forked child: cached identities are stale */
    uint64_t *free_slots; /* numbers of unused handle slots */
    uint64_t free_count, free_room;
    uint64_t *chunks;     /* offsets of the fs_handles behind our fs_process, in order */
    uint64_t chunk_count;
} fs_heap;

/* One thread's identity in one segment. */
typedef struct {
    fs_heap *heap;
    uint32_t id;
    int wait; /* 0: come back with FS_BUSY; 1: sleep while a lock is held (call it without the interpreter lock) */
} fs_self;

FS_COLD static int fs_is_on_file(const fs_heap *heap, int fd) {
    struct stat st;
    return fd != -1 && fstat(fd, &st) == 0 && st.st_dev == heap->device && st.st_ino == heap->inode;
}

/* A program may close descriptors that it has not opened (daemons close all), and the number may be another file's by now. So before
 * one of ours (heap->fd, heap->live_fd) is used it is looked at, and opened again by name where it is lost; -1 if it cannot be. */
FS_COLD static int fs_own_fd(fs_heap *heap, int *fd) {
    if (fs_is_on_file(heap, *fd))
        return *fd;
    int again = open(heap->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (again != -1 && !fs_is_on_file(heap, again)) {
        close(again);
        again = -1;
    }
    uint32_t *other = (uint32_t *)(fd == &heap->fd ? &heap->live_fd : &heap->fd);
    if (again != -1) /* what had this number is lost, too; and one description for both would not see its own claims */
        fs_cas_u32(other, (uint32_t)again, (uint32_t)-1);
    errno = EBADF;
    return *fd = again;
}

FS_UNUSED static void fs_close_own(const fs_heap *heap, int *fd) {
    if (fs_is_on_file(heap, *fd))
        close(*fd);
    *fd = -1;
}

/* Is the thread or process that has this number alive? Yes, as long as that cannot be found out. */
FS_COLD static int fs_alive(fs_heap *heap, uint32_t id) {
    int fd = fs_own_fd(heap, &heap->fd);
    return fd == -1 || fs_probe(fd, id);
}

FS_COLD static int fs_refresh_limit(fs_heap *heap) {
    uint64_t committed = fs_load_acquire(&heap->super->committed);
    struct stat st;
    if (committed <= heap->limit)
        return FS_CORRUPT;
    if (committed > heap->size || committed % FS_GRAIN || fstat(fs_own_fd(heap, &heap->fd), &st) == -1 || (uint64_t)st.st_blocks * 512 < committed)
        return FS_CORRUPT;
    heap->limit = committed;
    return FS_OK;
}

/* The bytes [offset, offset + length), or NULL when they are not inside the segment's blocks. */
static inline void *fs_at(fs_heap *heap, uint64_t offset, uint64_t length) {
    if (fs_unlikely(offset < FS_FIRST || offset % 8))
        return NULL;
    if (fs_unlikely(offset > heap->limit || length > heap->limit - offset)) {
        if (fs_refresh_limit(heap) != FS_OK || offset > heap->limit || length > heap->limit - offset)
            return NULL;
    }
    return heap->base + offset;
}

static inline uint64_t fs_offset(const fs_heap *heap, const void *p) { return (uint64_t)((const char *)p - heap->base); }

/* The block that starts at offset, whole. */
static inline fs_block *fs_block_at(fs_heap *heap, uint64_t offset) {
    fs_block *b = offset % FS_GRAIN ? NULL : fs_at(heap, offset, FS_GRAIN);
    if (fs_unlikely(!b || !b->size || !fs_at(heap, offset, (uint64_t)fs_load_relaxed(&b->size) * FS_GRAIN)))
        return NULL;
    return b;
}

/* A block of one kind, at least `length` bytes long. */
static inline void *fs_kind_at(fs_heap *heap, uint64_t offset, uint32_t kind, uint64_t length) {
    fs_block *b = fs_block_at(heap, offset);
    if (fs_unlikely(!b || fs_load_relaxed(&b->kind) != kind || (uint64_t)b->size * FS_GRAIN < length))
        return NULL;
    return b;
}

static inline uint64_t fs_pair(uint32_t first, uint32_t second) {
    union {
        uint32_t half[2];
        uint64_t word;
    } u = {{first, second}};
    return u.word;
}

#endif
