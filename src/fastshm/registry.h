/* registry.h: who is attached, and what each process holds.
 *
 *   super->processes -> fs_process -> fs_process -> ...      one record a process, newest first
 *                        slot[] , more -> fs_handles -> ...  its handle slots: each owns one reference
 *
 * A process is alive while its id's byte is claimed. Its Python handles each own a slot of its record, so what it held can be
 * given back after its death, exactly (reap.h).
 *
 * A thread has an id of its own, taken at its first change and given up when it ends.
 *
 * Fork: BEFORE the fork the parent makes the child's record, id and claiming description, with a reference for every handle the
 * child will inherit. There is no instant at which the child lives and holds nothing. Where no description can be opened, the
 * child claims its id as a process, while the parent shares it.
 *
 * A pickled handle is a ticket: a block that owns a reference and is owned by the bytes. The first to unpickle takes it over;
 * whoever unpickles the same bytes again finds the object by its serial, as long as somebody still holds it.
 */
#ifndef FASTSHM_REGISTRY_H
#define FASTSHM_REGISTRY_H

#include "alloc.h"

static int fs_new_id(fs_heap *heap, int live_fd, uint32_t *out) {
    for (int tries = 0;; tries++) {
        uint32_t id = fs_load_relaxed(&heap->super->next_id);
        if (id >= FS_LAST_ID || !id)
            return FS_OVERFLOW;
        id = fs_fetch_add(&heap->super->next_id, 1);
        if (id >= FS_LAST_ID)
            return FS_OVERFLOW;
        if (fs_claim(live_fd, heap->by_process, id) == 0) {
            *out = id;
            return FS_OK;
        }
        if (errno != EAGAIN && errno != EACCES)
            return FS_SYSTEM;
        if (tries > 2000) /* somebody who believed to be the last holds all numbers: either the name goes, or we may come in */
            return FS_GONE;
        struct timespec t = {0, 1000000};
        nanosleep(&t, NULL);
    }
}

/* --- handle slots: numbered, because a forked child's lie elsewhere ------------------------------------------------------- */

static uint64_t fs_slot_offset(const fs_heap *heap, uint64_t slot) {
    if (slot < FS_HANDLES_INLINE)
        return heap->process + offsetof(fs_process, slot) + 8 * slot;
    slot -= FS_HANDLES_INLINE;
    return heap->chunks[slot / FS_HANDLES_CHUNK] + offsetof(fs_handles, slot) + 8 * (slot % FS_HANDLES_CHUNK);
}

static uint64_t *fs_slot_word(fs_heap *heap, uint64_t slot) { return (uint64_t *)(heap->base + fs_slot_offset(heap, slot)); }

/* Private room for the numbers of `room` slots: all of them may be free at once. */
static int fs_slots_room(fs_heap *heap, uint64_t room) {
    if (room <= heap->free_room)
        return FS_OK;
    uint64_t *more = realloc(heap->free_slots, room * sizeof(uint64_t));
    if (!more)
        return FS_PRIVATE_NOMEM;
    heap->free_slots = more;
    heap->free_room = room;
    return FS_OK;
}

static void fs_slots_learn(fs_heap *heap, uint64_t first, unsigned count) {
    for (unsigned i = count; i-- > 0;)
        heap->free_slots[heap->free_count++] = first + i;
}

