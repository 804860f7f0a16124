/* membership.h: joining and leaving segments while other threads of the process do so too, or fork.
 *
 * What a process knows of a segment (fs_heap) is never freed, because threads remember their numbers in it, but serves one segment
 * after the other:
 *
 *   spare --fs_member_new--> taken --fs_member_open, fs_member_create--> joined --fs_member_leave--> spare
 *                              |                                           |
 *                              +-- they fail, fs_member_refuse: spare      +-- fs_member_part: mapped, until the process ends
 *
 * fs_member_create_nameless is another way to be joined; fs_member_appear changes only what a joined one is called.
 * Each step is one section of fs_all.changing, so a fork finds each of them before it or after it. A child looks for those that no
 * object of Python's has, because the thread that would have given it one, or has taken it from one, is the parent's: it leaves them.
 */
#ifndef FASTSHM_MEMBERSHIP_H
#define FASTSHM_MEMBERSHIP_H

#include "identity.h"
#include "segment.h"

/* What a segment that is not joined, or was left, refers to. Nothing of it is ever changed. */
FS_UNUSED static fs_heap fs_nobody = {.fd = -1, .live_fd = -1};

static void fs_member_spare(fs_heap *heap) {
    for (int i = 0; i < fs_all.count; i++)
        if (fs_all.heap[i] == heap)
            fs_all.spare[i] = 1;
}

static int fs_member_take(fs_heap **out) {
    for (int i = 0; i < fs_all.count; i++)
        if (fs_all.spare[i]) {
            fs_all.spare[i] = 0;
            fs_all.parent[i] = 0;
            *out = fs_all.heap[i];
            return FS_OK;
        }
    if (fs_all.count == FS_MOST_HEAPS)
        return FS_OVERFLOW;
    if (!(*out = calloc(1, sizeof **out)))
        return FS_PRIVATE_NOMEM;
    (*out)->fd = (*out)->live_fd = -1;
    return fs_heap_register(*out);
}

/* Opens the file, or, with a size, makes it, exclusively; one without a name in the folder `path`. FS_OVERFLOW: too many segments at once. The descriptor is the taken heap's,
 * so that no child has one of which nobody there knows. */
FS_COLD static int fs_member_new(const char *path, uint64_t size, int is_nameless, fs_heap **out) {
    fs_file file = {0, 0};
    pthread_mutex_lock(&fs_all.changing);
    int r = fs_member_take(out);
    if (r == FS_OK) {
        (*out)->fd = is_nameless ? fs_file_make_nameless(path, size)
                     : size      ? fs_file_make(path, size, &file)
                                 : fs_file_open(path);
        (*out)->device = file.device;
        (*out)->inode = file.inode;
        if ((*out)->fd == -1) {
            fs_member_spare(*out);
            r = FS_SYSTEM;
        }
    }
    pthread_mutex_unlock(&fs_all.changing);
    return r;
}

static int fs_member_begun(fs_heap *heap, const char *path, int r) {
    if (r == FS_OK)
        fs_segment_named(heap, path);
    else
        fs_member_spare(heap);
    pthread_mutex_unlock(&fs_all.changing);
    return r;
}

/* Where it fails, there is no file. */
FS_COLD static int fs_member_create(fs_heap *heap, const char *path, uint64_t size, uint64_t device, uint64_t inode) {
    pthread_mutex_lock(&fs_all.changing);
    fs_file file = {heap->device, heap->inode};
    int r = fs_segment_create(heap, heap->fd, size, device, inode);
    if (r != FS_OK)
        fs_file_unmake(path, &file);
    return fs_member_begun(heap, path, r);
}

/* Of a file without a name. */
FS_COLD static int fs_member_create_nameless(fs_heap *heap, uint64_t size) {
    pthread_mutex_lock(&fs_all.changing);
    return fs_member_begun(heap, "", fs_segment_begin(heap, heap->fd, size, 0, 0, 1));
}

/* Not while the process forks: a child has either the name and that it is known, or neither. */
FS_COLD static int fs_member_appear(fs_heap *heap, const char *path) {
    pthread_mutex_lock(&fs_all.changing);
    int r = heap->process ? fs_segment_appear(heap, path) : FS_GONE;
    pthread_mutex_unlock(&fs_all.changing);
    return r;
}

FS_COLD static int fs_member_open(fs_heap *heap, const char *path, int *why) {
    pthread_mutex_lock(&fs_all.changing);
    return fs_member_begun(heap, path, fs_segment_open(heap, heap->fd, why));
}

/* Instead of either; a file that was made is taken away. */
FS_COLD static void fs_member_refuse(fs_heap *heap, const char *path) {
    pthread_mutex_lock(&fs_all.changing);
    fs_file file = {heap->device, heap->inode};
    if (file.inode)
        fs_file_unmake(path, &file);
    fs_unmap(heap);
    fs_member_spare(heap);
    pthread_mutex_unlock(&fs_all.changing);
}

/* The process's own number serves: only one thread of it leaves at a time, and none has to be taken for that. */
static int fs_member_give_up(fs_heap *heap) {
    fs_self me = {heap, heap->process_id, 1};
    int r;
    do
        r = fs_part(&me);
    while (r == FS_INTERRUPTED);
    return r;
}

/* Gives up the part in it and keeps the mapping. 1 when nobody else is left: then the name is to be removed. */
FS_COLD static int fs_member_part(fs_heap *heap) {
    int r = 0;
    pthread_mutex_lock(&fs_all.changing);
    if (heap->process && (r = fs_member_give_up(heap)) == 0) {
        heap->process = 0;
        heap->epoch++;
    }
    pthread_mutex_unlock(&fs_all.changing);
    return r == 1;
}

/* Gives up everything: the last one removes the name, too. Nothing of this process refers to it any more. What cannot be given back,
 * because the segment is damaged, is left as by a death. 1 when it falls to this process to tell the tracker, whose pipe this is,
 * to forget the name: to the maker, or, when there is no name any more, to the last one in any case, for the maker may have been
 * killed before it had told. */
FS_COLD static int fs_member_leave(fs_heap *heap, uint64_t device, uint64_t inode, int is_maker) {
    int is_told = 0;
    pthread_mutex_lock(&fs_all.changing);
    if (heap->process) {
        fs_super *s = heap->super;
        fs_file file = {heap->device, heap->inode};
        int is_last = fs_member_give_up(heap) == 1;
        if (is_last)
            fs_file_unmake(heap->path, &file);
        if (is_last)
            is_told = inode && s->tracker_inode == inode && !fs_has_name(heap);
        else if (is_maker)
            is_told = inode && s->tracker_inode == inode && fs_exchange(&s->tracker_device, 0) == device;
    }
    heap->process = 0;
    fs_unmap(heap);
    fs_member_spare(heap);
    pthread_mutex_unlock(&fs_all.changing);
    return is_told;
}

/* The one after `at` that is not spare, NULL after the last. For a forked child, as long as it has one thread. */
FS_COLD static fs_heap *fs_member_next(int *at) {
    while (*at < fs_all.count)
        if (!fs_all.spare[(*at)++])
            return fs_all.heap[*at - 1];
    return NULL;
}

#endif
