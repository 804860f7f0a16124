/* identity.h: which number the calling thread has, and what becomes of it at a fork and at the thread's end.
 *
 *   thread's cache        { heap, epoch, id }   hit: two compares
 *   thread's list         one of those for each segment it has changed; its end gives the numbers back
 *   forked child          every heap is in a new epoch, so that no cache hits; see "fork" below
 */
#ifndef FASTSHM_IDENTITY_H
#define FASTSHM_IDENTITY_H

#include "reap.h"

#include <poll.h>
#include <pthread.h>

static __thread struct {
    fs_heap *heap;
    uint64_t epoch;
    uint32_t id;
} fs_cached __attribute__((tls_model("initial-exec")));

static inline int fs_me(fs_heap *heap, fs_self *me);

#ifdef FASTSHM_IDENTITY_ELSEWHERE
static int (*fs_identify)(fs_heap *heap, uint32_t *id); /* another extension's, which keeps the lists */
#else

typedef struct fs_identity {
    fs_heap *heap;
    uint64_t epoch;
    uint32_t id;
    struct fs_identity *next;
} fs_identity;

#define FS_MOST_HEAPS 1024

static struct {
    fs_heap *heap[FS_MOST_HEAPS];
    uint64_t parent[FS_MOST_HEAPS]; /* in a forked child without an heir: the parent's record, and its id */
    uint32_t parent_id[FS_MOST_HEAPS];
    char spare[FS_MOST_HEAPS]; /* left: free for the next segment (membership.h) */
    int count;
    pthread_key_t key;
    int ready;
    pthread_mutex_t changing; /* held by who joins or leaves a segment, and by who forks. Outermost: who holds it may wait for shared
                                 locks, and never waits for the interpreter lock, so that it may be waited for with that one held */
} fs_all = {.changing = PTHREAD_MUTEX_INITIALIZER};

static void fs_thread_ends(void *list) {
    fs_cached.heap = NULL;
    pthread_mutex_lock(&fs_all.changing); /* else the descriptor might be another segment's by the time that it is used */
    for (fs_identity *i = list, *next; i; i = next) {
        next = i->next;
        if (i->epoch == i->heap->epoch && fs_is_on_file(i->heap, fs_claims_fd(i->heap)))
            fs_unclaim(fs_claims_fd(i->heap), i->heap->by_process, i->id);
        free(i);
    }
    pthread_mutex_unlock(&fs_all.changing);
}

/* --- fork ----------------------------------------------------------------------------------------------------------------
 *
 *   fs_fork_before   in the thread that is about to fork, when it can still wait: an heir for each heap
 *   prepare          in fork() itself: what other threads have changed since, and heirs for the segments that they have joined since
 *   child            closes the parent's claims, moves every heap to a new epoch, takes up the heirs
 *   parent           waits for the child, if that has to claim numbers itself, and gives up its part of the heirs' claims: from now
 *                    on they are the child's alone
 *
 * No other thread joins or leaves a segment during the first, nor from prepare to the end of the fork.
 *
 * Where an heir could not be made, the child shuts its heap: what its parent lets go of may be another object by the time that
 * the child looks. A fork without fs_fork_before has no heirs: that child makes its records when it first needs them
 * (fs_heir_orphan). */

static __thread fs_heir *fs_heirs; /* of this thread's next child, by the number of the heap */
static __thread int fs_heir_count;
static __thread int fs_fork_is_prepared;
static __thread int fs_birth[2] = {-1, -1}; /* a pipe: the child closes it when it has claimed its numbers, or dies */

static void fs_heirs_discard(void) {
    for (int i = 0; i < fs_heir_count; i++)
        fs_heir_release(fs_all.heap[i], &fs_heirs[i]);
    free(fs_heirs);
    fs_heirs = NULL;
    fs_heir_count = fs_fork_is_prepared = 0;
}

/* An heir for each heap that there is now. Those that are new are blank. */
static void fs_heirs_grow(void) {
    fs_heir *more = fs_heir_count < fs_all.count ? realloc(fs_heirs, (size_t)fs_all.count * sizeof(fs_heir)) : NULL;
    if (!more)
        return;
    for (fs_heirs = more; fs_heir_count < fs_all.count; fs_heir_count++)
        fs_heirs[fs_heir_count] = (fs_heir){.live_fd = -1, .code = FS_OK};
}

