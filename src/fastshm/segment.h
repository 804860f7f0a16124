/* segment.h: making a segment out of fresh shared memory, and opening one that others made.
 *
 * Opening trusts nothing: the file must be ours, no wider than owner-only, as long as it says, with pages for all that it
 * claims to use, and bear the stamp of this format. Only then is it mapped for use.
 */
#ifndef FASTSHM_SEGMENT_H
#define FASTSHM_SEGMENT_H

#include "registry.h"

enum {
    FS_WHY_NONE = 0,
    FS_WHY_OWNER,
    FS_WHY_MODE,
    FS_WHY_KIND,
    FS_WHY_SHORT,
    FS_WHY_MAGIC,
    FS_WHY_STAMP,
    FS_WHY_SIZE,
    FS_WHY_PAGES,
};

/* The epoch goes on, so that no thread's cached number of a former segment counts in the next one. */
FS_COLD static void fs_heap_reset(fs_heap *heap) {
    uint64_t epoch = heap->epoch + 1;
    memset(heap, 0, sizeof *heap);
    heap->epoch = epoch;
    heap->fd = heap->live_fd = -1;
}

FS_COLD static int fs_map(fs_heap *heap) {
    struct stat st;
    if (fstat(heap->fd, &st) == -1)
        return FS_SYSTEM;
    heap->device = st.st_dev;
    heap->inode = st.st_ino;
    void *p = mmap(NULL, heap->size, PROT_READ | PROT_WRITE, MAP_SHARED, heap->fd, 0);
    if (p == MAP_FAILED)
        return FS_SYSTEM;
    heap->base = p;
    heap->super = p;
    return FS_OK;
}

FS_COLD static void fs_unmap(fs_heap *heap) {
    free(heap->free_slots);
    free(heap->chunks);
    fs_unpin_claims(heap, 1);
    if (heap->base) {
        munmap(heap->base, heap->size);
        fs_close_own(heap, &heap->live_fd);
        fs_close_own(heap, &heap->fd);
    } else if (heap->fd != -1) {
        close(heap->fd); /* it was never mapped: the descriptor is the caller's own of a moment ago */
    }
    fs_heap_reset(heap);
}

/* Where the file can be found again while its name lasts. */
FS_UNUSED static void fs_segment_named(fs_heap *heap, const char *path) {
    snprintf(heap->path, sizeof heap->path, "%s", path);
}

/* --- files ---------------------------------------------------------------------------------------------------------------- */

typedef struct fs_file {
    dev_t device;
    ino_t inode;
} fs_file;

/* Takes the name away, if it leads to that file still. */
FS_COLD static void fs_file_unmake(const char *path, const fs_file *file) {
    struct stat st;
    int e = errno;
    if (lstat(path, &st) == 0 && st.st_dev == file->device && st.st_ino == file->inode)
        unlink(path);
    errno = e;
}

/* A new file of `size` bytes without pages; -1, and no file, when errno tells why not. */
FS_COLD static int fs_file_make(const char *path, uint64_t size, fs_file *file) {
    struct stat st;
    int fd, r;
    do
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    while (fd == -1 && errno == EINTR);
    if (fd == -1)
        return -1;
    if (fstat(fd, &st) == -1) /* never; then the name is left to a sweep */
        return close(fd), -1;
    *file = (fs_file){st.st_dev, st.st_ino};
    do
        r = ftruncate(fd, (off_t)size);
    while (r == -1 && errno == EINTR);
    if (r == -1) {
        fs_file_unmake(path, file);
        r = errno;
        close(fd);
        errno = r;
        return -1;
    }
    return fd;
}