/* At least `count` unused handle slots. The private lists have no lock of their own: call it with the interpreter lock only. */
static int fs_slots_reserve(const fs_self *me, uint64_t count) {
    fs_heap *heap = me->heap;
    while (fs_unlikely(heap->free_count < count)) {
        fs_block *b;
        uint64_t n = heap->chunk_count, *more, *chunks = realloc(heap->chunks, (n + 1) * sizeof(uint64_t));
        if (!chunks)
            return FS_PRIVATE_NOMEM;
        heap->chunks = chunks;
        int r = fs_slots_room(heap, FS_HANDLES_INLINE + (n + 1) * FS_HANDLES_CHUNK);
        if (r != FS_OK)
            return r;
        more = n ? &((fs_handles *)(heap->base + chunks[n - 1]))->more : &((fs_process *)(heap->base + heap->process))->more;
        r = fs_alloc_to(me, sizeof(fs_handles) - FS_HEADER, FS_RAW, more, &b);
        if (r != FS_OK)
            return r;
        memset((char *)b + FS_HEADER, 0, sizeof(fs_handles) - FS_HEADER);
        fs_crash_order();
        fs_store_release(&b->kind, FS_HANDLES);
        chunks[heap->chunk_count++] = fs_offset(heap, b);
        fs_slots_learn(heap, FS_HANDLES_INLINE + n * FS_HANDLES_CHUNK, FS_HANDLES_CHUNK);
    }
    return FS_OK;
}

static inline void fs_slot_unuse(fs_heap *heap, uint64_t slot) {
    if (heap->free_count < heap->free_room)
        heap->free_slots[heap->free_count++] = slot;
}

/* A new record at the head of the list. */
static int fs_process_new(const fs_self *me, uint32_t id, uint32_t pid, uint64_t *out) {
    fs_heap *heap = me->heap;
    fs_block *b;
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    r = fs_take(heap, sizeof(fs_process) - FS_HEADER, &b);
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_process *p = (fs_process *)b;
    memset((char *)p + FS_HEADER, 0, sizeof *p - FS_HEADER);
    p->next = heap->super->processes;
    p->id = id;
    p->pid = pid;
    fs_publish(heap, b, FS_PROCESS, &heap->super->processes);
    fs_heap_leave(me);
    *out = fs_offset(heap, b);
    return FS_OK;
}

/* --- joining ------------------------------------------------------------------------------------------------------------- */

/* One more description of the file; -1 when errno tells why there is none. */
FS_COLD static int fs_redescribe(fs_heap *heap) {
    int fd = fs_own_fd(heap, &heap->fd);
    if (fd == -1)
        return -1;
    for (int by_name = 0; by_name < 2; by_name++) {
        int again = by_name ? open(heap->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : fs_reopen(fd);
        if (fs_is_on_file(heap, again))
            return again;
        if (again != -1) {
            close(again);
            errno = ENOENT;
        }
        if (!fs_is_denied(errno))
            return -1;
    }
    return -1;
}

FS_COLD static int fs_pin_claims(fs_heap *heap) {
    if (heap->by_process)
        return FS_OK;
    struct fs_pin *pin = malloc(sizeof *pin);
    if (!pin)
        return FS_PRIVATE_NOMEM;
    pin->page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, heap->live_fd, 0);
    if (pin->page == MAP_FAILED) {
        free(pin);
        return FS_SYSTEM;
    }
    madvise(pin->page, 4096, MADV_DONTFORK);
    pin->next = heap->live_pins;
    heap->live_pins = pin;
    return FS_OK;
}

/* `mapped`: not in a forked child, where there may be something else by now. */
FS_COLD static void fs_unpin_claims(fs_heap *heap, int mapped) {
    for (struct fs_pin *pin = heap->live_pins, *next; pin; pin = next) {
        next = pin->next;
        if (mapped)
            munmap(pin->page, 4096);
        free(pin);
    }
    heap->live_pins = NULL;
}

/* The descriptor that claims our numbers. One that had to be opened anew is pinned like the first, as it may be lost like the
 * first. */
FS_COLD static int fs_live_fd(fs_heap *heap) {
    if (heap->by_process)
        return fs_own_fd(heap, &heap->fd);
    if (!fs_is_on_file(heap, heap->live_fd) && fs_own_fd(heap, &heap->live_fd) != -1 && fs_pin_claims(heap) != FS_OK)
        fs_close_own(heap, &heap->live_fd);
    return heap->live_fd;
}