static void fs_heir_begin(fs_heap *heap, fs_heir *heir, int bury) {
    fs_self me;
    *heir = (fs_heir){.live_fd = -1, .epoch = heap->epoch, .code = FS_OK};
    if (!heap->process)
        return;
    if ((heir->code = fs_me(heap, &me)) == FS_OK) {
        me.wait = 1;
        if (bury)
            fs_bury(&me);
        while ((heir->code = fs_heir_make(&me, heir)) == FS_INTERRUPTED)
            ;
    }
    heir->error = errno;
}

FS_UNUSED static void fs_fork_before(void) {
    pthread_mutex_lock(&fs_all.changing);
    fs_heirs_discard();
    fs_fork_is_prepared = 1;
    fs_heirs_grow();
    for (int i = 0; i < fs_heir_count; i++)
        fs_heir_begin(fs_all.heap[i], &fs_heirs[i], 1);
    pthread_mutex_unlock(&fs_all.changing);
}

static void fs_birth_prepare(void) {
    int error = 0;
    for (int i = 0; i < fs_heir_count; i++) {
        fs_heir *heir = &fs_heirs[i];
        if (!heir->by_process || !heir->process)
            continue;
        if (fs_birth[0] == -1 && !error && pipe2(fs_birth, O_CLOEXEC) == -1)
            error = errno;
        if (error) {
            heir->process = 0;
            heir->code = FS_SYSTEM;
            heir->error = error;
        }
    }
}

static void fs_birth_end(void) {
    for (int i = 0; i < 2; i++) {
        if (fs_birth[i] != -1)
            close(fs_birth[i]);
        fs_birth[i] = -1;
    }
}

/* The child claims its numbers at once, so this is short. One that does not come to it for ten seconds is left to itself: it will
 * find that they are not shared any more. In many small waits, for both may be stopped together. */
static void fs_birth_await(void) {
    if (fs_birth[0] == -1)
        return;
    close(fs_birth[1]);
    fs_birth[1] = -1;
    struct pollfd end = {.fd = fs_birth[0]};
    for (int naps = 0; naps < 100; naps++) {
        int r = poll(&end, 1, 100);
        if (r == 1 || (r == -1 && errno != EINTR))
            break;
    }
    fs_birth_end();
}

static void fs_fork_prepare(void) {
    pthread_mutex_lock(&fs_all.changing);
    if (!fs_fork_is_prepared)
        return;
    fs_heirs_grow();
    for (int i = 0; i < fs_heir_count; i++) {
        fs_heap *heap = fs_all.heap[i];
        fs_heir *heir = &fs_heirs[i];
        fs_self me;
        int r;
        if (heap->epoch != heir->epoch || (heap->process && !heir->process && heir->code == FS_OK)) {
            fs_heir_release(heap, heir); /* of a segment that was left since */
            fs_heir_begin(heap, heir, 0);
        } else if (heir->process) {
            if ((r = fs_me(heap, &me)) == FS_OK) {
                me.wait = 1;
                do
                    r = fs_process_copy(&me, heap->process, heir->process);
                while (r == FS_INTERRUPTED);
            }
            if (r != FS_OK) {
                heir->process = 0;
                heir->code = r;
                heir->error = errno;
            }
        }
    }
    fs_birth_prepare();
}

/* The child's part of one heap, which its parent has joined. */
static void fs_fork_take_up(fs_heap *heap, int i) {
    fs_heir *heir = i < fs_heir_count ? &fs_heirs[i] : NULL;
    int r = heir ? heir->code : FS_PRIVATE_NOMEM;
    if (heir && heir->process) {
        r = fs_heir_enter(heap, heir);
        heir->error = errno;
    }
    if (r == FS_OK && heir && heir->process) {
        heir->live_fd = -1; /* the heap's now */
        return;
    }
    heap->shut_code = r;
    heap->shut_errno = heir ? heir->error : 0;
    fs_shut(heap, FS_SHUT_FORKED);
}