/* One without a name, which it can be given as long as somebody has it open; -1 when errno tells why not. */
FS_COLD static int fs_file_make_nameless(const char *folder, uint64_t size) {
    int fd, r;
    do
        fd = open(folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    while (fd == -1 && errno == EINTR);
    if (fd == -1)
        return -1;
    do
        r = ftruncate(fd, (off_t)size);
    while (r == -1 && errno == EINTR);
    if (r == -1) {
        r = errno;
        close(fd);
        errno = r;
        return -1;
    }
    return fd;
}

FS_COLD static int fs_file_open(const char *path) {
    int fd;
    do
        fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    while (fd == -1 && errno == EINTR);
    return fd;
}

/* --- segments ------------------------------------------------------------------------------------------------------------- */

FS_COLD static int fs_segment_begin(fs_heap *heap, int fd, uint64_t size, uint64_t tracker_device, uint64_t tracker_inode,
                                    int nameless) {
    fs_heap_reset(heap);
    heap->fd = fd;
    heap->nameless = nameless;
    heap->size = size;
    int r = fs_claim_pages(fd, 0, FS_FIRST);
    if (r == FS_OK)
        r = fs_map(heap);
    if (r == FS_OK) {
        fs_super *s = heap->super;
        heap->limit = FS_FIRST;
        s->stamp = FS_STAMP;
        s->size = size;
        s->next_id = 1;
        s->committed = FS_FIRST;
        s->tracker_device = tracker_device;
        s->tracker_inode = tracker_inode;
        r = fs_join(heap);
        if (r == FS_OK)
            fs_store_release(&s->magic, FS_MAGIC);
    }
    if (r != FS_OK) {
        int e = errno;
        fs_unmap(heap);
        errno = e;
    }
    return r;
}

/* `fd` is a fresh file of `size` bytes that nobody else can have written; it is ours from here on. */
FS_COLD static int fs_segment_create(fs_heap *heap, int fd, uint64_t size, uint64_t tracker_device, uint64_t tracker_inode) {
    return fs_segment_begin(heap, fd, size, tracker_device, tracker_inode, 0);
}

/* Gives a nameless segment its name, which a relative may have done already. FS_SYSTEM: another has the name, or errno tells. */
FS_COLD static int fs_segment_appear(fs_heap *heap, const char *path) {
    char own[40];
    struct stat st;
    snprintf(own, sizeof own, "/proc/self/fd/%d", heap->fd);
    if (!fs_is_on_file(heap, heap->fd)) {
        errno = EBADF;
        return FS_SYSTEM;
    }
    if (linkat(AT_FDCWD, own, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == -1) {
        int e = errno;
        if (lstat(path, &st) == -1 || st.st_dev != heap->device || st.st_ino != heap->inode) {
            errno = e;
            return FS_SYSTEM;
        }
    }
    heap->nameless = 0;
    fs_segment_named(heap, path);
    return FS_OK;
}

/* What is wrong with the file behind `fd`, FS_WHY_NONE if nothing. */
FS_COLD static int fs_segment_inspect(int fd, uint64_t *size) {
    struct stat st;
    uint64_t head[3 + 5];
    if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode))
        return FS_WHY_KIND;
    if (st.st_uid != geteuid())
        return FS_WHY_OWNER;
    if (st.st_mode & 0077)
        return FS_WHY_MODE;
    if (st.st_size < (off_t)FS_FIRST || pread(fd, head, sizeof head, 0) != (ssize_t)sizeof head)
        return FS_WHY_SHORT;
    if (head[0] != FS_MAGIC)
        return FS_WHY_MAGIC;
    if (head[1] != FS_STAMP)
        return FS_WHY_STAMP;
    if (head[2] != (uint64_t)st.st_size)
        return FS_WHY_SIZE;
    uint64_t committed;
    if (pread(fd, &committed, 8, offsetof(fs_super, committed)) != 8 || committed > head[2] || committed < FS_FIRST ||
        committed % FS_GRAIN || fstat(fd, &st) == -1 || /* again: it may have grown since */
        (uint64_t)st.st_blocks * 512 < committed)
        return FS_WHY_PAGES;
    *size = head[2];
    return FS_WHY_NONE;
}

/* Of a file that fs_segment_inspect has found whole. */
FS_COLD static int fs_segment_is_kept(int fd) {
    uint32_t kept = 0;
    return pread(fd, &kept, 4, offsetof(fs_super, kept)) == 4 && kept;
}

/* Maps and joins the segment behind `fd`, which is ours from here on. *why tells what was wrong for FS_CORRUPT. */
FS_COLD static int fs_segment_open(fs_heap *heap, int fd, int *why) {
    fs_heap_reset(heap);
    heap->fd = fd;
    *why = fs_segment_inspect(fd, &heap->size);
    int r = *why ? FS_CORRUPT : fs_map(heap);
    if (r == FS_OK) {
        heap->limit = FS_FIRST;
        if (fs_load_acquire(&heap->super->committed) > FS_FIRST)
            r = fs_refresh_limit(heap);
        if (r == FS_OK)
            r = fs_join(heap);
    }
    if (r != FS_OK) {
        int e = errno;
        fs_unmap(heap);
        errno = e;
    }
    return r;
}

#endif