/* The claim goes, and with it the record, as soon as somebody buries the dead. */
FS_COLD static void fs_join_undo(fs_heap *heap) {
    fs_unpin_claims(heap, 1);
    if (heap->by_process)
        fs_unclaim_all(fs_own_fd(heap, &heap->fd), 1);
    fs_close_own(heap, &heap->live_fd);
    heap->process = 0;
    heap->epoch++;
}

/* Takes a number and makes a record. The mapping is in place. */
FS_COLD static int fs_join_without_slots(fs_heap *heap, int is_child) {
    struct stat st;
    if (!heap->by_process && (heap->live_fd = fs_redescribe(heap)) == -1) {
        if (!is_child || !fs_is_denied(errno))
            return FS_SYSTEM;
        heap->by_process = 1;
    }
    int r = fs_new_id(heap, fs_live_fd(heap), &heap->process_id);
    if (r == FS_OK && (fstat(heap->fd, &st) == -1 || (!st.st_nlink && !heap->nameless)))
        r = FS_GONE;
    if (r == FS_OK)
        r = fs_pin_claims(heap);
    if (r == FS_OK) {
        fs_self me = {heap, heap->process_id, 1};
        do
            r = fs_process_new(&me, heap->process_id, (uint32_t)getpid(), &heap->process);
        while (r == FS_INTERRUPTED);
    }
    if (r != FS_OK)
        fs_join_undo(heap);
    return r;
}

FS_COLD static int fs_join(fs_heap *heap) {
    int r = fs_slots_room(heap, FS_HANDLES_INLINE);
    if (r == FS_OK)
        r = fs_join_without_slots(heap, 0);
    if (r != FS_OK)
        return r;
    heap->free_count = heap->chunk_count = 0;
    fs_slots_learn(heap, 0, FS_HANDLES_INLINE);
    return FS_OK;
}

/* --- handles ------------------------------------------------------------------------------------------------------------- */

/* A zeroed object with its serial; `slot` is a reserved handle slot's word. It gets its gate afterwards. */
static int fs_object_new(const fs_self *me, uint64_t bytes, uint32_t kind, uint64_t *slot, fs_object **out) {
    fs_heap *heap = me->heap;
    fs_block *b;
    int r = fs_alloc_to(me, bytes - FS_HEADER, FS_RAW, slot, &b);
    if (r != FS_OK)
        return r;
    memset((char *)b + FS_HEADER, 0, bytes - FS_HEADER);
    fs_object *o = (fs_object *)b;
    o->serial = fs_fetch_add(&heap->super->serial, 1) + 1;
    fs_crash_order();
    fs_store_release(&b->kind, kind);
    fs_crash_order();
    *out = o;
    return FS_OK;
}

/* One more handle on the object at `offset` that bears `serial`. */
static int fs_object_open(const fs_self *me, uint64_t offset, uint64_t serial, uint64_t *slot) {
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    fs_block *b = fs_block_at(me->heap, offset);
    if (!b || b->kind < FS_CELL || b->kind > FS_LAST_OBJECT || !b->refs || ((fs_object *)b)->serial != serial)
        return fs_heap_fail(me, FS_GONE);
    r = fs_ref_inside(me->heap, b, slot);
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_commit(me->heap);
    fs_heap_leave(me);
    return FS_OK;
}

/* --- tickets ------------------------------------------------------------------------------------------------------------- */

static int fs_ticket_new(const fs_self *me, uint64_t object, uint64_t *offset, uint64_t *serial) {
    fs_heap *heap = me->heap;
    fs_block *b;
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    r = fs_take(heap, sizeof(fs_ticket) - FS_HEADER, &b);
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_ticket *t = (fs_ticket *)b;
    fs_block *o = fs_block_at(heap, object);
    t->serial = *serial = fs_fetch_add(&heap->super->serial, 1) + 1;
    t->target = 0;
    r = o ? fs_ref_inside(heap, o, &t->target) : FS_CORRUPT;
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_set(heap, &b->kind, fs_pair(FS_TICKET, 1));
    fs_commit(heap);
    fs_heap_leave(me);
    *offset = fs_offset(heap, b);
    return FS_OK;
}

