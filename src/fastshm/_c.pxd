"""The C layer as Cython sees it. Fields are named only where Cython touches them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "segment.h" nogil:
    enum:
        FS_OK, FS_NESTED, FS_TAKEN_OVER, FS_MISSING, FS_EXISTS
        FS_BUSY, FS_TIMEOUT, FS_INTERRUPTED, FS_NOMEM, FS_CORRUPT, FS_GONE, FS_NOT_OWNER, FS_RANGE, FS_TYPE
        FS_OVERFLOW, FS_CHANGED, FS_SYSTEM, FS_PRIVATE_NOMEM
        FS_WHY_NONE, FS_WHY_OWNER, FS_WHY_MODE, FS_WHY_KIND, FS_WHY_SHORT, FS_WHY_MAGIC, FS_WHY_STAMP, FS_WHY_SIZE
        FS_WHY_PAGES
        FS_CELL, FS_ARRAY, FS_MUTEX, FS_TABLE, FS_VECTOR, FS_GATE, FS_LAST_OBJECT
        FS_SEMAPHORE, FS_EVENT, FS_BOUNDED, FS_WAITERS, FS_BARRIER, FS_COUNTER
        FS_HOLD_ABANDONED, FS_HOLD_QUIET, FS_HOLD_COUNT, FS_LOCK_OWNER
        FS_ARRAY_DATA, FS_FIRST, FS_MAGIC, FS_HANDLES_INLINE, FS_HANDLES_CHUNK

    ctypedef struct fs_lock:
        uint32_t word
        uint32_t hold
        uint64_t version

    ctypedef struct fs_block:
        uint32_t size
        uint32_t kind
        uint32_t refs

    ctypedef struct fs_object:
        fs_block block
        uint64_t serial
        fs_lock lock
        uint64_t gate

    ctypedef struct fs_cell:
        fs_object o
        uint64_t value
        uint32_t typecode
        uint32_t turn

    ctypedef struct fs_array:
        fs_object o
        uint64_t items
        uint64_t count
        uint32_t itemsize
        uint32_t typecode
        uint32_t turn

    ctypedef struct fs_super:
        uint64_t magic
        uint64_t size
        uint64_t committed
        uint64_t dying
        uint64_t root
        uint32_t kept
        fs_lock reaper
        uint64_t tracker_device
        uint64_t tracker_inode
        uint64_t processes
        uint64_t serial

    ctypedef struct fs_switch:
        pass

    enum:
        FS_SHUT_LEFT, FS_SHUT_FORKED

    void fs_switch_set(fs_heap *heap, fs_switch *s, const uint64_t **closed, const uint64_t *by)
    void fs_switch_end(fs_switch *s)
    void fs_shut(fs_heap *heap, uint64_t why)

    ctypedef struct fs_heap:
        char *base
        bint nameless
        fs_super *super
        uint64_t limit
        uint64_t size
        uint64_t device
        uint64_t inode
        int fd
        int live_fd
        uint32_t process_id
        uint64_t process
        uint64_t shut
        int shut_code
        int shut_errno
        uint64_t epoch
        uint64_t *free_slots
        uint64_t free_count
        uint64_t chunk_count

    ctypedef struct fs_self:
        fs_heap *heap
        uint32_t id
        int wait

    uint64_t fs_load_acquire(uint64_t *p)
    uint64_t fs_load_relaxed(uint64_t *p)
    uint32_t fs_load_u32 "fs_load_relaxed"(uint32_t *p)
    void fs_store_release(uint64_t *p, uint64_t v)
    int64_t fs_now()
    int fs_alive(fs_heap *heap, uint32_t id)
    bint fs_has_name(const fs_heap *heap)
    int fs_claim_all(int fd, bint by_process)
    uint64_t fs_exchange(uint64_t *p, uint64_t value)
    int fs_probe_all(int fd)
    int fs_cas_u32(uint32_t *p, uint32_t expected, uint32_t desired)

    int fs_lock_try(fs_heap *heap, fs_lock *l, uint32_t id)
    void fs_segment_named(fs_heap *heap, const char *path)
    int fs_lock_wait(fs_heap *heap, fs_lock *l, uint32_t id, int64_t deadline)
    int fs_enter(const fs_self *me, fs_lock *l)
    void fs_leave(const fs_self *me, fs_lock *l)
    void fs_leave_slow(fs_lock *l)
    void fs_leave_entered(const fs_self *me, fs_lock *l, int entered)
    void fs_crash_order()
    int fs_is_mine(const fs_self *me, const fs_lock *l)
    uint64_t fs_read_begin(const fs_lock *l)
    int fs_read_valid(const fs_lock *l, uint64_t version)
    void fs_hold_begin(fs_lock *l, int entered, uint32_t flags)
    int fs_hold_end(const fs_self *me, fs_lock *l)
    void fs_settle(fs_lock *l)

    int fs_drop(const fs_self *me, uint64_t *slot)
    int fs_ref_first(const fs_self *me, uint64_t offset, uint64_t *slot)
    int fs_ref_to(const fs_self *me, uint64_t offset, uint64_t *slot)
    uint64_t fs_offset(const fs_heap *heap, const void *p)

    fs_block *fs_block_at(fs_heap *heap, uint64_t offset)
    void *fs_kind_at(fs_heap *heap, uint64_t offset, uint32_t kind, uint64_t length)
    uint64_t fs_kind_size(uint32_t kind)
    uint64_t fs_room(const fs_heap *heap, const fs_block *b)
    int fs_heap_enter(const fs_self *me)
    void fs_heap_leave(const fs_self *me)
    int fs_slots_reserve(const fs_self *me, uint64_t count)
    void fs_slot_unuse(fs_heap *heap, uint64_t slot)
    uint64_t fs_slot_offset(const fs_heap *heap, uint64_t slot)
    uint64_t *fs_slot_word(fs_heap *heap, uint64_t slot)
    int fs_object_new(const fs_self *me, uint64_t size, uint32_t kind, uint64_t *slot, fs_object **out)
    int fs_object_open(const fs_self *me, uint64_t offset, uint64_t serial, uint64_t *slot)
    int fs_ticket_new(const fs_self *me, uint64_t obj, uint64_t *offset, uint64_t *serial)
    int fs_ticket_use(const fs_self *me, uint64_t offset, uint64_t serial, uint64_t obj, uint64_t *slot)

    int fs_segment_is_kept(int fd)
    int fs_segment_inspect(int fd, uint64_t *size)

cdef extern from "identity.h" nogil:
    int fs_identity_start()
    void fs_fork_before()
    int fs_identify(fs_heap *heap, uint32_t *id)
    int fs_me(fs_heap *heap, fs_self *me)
    bint fs_enter_free(fs_heap *heap, fs_lock *l, fs_self *me)

cdef extern from "reap.h" nogil:
    int fs_reap(const fs_self *me)
    int fs_bury(const fs_self *me)
    int fs_object_settle(const fs_self *me, fs_object *o)

cdef extern from "check.h" nogil:
    ctypedef struct fs_census:
        uint64_t size
        uint64_t committed
        uint64_t bytes_used
        uint64_t bytes_free
        uint64_t blocks
        uint64_t cells
        uint64_t arrays
        uint64_t locks
        uint64_t tables
        uint64_t vectors
        uint64_t gates
        uint64_t semaphores
        uint64_t events
        uint64_t conditions
        uint64_t barriers
        uint64_t counters
        uint64_t tickets
        uint64_t processes
        uint64_t handles

    int fs_check(const fs_self *me, fs_census *out, const char **broken)

cdef extern from "semaphore.h" nogil:
    const uint32_t FS_MOST_PERMITS

    uint32_t fs_turn_watch(uint32_t *turn, const fs_patience *p)
    int fs_nap(uint32_t *word, uint32_t seen, fs_patience *p)
    ctypedef struct fs_patience:
        int64_t deadline
        int naps

    ctypedef struct fs_semaphore:
        fs_object o
        uint32_t value

    int fs_semaphore_try(fs_semaphore *s)
    int fs_semaphore_wait(fs_semaphore *s, fs_patience *p)
    int fs_semaphore_give(fs_semaphore *s)
    int fs_event_is_set(const fs_semaphore *e)
    void fs_event_set(fs_semaphore *e)
    void fs_event_clear(fs_semaphore *e)
    int fs_event_wait(fs_semaphore *e, uint32_t since, fs_patience *p)

cdef extern from "bounded.h" nogil:
    ctypedef struct fs_bounded:
        fs_object o
        uint32_t bound

    int fs_bounded_start(const fs_self *me, fs_bounded *b, uint32_t bound)
    int fs_bounded_try(const fs_self *me, fs_bounded *b)
    int fs_bounded_wait(const fs_self *me, fs_bounded *b, fs_patience *p)
    int fs_bounded_give(const fs_self *me, fs_bounded *b)
    int fs_bounded_value(const fs_self *me, fs_bounded *b, uint32_t *value)

cdef extern from "waiters.h" nogil:
    ctypedef struct fs_waiters:
        fs_object o

    int fs_waiters_join(const fs_self *me, fs_waiters *w, uint64_t *n)
    int fs_waiters_wait(const fs_self *me, fs_waiters *w, uint64_t n, fs_patience *p)
    int fs_waiters_give_up(const fs_self *me, fs_waiters *w, uint64_t n)
    int fs_waiters_done(const fs_self *me, fs_waiters *w, uint64_t n, int give)
    int fs_waiters_notify(const fs_self *me, fs_waiters *w, uint64_t n)
    uint64_t fs_waiters_count(fs_heap *heap, const fs_waiters *w)

cdef extern from "barrier.h" nogil:
    enum:
        FS_FILLING, FS_ACTION, FS_BARRIER_BROKEN, FS_STAYS, FS_PASSES, FS_ACTS
    const uint64_t FS_NO_PLACE

    ctypedef struct fs_barrier:
        fs_object o
        uint32_t phase
        int64_t parties
        uint64_t room

    uint64_t fs_barrier_inside(const fs_heap *heap, const fs_barrier *b)
    int fs_barrier_arrive(const fs_self *me, fs_barrier *b, int has_action, uint64_t *place, uint64_t *index, int *fate)
    int fs_barrier_acted(const fs_self *me, fs_barrier *b, uint64_t place)
    int fs_barrier_leave(const fs_self *me, fs_barrier *b, uint64_t place)
    int fs_barrier_late(const fs_self *me, fs_barrier *b)
    int fs_barrier_abort(const fs_self *me, fs_barrier *b)
    int fs_barrier_reset(const fs_self *me, fs_barrier *b)
    int fs_barrier_wait(const fs_self *me, fs_barrier *b, uint64_t place, fs_patience *p)

cdef extern from "item.h" nogil:
    enum:
        FS_SIGNED, FS_UNSIGNED, FS_DOUBLE, FS_FLOAT, FS_CHAR, FS_WIDE, FS_BOOL, FS_BYTES_ONLY
        FS_PLUS, FS_MINUS, FS_AND, FS_OR, FS_XOR, FS_MAX, FS_MIN

    uint64_t fs_item_read(const void *p, uint32_t size)
    void fs_item_write(void *p, uint32_t size, uint64_t word)
    uint64_t fs_item_bits(uint32_t size, uint64_t word)
    int64_t fs_item_signed(uint32_t size, uint64_t word)
    double fs_item_double(uint64_t word)
    float fs_item_float(uint64_t word)
    uint64_t fs_double_item(double x)
    uint64_t fs_float_item(float x)
    int fs_can_change(int form, int what)
    uint64_t fs_item_change(void *p, int form, uint32_t size, int what, uint64_t b)

cdef extern from "cell.h" nogil:
    const int FS_ALL

    ctypedef int (*fs_item_look)(const fs_self *me, fs_object *o, uint64_t which, uint32_t size, int64_t deadline,
                                 uint64_t *word)
    int fs_item_wait(const fs_self *me, fs_object *o, uint32_t *turn, fs_item_look look, uint64_t which, uint32_t size,
                     uint64_t old, fs_patience *p)
    int fs_cell_look(const fs_self *me, fs_object *o, uint64_t which, uint32_t size, int64_t deadline, uint64_t *word)
    void fs_item_notify(uint32_t *turn, int count)

cdef extern from "counter.h" nogil:
    const uint64_t FS_MOST_STRIPES

    ctypedef struct fs_counter:
        fs_object o
        uint64_t stripes

    uint64_t fs_counter_bytes(uint64_t stripes)
    int fs_stripes_fit(uint64_t stripes, uint64_t room)
    void fs_counter_start(fs_counter *c, uint64_t stripes, uint64_t value)
    void fs_counter_add(fs_counter *c, unsigned bits, uint32_t id, uint64_t n)
    int fs_counter_value(const fs_counter *c, unsigned bits, uint64_t *value)
    int fs_counter_exchange(fs_counter *c, unsigned bits, uint64_t value, uint64_t *old)

cdef extern from "array.h" nogil:
    ctypedef struct fs_run:
        char *p
        uint64_t items
        uint64_t count
        uint64_t capacity
        uint64_t size

    int fs_run_make(fs_heap *heap, fs_array *a, fs_run *run)
    bint fs_array_is_settled(const fs_array *a)
    int fs_array_entered(const fs_self *me, fs_array *a, int entered)
    int fs_array_enter(const fs_self *me, fs_array *a)
    void fs_array_leave(const fs_self *me, fs_object *o, int entered)
    int fs_array_write(const fs_self *me, fs_array *a, uint64_t size, uint64_t first, uint64_t step, uint64_t count,
                       const void *source)
    int fs_array_fill(const fs_self *me, fs_array *a, uint64_t size, const void *source)
    int fs_array_change(const fs_self *me, fs_array *a, uint64_t size, int form, uint32_t unit, int what, uint64_t first,
                        uint64_t count, const void *source)
    int fs_array_extend(const fs_self *me, fs_array *a, uint64_t size, uint64_t count, const void *source)
    int fs_array_resize(const fs_self *me, fs_array *a, uint64_t size, uint64_t count)
    int fs_array_look(const fs_self *me, fs_object *o, uint64_t which, uint32_t size, int64_t deadline, uint64_t *word)
    int fs_array_pin(const fs_self *me, fs_array *a, uint64_t *slot, fs_run *run)

cdef extern from "list.h" nogil:
    enum:
        FS_V_ABSENT, FS_V_NONE, FS_V_BOOL, FS_V_INT, FS_V_FLOAT, FS_V_ASCII, FS_V_UTF8, FS_V_BYTES, FS_V_OWNING
        FS_V_ASCII_BLOB, FS_V_UTF8_BLOB, FS_V_BYTES_BLOB, FS_V_BYTEARRAY_BLOB, FS_V_NDARRAY_BLOB
        FS_V_PICKLE_BLOB, FS_V_PICKLE_BUNDLE, FS_V_PICKLE_BUFFERS, FS_V_OBJECT, FS_V_SHARED, FS_V_LAST
        FS_LARGE
        FS_K_NONE, FS_K_INT, FS_K_FLOAT, FS_K_STR, FS_K_BYTES, FS_K_BIG, FS_K_TUPLE, FS_K_FROZENSET, FS_K_COMPLEX
        FS_K_RATIONAL, FS_K_OTHER
        FS_D_SAME, FS_D_BOOL, FS_D_FLOAT, FS_D_MINUS_ZERO, FS_D_PICKLE
        FS_KEY_IN_BLOB
        FS_SET_ITEM, FS_INSERT_ITEM, FS_DELETE_ITEM, FS_EXTEND, FS_EXTEND_WORDS
        FS_PUT, FS_PUT_IF_ABSENT, FS_ADD
    const uint64_t FS_ANY_STAMP

    ctypedef struct fs_value:
        uint32_t kind
        uint32_t length
        uint64_t value
        const void *data
        uint64_t size
        const uint64_t *refs
        uint64_t ref_count
        uint64_t made

    ctypedef struct fs_glance:
        uint64_t version

    ctypedef struct fs_seen:
        uint32_t kind
        uint32_t length
        uint64_t value
        const unsigned char *data
        uint64_t size

    ctypedef struct fs_copy:
        uint32_t kind
        uint32_t length
        uint64_t value
        unsigned char *data
        uint64_t size

    ctypedef struct fs_bundle:
        fs_block block
        uint64_t count
        uint64_t *refs

    ctypedef struct fs_slot:
        uint64_t about
        uint64_t value

    ctypedef struct fs_span:
        uint64_t n

    ctypedef struct fs_vector:
        fs_object o
        uint64_t n
        uint64_t stamp
        uint64_t live

    ctypedef struct fs_item:
        uint64_t about
        uint64_t value
        uint64_t size
        uint64_t pin

    ctypedef struct fs_items:
        unsigned char *buffer
        uint64_t count
        uint64_t pins

    int fs_owning(uint64_t kind)
    int fs_needs_pin(uint32_t kind)
    int fs_value_begin(const fs_self *me, const fs_value *v, uint64_t *slot, fs_block **b, char **bytes)
    int fs_value_finish(const fs_self *me, const fs_value *v, fs_block *b)
    int fs_value_look(fs_heap *heap, fs_seen *out)
    fs_bundle *fs_bundle_at(fs_heap *heap, uint64_t offset, uint64_t *count)
    void fs_copy_racy(void *to, const void *source, size_t n)
    int fs_vector_peek(fs_heap *heap, fs_vector *v, int64_t i, fs_glance *g, fs_seen *out)
    bint fs_vector_peek_valid(const fs_vector *v, int64_t i, const fs_glance *g)
    int fs_copy_ascii(void *to, const void *source, size_t n)
    int fs_vector_change(const fs_self *me, fs_vector *v, int what, int64_t i, const void *given, uint64_t count,
                         uint64_t stamp)
    int fs_vector_exchange(const fs_self *me, fs_vector *v, int64_t start, int64_t stop, const fs_value *vals, uint64_t count)
    int fs_vector_rearrange(const fs_self *me, fs_vector *v, const int64_t *plan, uint64_t count, const fs_value *vals,
                            uint64_t stamp)
    int fs_vector_read(const fs_self *me, fs_vector *v, int64_t i, const uint64_t *pin, fs_copy *out, uint64_t *stamp)
    int fs_vector_enter(const fs_self *me, fs_vector *v, fs_span *s)
    void fs_vector_leave(const fs_self *me, fs_vector *v, int entered)
    int fs_vector_seek_peek(fs_heap *heap, fs_vector *v, const fs_value *wanted, uint64_t *at, uint64_t *stamp)
    int fs_vector_seek(const fs_self *me, fs_vector *v, const fs_value *wanted, uint64_t *at, uint64_t *stamp)
    int fs_vector_slots_peek(fs_heap *heap, fs_vector *v, int64_t start, int64_t stop, int64_t step, fs_slot **out,
                             uint64_t *count, uint64_t *stamp)
    int fs_vector_copy(const fs_self *me, fs_vector *v, int64_t start, int64_t stop, int64_t step, const uint64_t *slots,
                       uint64_t pin_room, fs_items *out, uint64_t *stamp)

cdef extern from "words.h" nogil:
    ctypedef struct fs_known:
        pass
    void fs_vector_learn(fs_heap *heap, fs_vector *v, fs_known *k)
    bint fs_vector_word_peek(const fs_vector *v, const fs_known *k, int64_t i, uint64_t *about, uint64_t *value)
    bint fs_vector_set_word(const fs_self *me, fs_vector *v, const fs_known *k, int64_t i, uint64_t about, uint64_t word)
    bint fs_vector_append_word(const fs_self *me, fs_vector *v, const fs_known *k, uint64_t about, uint64_t word)
    bint fs_vector_pop_word(const fs_self *me, fs_vector *v, const fs_known *k, uint64_t about, uint64_t word)

cdef extern from "table.h" nogil:
    ctypedef struct fs_key:
        uint64_t hash
        const unsigned char *bytes
        uint64_t total
        uint32_t length
        uint8_t form
        uint8_t display

    ctypedef struct fs_key_words "__typeof__(((fs_entry *)0)->key)":
        uint64_t words[4]

    ctypedef struct fs_entry:
        uint64_t hash
        uint64_t head
        uint8_t form
        uint8_t display
        uint8_t kind
        uint8_t length
        uint64_t value
        uint32_t key_length
        uint32_t spare
        fs_key_words key

    ctypedef struct fs_entries:
        uint64_t n

    ctypedef struct fs_view:
        uint64_t version
        fs_entries *entries
        uint64_t *index
        uint64_t mask
        uint64_t capacity

    ctypedef struct fs_place:
        uint64_t number
        uint64_t head
        fs_entry *entry

    ctypedef struct fs_peek:
        fs_view view
        fs_place place
        fs_seen seen

    ctypedef struct fs_hint:
        uint64_t version
        uint64_t head
        fs_entry *entry

    ctypedef struct fs_witness:
        uint64_t moved
        uint64_t number
        uint64_t head
        uint64_t value

    ctypedef struct fs_table:
        fs_object o
        uint64_t used
        uint64_t seed
        uint64_t others
        uint64_t keys_changed
        uint64_t moved
        uint32_t turn
        uint32_t live

    enum:
        FS_KEY_INLINE

    void fs_key_prepare(fs_key *k, uint64_t seed)
    void fs_key_of_word(fs_key *k, uint8_t form, uint8_t display, uint64_t word, uint64_t seed)
    int fs_peek_at(fs_heap *heap, fs_table *t, const fs_key *k, fs_peek *p)
    int fs_peek_valid(fs_table *t, const fs_peek *p, int found)
    void fs_hint_take(fs_hint *h, const fs_peek *p)
    uint64_t fs_hint_number(const fs_hint *h, const fs_view *v)
    int fs_hint_holds(const fs_table *t, const fs_hint *h)
    int fs_hint_look(const fs_table *t, const fs_hint *h, uint64_t *value)
    int fs_hint_store(const fs_self *me, fs_table *t, const fs_hint *h, uint32_t kind, uint64_t word)
    int fs_hint_put(const fs_self *me, fs_table *t, fs_hint *h, const fs_value *val, int how, uint64_t *result)
    int fs_table_enter(const fs_self *me, fs_table *t)
    void fs_table_leave_unchanged(const fs_self *me, fs_table *t, int entered)
    int fs_table_put(const fs_self *me, fs_table *t, const fs_key *k, const fs_value *val, int how, uint64_t looked,
                     const fs_witness *seen, uint64_t *result)
    int fs_table_put_by(const fs_self *me, fs_table *t, fs_peek *p, const fs_key *k, const fs_value *val, int how,
                        uint64_t looked, const fs_witness *seen, uint64_t *result)
    int fs_table_word(fs_table *t, const uint64_t *word, uint64_t *out)
    int fs_table_count(fs_table *t, uint64_t *used)
    int fs_table_read(const fs_self *me, fs_table *t, const fs_key *k, const uint64_t *pin, fs_copy *out, fs_witness *seen)
    int fs_table_remove(const fs_self *me, fs_table *t, const fs_key *k, const fs_witness *seen, uint64_t looked)
    int fs_table_remove_by(const fs_self *me, fs_table *t, fs_view *v, const fs_key *k, const fs_witness *seen, uint64_t looked)
    int fs_table_empty(const fs_self *me, fs_table *t)

cdef extern from "snapshot.h" nogil:
    ctypedef struct fs_record:
        fs_entry entry
        uint64_t pin

    ctypedef struct fs_snapshot:
        unsigned char *buffer
        uint64_t count
        uint64_t pins

    ctypedef struct fs_extent:
        uint64_t n
        uint64_t used
        uint64_t keys_changed
        uint64_t moved
        uint64_t first

    const uint64_t FS_OLDEST
    const uint64_t FS_NEWEST

    uint64_t fs_record_size(const fs_record *r)
    const unsigned char *fs_record_key(const fs_record *r, uint64_t *total)
    const unsigned char *fs_record_value(const fs_record *r, uint64_t *size)
    ctypedef struct fs_sight:
        uint64_t head
        uint64_t value

    int fs_table_delta(const fs_self *me, fs_table *t, uint64_t keys_changed, fs_sight *sights, uint64_t count,
                       uint32_t *changed, uint64_t *n)
    int fs_table_copy(const fs_self *me, fs_table *t, int values, uint8_t form, uint64_t first, const uint64_t *slots,
                      uint64_t pin_room, fs_snapshot *out, fs_extent *extent)

cdef extern from "merge.h" nogil:
    int fs_table_merge(const fs_self *me, fs_table *t, const fs_key *keys, const fs_value *values, uint64_t count, int how,
                       uint64_t looked)
    int fs_table_exchange(const fs_self *me, fs_table *t, const fs_key *out, uint64_t out_count, const fs_key *keys,
                          const fs_value *values, uint64_t count, const fs_extent *looked, const fs_snapshot *seen)

cdef extern from "table.h":  # with the interpreter lock: they make an object
    ctypedef int (*fs_maker)(void *out, const fs_seen *seen) noexcept
    int fs_table_take(const fs_self *me, fs_table *t, const fs_key *k, fs_maker make, void *out)

cdef extern from "list.h":
    int fs_vector_take(const fs_self *me, fs_vector *v, int64_t i, fs_maker make, void *out)
