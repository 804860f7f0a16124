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

/* What a handle looks at before each operation: a word that is not 0 when it refuses. That is its heap's `shut`, or one of the
 * object that switches it; then the handle is in its heap's list, so that the heap can refuse for it. */
typedef struct fs_switch {
    const uint64_t **closed; /* which word that is: */
    const uint64_t *by;      /* this one, unless the heap refuses */
    struct fs_switch *next, **link;
} fs_switch;

enum {
    FS_SHUT_LEFT = 1, /* this process has let go of everything */
    FS_SHUT_FORKED,   /* it was forked when there was no room for a record of its own; shut_code, shut_errno */
};

typedef struct {
    char *base;
    fs_super *super;
    uint64_t limit;   /* private copy of super->committed: pages below it exist */
    uint64_t size;    /* of the mapping */
    int fd;           /* the mapping's description: probes, page claims */
    int live_fd;      /* the description that claims our numbers */
    int by_process;   /* no description could be opened for that: this process claims them itself, through fd; live_fd is -1 */
    dev_t device;     /* of the file: a descriptor that is not on it is not ours any more */
    ino_t inode;
    char path[256];   /* where to open it again, if the name is still there; a store's has up to 223 characters */
    int nameless;     /* the file has no name yet, so nobody has taken it away */
    struct fs_pin *live_pins; /* a page mapped through live_fd, and through those before it that were lost: the claims outlast a
                                 stray close(), and a fork does not inherit them */
    uint32_t process_id;
    uint64_t process;  /* offset of our fs_process, 0 before joining and after leaving */
    uint64_t shut;     /* FS_SHUT_, 0 while its handles serve */
    fs_switch *switches;
    int shut_code, shut_errno;
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

FS_UNUSED static void fs_switch_set(fs_heap *heap, fs_switch *s, const uint64_t **closed, const uint64_t *by) {
    s->closed = closed;
    s->by = by;
    *closed = heap->shut ? &heap->shut : by;
    s->next = heap->switches;
    s->link = &heap->switches;
    if (s->next)
        s->next->link = &s->next;
    heap->switches = s;
}

FS_UNUSED static void fs_switch_end(fs_switch *s) {
    if (!s->link)
        return;
    *s->link = s->next;
    if (s->next)
        s->next->link = s->link;
    s->link = NULL;
}

/* From now on every handle of this heap refuses; with 0, none does but those that are switched off. */
FS_UNUSED static void fs_shut(fs_heap *heap, uint64_t why) {
    heap->shut = why;
    for (fs_switch *s = heap->switches; s; s = s->next)
        *s->closed = why ? &heap->shut : s->by;
}

FS_COLD static int fs_is_on_file(const fs_heap *heap, int fd) {
    struct stat st;
    return fd != -1 && fstat(fd, &st) == 0 && st.st_dev == heap->device && st.st_ino == heap->inode;
}

/* A program may close descriptors that it has not opened (daemons close all), and the number may be another file's by now. So
 * before one of ours (heap->fd, heap->live_fd) is used it is looked at, and opened again by name where it is lost; -1 if it
 * cannot be. */
FS_COLD static int fs_own_fd(fs_heap *heap, int *fd) {
    if (fs_is_on_file(heap, *fd))
        return *fd;
    if (heap->by_process) { /* the claims have gone with it */
        errno = EBADF;
        return *fd = -1;
    }
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

/* Does a name lead to the file still? No, when that cannot be found out. */
FS_UNUSED static int fs_has_name(const fs_heap *heap) {
    struct stat st;
    return fs_is_on_file(heap, heap->fd) && fstat(heap->fd, &st) == 0 && st.st_nlink;
}

FS_UNUSED static void fs_close_own(const fs_heap *heap, int *fd) {
    if (fs_is_on_file(heap, *fd))
        close(*fd);
    *fd = -1;
}

/* What our numbers are claimed through. */
FS_UNUSED static int fs_claims_fd(const fs_heap *heap) { return heap->by_process ? heap->fd : heap->live_fd; }

/* Is the thread or process that has this number alive? Yes, as long as that cannot be found out. */
FS_COLD static int fs_alive(fs_heap *heap, uint32_t id) {
    int fd = fs_own_fd(heap, &heap->fd);
    return fd == -1 || fs_probe(fd, id);
}

FS_COLD static int fs_refresh_limit(fs_heap *heap) {
    uint64_t committed = fs_load_acquire(&heap->super->committed);
    struct stat st;
    if (committed <= fs_load_relaxed(&heap->limit))
        return FS_CORRUPT;
    if (committed > heap->size || committed % FS_GRAIN || fstat(fs_own_fd(heap, &heap->fd), &st) == -1 ||
        (uint64_t)st.st_blocks * 512 < committed)
        return FS_CORRUPT;
    /* Threads of ours do this at once; it never shrinks, but for a moment between two. */
    fs_store_relaxed(&heap->limit, committed);
    return FS_OK;
}

/* The bytes [offset, offset + length), or NULL when they are not inside the segment's blocks. */
static inline void *fs_at(fs_heap *heap, uint64_t offset, uint64_t length) {
    if (fs_unlikely(offset < FS_FIRST || offset % 8))
        return NULL;
    uint64_t limit = fs_load_relaxed(&heap->limit);
    if (fs_unlikely(offset > limit || length > limit - offset)) {
        fs_refresh_limit(heap); /* when another thread was faster, it has nothing to do */
        limit = fs_load_relaxed(&heap->limit);
        if (offset > limit || length > limit - offset)
            return NULL;
    }
    return heap->base + offset;
}

static inline uint64_t fs_offset(const fs_heap *heap, const void *p) { return (uint64_t)((const char *)p - heap->base); }

/* The block that starts at offset, whole, and not shorter than `length`. What is read of it a second time may be another:
 * sizes, counts and offsets are loaded once, checked, and used as they were checked. */
static inline fs_block *fs_whole_at(fs_heap *heap, uint64_t offset, uint64_t length) {
    fs_block *b = offset % FS_GRAIN ? NULL : fs_at(heap, offset, FS_GRAIN);
    if (fs_unlikely(!b))
        return NULL;
    uint64_t room = (uint64_t)fs_load_relaxed(&b->size) * FS_GRAIN;
    return fs_unlikely(!room || room < length || !fs_at(heap, offset, room)) ? NULL : b;
}

static inline fs_block *fs_block_at(fs_heap *heap, uint64_t offset) { return fs_whole_at(heap, offset, 0); }

/* A block of one kind, at least `length` bytes long. */
static inline void *fs_kind_at(fs_heap *heap, uint64_t offset, uint32_t kind, uint64_t length) {
    fs_block *b = fs_whole_at(heap, offset, length);
    return fs_unlikely(!b || fs_load_relaxed(&b->kind) != kind) ? NULL : b;
}

/* How many bytes a block has, as far as there are pages: from where it starts, so many may be touched. */
static inline uint64_t fs_room(const fs_heap *heap, const fs_block *b) {
    uint64_t room = (uint64_t)fs_load_relaxed(&b->size) * FS_GRAIN, left = fs_load_relaxed(&heap->limit) - fs_offset(heap, b);
    return room < left ? room : left;
}

/* The least a block of a kind needs, 0 for a kind that there is not. */
FS_UNUSED static uint64_t fs_kind_size(uint32_t kind) {
    switch (kind) {
    case FS_FREE:
    case FS_QUICK:
    case FS_RAW:
        return FS_HEADER;
    case FS_BLOB:
        return sizeof(fs_blob);
    case FS_BUNDLE:
        return sizeof(fs_bundle);
    case FS_ENTRIES:
        return sizeof(fs_entries);
    case FS_SLOTS:
        return sizeof(fs_slots);
    case FS_UNDO_LOG:
        return sizeof(fs_undo_log);
    case FS_PROCESS:
        return sizeof(fs_process);
    case FS_HANDLES:
        return sizeof(fs_handles);
    case FS_TICKET:
        return sizeof(fs_ticket);
    case FS_CELL:
    case FS_GATE:
        return sizeof(fs_cell);
    case FS_MUTEX:
        return sizeof(fs_object);
    case FS_ARRAY:
        return FS_ARRAY_DATA;
    case FS_ITEMS:
        return FS_ITEMS_DATA;
    case FS_TABLE:
        return sizeof(fs_table);
    case FS_VECTOR:
        return sizeof(fs_vector);
    case FS_SEMAPHORE:
    case FS_EVENT:
        return sizeof(fs_semaphore);
    case FS_BOUNDED:
        return sizeof(fs_bounded);
    case FS_WAITERS:
        return sizeof(fs_waiters);
    case FS_BARRIER:
        return sizeof(fs_barrier);
    case FS_COUNTER:
        return sizeof(fs_counter);
    default:
        return 0;
    }
}

/* Does a walk along links go round? Asked with each place in turn: at the latest after three rounds, yes (R. P. Brent,
 * 1980). */
typedef struct {
    uint64_t mark, steps, power;
} fs_trail;

static inline int fs_goes_round(fs_trail *t, uint64_t at) {
    if (at == t->mark)
        return 1;
    if (t->steps++ == t->power) {
        t->mark = at;
        t->power = 2 * t->power + 1;
        t->steps = 0;
    }
    return 0;
}

static inline uint64_t fs_pair(uint32_t first, uint32_t second) {
    union {
        uint32_t half[2];
        uint64_t word;
    } u = {{first, second}};
    return u.word;
}

#endif