/* The ticket's reference becomes the handle's. FS_GONE when the ticket was used before. */
static int fs_ticket_use(const fs_self *me, uint64_t offset, uint64_t serial, uint64_t object, uint64_t *slot) {
    fs_heap *heap = me->heap;
    int r = fs_heap_enter(me);
    if (r < 0)
        return r;
    fs_ticket *t = fs_kind_at(heap, offset, FS_TICKET, sizeof(fs_ticket));
    if (!t || t->serial != serial || t->target != object)
        return fs_heap_fail(me, FS_GONE);
    fs_set(heap, slot, object);
    fs_set(heap, &t->target, 0);
    r = fs_give(heap, &t->block);
    if (r != FS_OK)
        return fs_heap_fail(me, r);
    fs_commit(heap);
    fs_heap_leave(me);
    return FS_OK;
}

/* --- fork ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
    int live_fd;    /* what claims its id, -1 */
    int by_process; /* there can be none: the parent claims the id until the child does so itself */
    uint32_t id;
    uint64_t process; /* 0: none */
    uint64_t epoch;   /* of the heap it was made for */
    int code, error;  /* why there is none: a return code, errno */
} fs_heir;

/* Makes a record's slots refer to what another's do, reference by reference; a death leaves a whole, shorter record. May be
 * done again, for what has changed since. */
static int fs_process_copy(const fs_self *me, uint64_t from, uint64_t to) {
    fs_heap *heap = me->heap;
    uint64_t source = from, target = to;
    fs_trail trail = {0};
    for (int first = 1; source; first = 0) {
        unsigned count = first ? FS_HANDLES_INLINE : FS_HANDLES_CHUNK;
        size_t slots = first ? offsetof(fs_process, slot) : offsetof(fs_handles, slot);
        size_t more = first ? offsetof(fs_process, more) : offsetof(fs_handles, more);
        char *s = fs_at(heap, source, slots + 8 * count), *t = fs_at(heap, target, slots + 8 * count);
        if (!s || !t || fs_goes_round(&trail, source))
            return FS_CORRUPT;
        for (unsigned i = 0; i < count; i++) {
            uint64_t object = ((uint64_t *)(s + slots))[i], *copy = &((uint64_t *)(t + slots))[i];
            int r = *copy && *copy != object ? fs_drop(me, copy) : FS_OK;
            if (r == FS_OK && object && !*copy)
                r = fs_ref_to(me, object, copy);
            if (r != FS_OK)
                return r;
        }
        source = *(uint64_t *)(s + more);
        target = *(uint64_t *)(t + more);
        if (source && !target) {
            fs_block *b;
            int r = fs_alloc_to(me, sizeof(fs_handles) - FS_HEADER, FS_RAW, (uint64_t *)(t + more), &b);
            if (r != FS_OK)
                return r;
            memset((char *)b + FS_HEADER, 0, sizeof(fs_handles) - FS_HEADER);
            fs_crash_order();
            fs_store_release(&b->kind, FS_HANDLES);
            target = fs_offset(heap, b);
        }
    }
    return FS_OK;
}

/* The parent's part of the heir's claim ends. In the child, which is in another epoch, that of what it has not taken up. */
FS_COLD static void fs_heir_release(fs_heap *heap, fs_heir *heir) {
    int e = errno, fd = fs_claims_fd(heap);
    if (heir->live_fd != -1)
        close(heir->live_fd);
    if (heir->by_process && heir->id && heir->epoch == heap->epoch && fs_is_on_file(heap, fd))
        fs_unclaim(fd, heap->by_process, heir->id);
    heir->live_fd = -1;
    heir->process = heir->id = 0;
    errno = e;
}