static void fs_fork_in_parent(void) {
    fs_birth_await();
    fs_heirs_discard();
    pthread_mutex_unlock(&fs_all.changing);
}

static void fs_fork_in_child(void) {
    for (int i = 0; i < fs_all.count; i++) {
        fs_heap *heap = fs_all.heap[i];
        heap->epoch++;
        fs_close_own(heap, &heap->live_fd);
        fs_unpin_claims(heap, 0);
        if (!heap->process)
            continue;
        fs_all.parent[i] = fs_fork_is_prepared ? 0 : heap->process;
        fs_all.parent_id[i] = heap->process_id;
        heap->process = 0;
        if (fs_fork_is_prepared)
            fs_fork_take_up(heap, i);
    }
    fs_heirs_discard();
    fs_birth_end();
    pthread_mutex_unlock(&fs_all.changing);
}

FS_UNUSED static int fs_identity_start(void) {
    if (!fs_all.ready) {
        if (pthread_key_create(&fs_all.key, fs_thread_ends) ||
            pthread_atfork(fs_fork_prepare, fs_fork_in_parent, fs_fork_in_child))
            return FS_SYSTEM;
        fs_all.ready = 1;
    }
    return FS_OK;
}

FS_UNUSED static int fs_heap_register(fs_heap *heap) {
    if (fs_all.count == FS_MOST_HEAPS)
        return FS_NOMEM;
    fs_all.parent[fs_all.count] = 0;
    fs_all.spare[fs_all.count] = 0;
    fs_all.heap[fs_all.count++] = heap;
    return FS_OK;
}

FS_COLD static int fs_identify(fs_heap *heap, uint32_t *id) {
    if (!heap->process) {
        int i = 0;
        while (i < fs_all.count && fs_all.heap[i] != heap)
            i++;
        if (i == fs_all.count || !fs_all.parent[i])
            return FS_GONE;
        int r = fs_heir_orphan(heap, fs_all.parent[i], fs_all.parent_id[i]);
        if (r != FS_OK)
            return r;
    }
    fs_identity *list = pthread_getspecific(fs_all.key), *mine = NULL;
    for (fs_identity *i = list; i; i = i->next)
        if (i->heap == heap)
            mine = i;
    if (!mine) {
        if (!(mine = calloc(1, sizeof *mine)))
            return FS_PRIVATE_NOMEM;
        mine->heap = heap;
        mine->epoch = heap->epoch - 1;
        mine->next = list;
        if (pthread_setspecific(fs_all.key, mine)) {
            free(mine);
            return FS_PRIVATE_NOMEM;
        }
    }
    if (mine->epoch != heap->epoch) {
        int r = fs_new_id(heap, fs_live_fd(heap), &mine->id);
        if (r != FS_OK)
            return r;
        mine->epoch = heap->epoch;
    }
    *id = mine->id;
    return FS_OK;
}

/* Is this the number of a thread of this process? */
FS_UNUSED static int fs_is_ours(fs_heap *heap, uint32_t id) {
    return fs_is_shared(fs_claims_fd(heap), heap->by_process, id) == 0 && fs_alive(heap, id);
}

#endif

/* The calling thread's number in this segment. */
static inline int fs_me(fs_heap *heap, fs_self *me) {
    me->heap = heap;
    me->wait = 0;
    if (fs_likely(fs_cached.heap == heap && fs_cached.epoch == heap->epoch)) {
        me->id = fs_cached.id;
        return FS_OK;
    }
    int r = fs_identify(heap, &me->id);
    if (r == FS_OK) {
        fs_cached.heap = heap;
        fs_cached.epoch = heap->epoch;
        fs_cached.id = me->id;
    }
    return r;
}

/* The calling thread's number and a lock, where nothing is in the way: else 0, and nothing was done. */
static inline int fs_enter_free(fs_heap *heap, fs_lock *l, fs_self *me) {
    me->heap = heap;
    me->wait = 0;
    if (fs_unlikely(fs_cached.heap != heap || fs_cached.epoch != heap->epoch))
        return 0;
    me->id = fs_cached.id;
    return fs_load_relaxed(&l->word) == 0 && fs_cas_u32(&l->word, 0, me->id);
}

#endif