/* In the parent, before the fork. On failure the heir is empty, and what was made of it dies with its claim. */
FS_COLD static int fs_heir_make(const fs_self *me, fs_heir *heir) {
    fs_heap *heap = me->heap;
    *heir = (fs_heir){.live_fd = -1, .by_process = heap->by_process, .epoch = heap->epoch};
    fs_live_fd(heap); /* so that the heir's descriptor does not get the number of a lost one */
    if (!heir->by_process && (heir->live_fd = fs_redescribe(heap)) == -1) {
        if (!fs_is_denied(errno))
            return FS_SYSTEM;
        heir->by_process = 1;
    }
    int fd = heir->by_process ? fs_live_fd(heap) : heir->live_fd, r = fs_new_id(heap, fd, &heir->id);
    if (r == FS_OK && heir->by_process && fs_claim_shared(fd, heap->by_process, heir->id) == -1)
        r = FS_SYSTEM;
    if (r == FS_OK)
        r = fs_process_new(me, heir->id, 0, &heir->process);
    if (r == FS_OK)
        r = fs_process_copy(me, heap->process, heir->process);
    if (r != FS_OK)
        fs_heir_release(heap, heir);
    return r;
}

/* In the child: the record in place of the parent's, with the same slot numbers. */
FS_COLD static int fs_chunks_find(fs_heap *heap) {
    uint64_t at = ((fs_process *)(heap->base + heap->process))->more;
    for (uint64_t i = 0; i < heap->chunk_count; i++) {
        fs_handles *h = fs_at(heap, at, sizeof(fs_handles));
        if (!h)
            return FS_CORRUPT;
        heap->chunks[i] = at;
        at = h->more;
    }
    return FS_OK;
}

/* In the child, when it has closed its parent's claims: any descriptor of the file that it closes ends its own. The record is ours
 * if the parent claims the number still, for then it has been claimed all the time. FS_GONE: else others may have buried it. */
FS_COLD static int fs_heir_claim(fs_heap *heap, uint32_t id) {
    int fd = fs_own_fd(heap, &heap->fd), r;
    if (fd == -1)
        return FS_SYSTEM;
    if (fs_claim_shared(fd, 1, id) == -1)
        return errno == EAGAIN || errno == EACCES ? FS_GONE : FS_SYSTEM;
    if ((r = fs_is_shared(fd, 1, id)) == 1)
        return FS_OK;
    fs_unclaim(fd, 1, id);
    return r ? FS_SYSTEM : FS_GONE;
}

FS_COLD static int fs_heir_enter(fs_heap *heap, const fs_heir *heir) {
    heap->live_fd = heir->live_fd;
    heap->by_process = heir->by_process;
    int r = heap->by_process ? fs_heir_claim(heap, heir->id) : fs_pin_claims(heap);
    if (r == FS_OK) {
        heap->process_id = heir->id;
        heap->process = heir->process;
        ((fs_process *)(heap->base + heap->process))->pid = (uint32_t)getpid();
        r = fs_chunks_find(heap);
    }
    if (r != FS_OK) {
        fs_unpin_claims(heap, 1);
        if (heap->by_process)
            fs_unclaim_all(heap->fd, 1);
        heap->live_fd = -1;
        heap->process = 0;
    }
    return r;
}

/* In a child that was forked behind our back: a record of its own, with references for what the parent still holds. */
FS_COLD static int fs_heir_orphan(fs_heap *heap, uint64_t parent, uint32_t parent_id) {
    uint64_t free_count = heap->free_count, chunk_count = heap->chunk_count;
    int r = fs_join_without_slots(heap, 1);
    if (r != FS_OK)
        return r;
    fs_self me = {heap, heap->process_id, 1};
    fs_process *p = fs_kind_at(heap, parent, FS_PROCESS, sizeof(fs_process));
    r = p && p->id == parent_id ? FS_OK : FS_GONE;
    if (r == FS_OK)
        do
            r = fs_process_copy(&me, parent, heap->process);
        while (r == FS_INTERRUPTED);
    heap->free_count = free_count;
    heap->chunk_count = chunk_count;
    if (r == FS_OK)
        r = fs_chunks_find(heap);
    if (r != FS_OK)
        fs_join_undo(heap);
    return r;
}

#endif
