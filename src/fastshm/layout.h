/* layout.h: every byte that is shared. docs/format.md says what the fields mean to one another.
 *
 *   segment   [ superblock | block | block | ... | block |   reserved, no pages yet   ]
 *             0            first                         committed                    size
 *   block     [ size, previous size | kind, references | payload ... ]      multiples of 64 bytes, 64-byte aligned
 *
 * An offset counts bytes from the start of the segment; 0 is "none". All words are in the machine's own byte order; the stamp
 * says which. Nothing here is a pointer. Changing anything means a new FS_FORMAT.
 */
#ifndef FASTSHM_LAYOUT_H
#define FASTSHM_LAYOUT_H

#include "platform.h"

#define FS_MAGIC 0x6d68737473616601ull /* "\1fastshm" */
#define FS_FORMAT 6u
#define FS_STAMP ((uint64_t)FS_FORMAT << 32 | (uint64_t)sizeof(void *) << 16 | FS_BYTE_ORDER)

#define FS_GRAIN 64u /* block sizes and alignment: one cache line */
#define FS_HEADER 16u

/* A lock: state table in lock.h. */
typedef struct {
    uint32_t word;    /* owner id, and who waits */
    uint32_t hold;    /* the user's recursion count and FS_HOLD_ flags; written by the owner only */
    uint64_t version; /* odd while what the lock guards may be inconsistent or is held by a user */
} fs_lock;

/* --- blocks -------------------------------------------------------------------------------------------------------------- */

enum {
    FS_FREE = 0,      /* in a bin; may merge with its neighbours */
    FS_QUICK = 1,     /* free, kept for the next request of its size */
    FS_RAW = 2,       /* bytes without references */
    FS_BLOB = 3,      /* length, bytes: never changes once published */
    FS_BUNDLE = 4,    /* fs_bundle: a blob that owns references */
    FS_ENTRIES = 5,   /* fs_entries of a table */
    FS_SLOTS = 6,     /* fs_slots of a vector */
    FS_UNDO_LOG = 7,  /* fs_undo_log of a table's batch */
    FS_PROCESS = 8,   /* fs_process */
    FS_HANDLES = 9,   /* fs_handles */
    FS_TICKET = 10,   /* fs_ticket */
    FS_ITEMS = 11,    /* of an array that has outgrown its block */
    FS_CELL = 16,     /* objects, which have handles */
    FS_ARRAY = 17,
    FS_MUTEX = 18,
    FS_TABLE = 19,
    FS_VECTOR = 20,
    FS_GATE = 21,     /* a manager's switch: value 1 once it is shut down */
    FS_SEMAPHORE = 22,
    FS_EVENT = 23,
    FS_BOUNDED = 24,
    FS_WAITERS = 25,  /* of a condition */
    FS_BARRIER = 26,
    FS_COUNTER = 27,
    FS_LAST_OBJECT = 27,
    FS_DYING = 0x100, /* flag: no references; on the dying list */
};

typedef struct {
    uint32_t size;     /* in grains, this header included */
    uint32_t previous; /* size of the block in front, 0 for the first */
    uint32_t kind;
    uint32_t refs;
} fs_block;

/* What every object starts with. */
typedef struct {
    fs_block block;
    uint64_t serial; /* unique in the segment for ever: a handle that outlived its object sees another one */
    fs_lock lock;
    uint64_t gate; /* owning: the manager that may close this object, or 0 */
} fs_object;

typedef struct {
    fs_object o;
    uint64_t value;
    uint32_t typecode;
    uint32_t turn; /* those sleep on it who wait for another value: cell.h */
} fs_cell;

typedef struct {
    uint64_t n;
    uint64_t pad[7];
} fs_stripe;

typedef struct {
    fs_object o;
    uint64_t base; /* of the sum, so much has been taken out */
    uint64_t stripes;
    fs_stripe stripe[];
} fs_counter;

typedef struct {
    fs_object o;
    uint64_t items; /* owning: the block of the items, or 0 while they lie behind this struct */
    uint64_t count; /* items; the room for them may be larger */
    uint32_t itemsize;
    uint32_t typecode;
    uint64_t stage; /* owning: the new bytes of a write under way; the block that the items move to, or moved from */
    uint64_t stage_at, stage_length;
    uint64_t stage_step; /* bytes between items written, itemsize when contiguous */
    uint64_t stage_state;
    uint32_t turn; /* who waits for an item to change sleeps on it: wait.h */
    uint32_t spare;
} fs_array;

/* --- what is waited for. `turn` is the word that those who wait sleep on: wait.h ----------------------------------------- */

typedef struct {
    fs_object o;
    uint32_t value; /* a semaphore's permits; an event's changes: odd while it is set */
    uint32_t turn;
    uint64_t spare;
} fs_semaphore;

/* What a process has acquired of a bounded semaphore and not released, in one word; 0: unused. */
typedef union {
    struct {
        uint32_t id; /* of the process; 0: of dead ones that released what others had acquired */
        int32_t net;
    };
    uint64_t word;
} fs_share;

typedef struct {
    fs_object o;
    uint32_t bound, turn;
    uint64_t ledger; /* owning: raw block of two times `room` shares */
    uint64_t spare;  /* owning: the next ledger, while it is made, or the last one */
    uint64_t half;   /* 0 or 1: which of the two counts */
    uint64_t room;
} fs_bounded;

typedef union {
    struct {
        uint32_t state; /* sleeps on it */
        uint32_t id;    /* of the thread */
    };
    uint64_t word;
} fs_seat;

typedef struct {
    fs_seat seat;
    uint64_t number; /* the first to come has the lowest */
} fs_waiter;

#define FS_WAITER_CHUNKS 10u
#define FS_WAITERS_FIRST 31u /* places in the first chunk; the next has twice as many grains, and so on */

typedef struct {
    fs_object o;
    uint64_t numbers; /* given out */
    uint64_t released, everybody;
    uint64_t chunks;  /* that count */
    uint64_t chunk[FS_WAITER_CHUNKS]; /* owning: raw blocks of places, which never move */
} fs_waiters;

typedef struct {
    fs_object o;
    uint32_t phase, turn;
    int64_t parties;
    uint64_t room;
    uint64_t place[]; /* `room` thread ids, 0 where nobody is */
} fs_barrier;

typedef struct {
    fs_block block;
    uint64_t length;
    unsigned char bytes[];
} fs_blob;

typedef struct {
    fs_block block;
    uint64_t length; /* of the bytes behind the references; the link while dying */
    uint64_t count;
    uint64_t refs[]; /* owning, count of them; the bytes follow */
} fs_bundle;

typedef struct {
    fs_block block;
    uint64_t serial;
    uint64_t target; /* owning: keeps a pickled handle's object until it is unpickled */
} fs_ticket;

/* --- values and keys ----------------------------------------------------------------------------------------------------- */

enum {
    FS_V_ABSENT = 0, /* deleted */
    FS_V_NONE = 1,
    FS_V_BOOL = 2,
    FS_V_INT = 3,
    FS_V_FLOAT = 4,
    FS_V_ASCII = 5, /* up to 8 bytes, inline */
    FS_V_UTF8 = 6,
    FS_V_BYTES = 7,
    FS_V_OWNING = 16, /* from here on the value is an owned offset */
    FS_V_ASCII_BLOB = 16,
    FS_V_UTF8_BLOB = 17,
    FS_V_BYTES_BLOB = 18,
    FS_V_BYTEARRAY_BLOB = 19,
    FS_V_NDARRAY_BLOB = 20,
    FS_V_PICKLE_BLOB = 21,
    FS_V_PICKLE_BUNDLE = 22,
    FS_V_PICKLE_BUFFERS = 23, /* a bundle, too: a pickle and the buffers that are not in it */
    FS_V_OBJECT = 24,
    FS_V_SHARED = 25, /* a bundle: the objects, and what they are to the reader */
    FS_V_LAST = 25,
};

#define FS_LARGE 65536u /* bytes; so many are not copied while a container is locked, neither in nor out */

enum { /* the canonical form: equal keys have equal forms */
    FS_K_NONE = 1,
    FS_K_INT = 2,   /* 64-bit; also bool and integral floats */
    FS_K_FLOAT = 3, /* not integral */
    FS_K_STR = 4,
    FS_K_BYTES = 5,
    FS_K_BIG = 6,   /* an int beyond 64 bits */
    FS_K_TUPLE = 7,
    FS_K_FROZENSET = 8,
    FS_K_COMPLEX = 9,
    FS_K_RATIONAL = 10, /* neither an int nor exactly a double */
    FS_K_OTHER = 11, /* a pickle; which keys are equal is found out with == */
    FS_K_LAST = 11,
};

enum { /* what the key looked like when it was first stored */
    FS_D_SAME = 0,
    FS_D_BOOL = 1,
    FS_D_FLOAT = 2,
    FS_D_MINUS_ZERO = 3,
    FS_D_PICKLE = 4, /* bytes behind the canonical form */
};

#define FS_KEY_INLINE 32u /* bytes of a key that an entry has room for */
#define FS_KEY_IN_BLOB 0x80u /* in its form: they lie in a block */

/* One cache line. Key, hash and form never change while the entry can be found. */
typedef struct {
    uint64_t hash;
    union {
        struct {
            uint32_t seq; /* odd while kind, length and value change together */
            uint8_t form, display, kind, length;
        };
        uint64_t head; /* the same, as the one word it is read and written in */
    };
    uint64_t value;
    uint32_t key_length; /* of the canonical form */
    uint32_t spare;
    union {
        uint64_t words[4]; /* inline, zero padded */
        uint64_t blob;     /* owning */
    } key;
} fs_entry;

typedef struct {
    fs_block block;
    uint64_t link; /* while dying */
    uint64_t n;    /* entries in use, deleted ones included */
    uint64_t pad[4];
    fs_entry entry[];
} fs_entries;

typedef struct {
    uint64_t about; /* kind | length << 8 */
    uint64_t value;
} fs_slot;

typedef struct {
    fs_block block;
    uint64_t link; /* while dying */
    uint64_t n;    /* slots from the first that may own something; a vector's own count while it is in use */
    fs_slot slot[];
} fs_slots;

typedef struct {
    uint64_t entry; /* number */
    uint64_t about; /* kind | length << 8 before */
    uint64_t value; /* owning, before */
} fs_undo_entry;

typedef struct {
    fs_block block;
    uint64_t link; /* while dying */
    uint64_t n;
    fs_undo_entry undo[];
} fs_undo_log;

/* --- redo: how a table or a vector changes several words as one --------------------------------------------------------- */

#define FS_REDO_WORDS 12
#define FS_REDO_OWNED 4

enum { FS_IDLE = 0, FS_PREPARING = 1, FS_COMMITTED = 2, FS_BATCH = 3, FS_SHIFT_DOWN = 4, FS_SHIFT_UP = 5, FS_FILL = 6, FS_SPLICE = 7 };
enum { FS_REPEATED = 7 }; /* beside FS_COMMITTED, of an array's stage */

typedef struct {
    uint64_t state;
    uint64_t n;
    struct {
        uint64_t at, word;
    } redo[FS_REDO_WORDS];
    uint64_t own[FS_REDO_OWNED];  /* owning: allocated for a change that is not yet committed */
    uint64_t drop[FS_REDO_OWNED]; /* owned by nobody else once the change is committed */
    uint64_t batch;               /* owning: a table's undo log */
    uint64_t before[4];           /* what a batch started from; a shift's cursor and ends */
} fs_redo;

typedef struct {
    fs_object o;
    uint64_t entries; /* owning */
    uint64_t index;   /* owning: raw block of 64-bit slots: tag << 32 | entry number + 2; 0 empty, 1 deleted */
    uint64_t mask;    /* index slots - 1 */
    uint64_t capacity; /* entries */
    uint64_t used;     /* live entries */
    uint64_t fill;     /* index slots that are not empty */
    uint64_t seed;
    uint64_t others;   /* live keys of form FS_K_OTHER */
    uint64_t keys_changed; /* counts inserted and deleted keys */
    uint64_t moved;        /* changes when entry numbers below n may stand for other keys than before */
    uint32_t turn;         /* of those who wait for a change (wait.h) */
    uint32_t live;         /* plain dicts and lists that are stored become shared ones */
    fs_redo redo;
} fs_table;

typedef struct {
    fs_object o;
    uint64_t slots; /* owning */
    uint64_t start; /* first slot in use */
    uint64_t n;
    uint64_t capacity;
    uint64_t stamp; /* counts changes */
    uint64_t live;  /* as that of a table */
    fs_redo redo;
} fs_vector;

/* --- who is attached ----------------------------------------------------------------------------------------------------- */

#define FS_HANDLES_INLINE 26
#define FS_HANDLES_CHUNK 508

typedef struct {
    fs_block block;
    uint64_t next;  /* process */
    uint32_t id;    /* alive while its byte is claimed */
    uint32_t pid;   /* for people; nothing is decided by it */
    uint64_t more;  /* owning: fs_handles */
    uint64_t spare;
    uint64_t slot[FS_HANDLES_INLINE]; /* owning */
} fs_process;

typedef struct {
    fs_block block;
    uint64_t more; /* owning */
    uint64_t spare;
    uint64_t slot[FS_HANDLES_CHUNK];
} fs_handles;

/* --- the superblock ------------------------------------------------------------------------------------------------------ */

#define FS_QUICK_SIZES 9u /* blocks of 1 to 8 grains */
#define FS_QUICK_MOST 256u
#define FS_BINS 232u
#define FS_UNDO_WORDS 64u

typedef struct {
    uint64_t magic; /* stored last: whoever sees it sees a whole segment, whose maker has claimed its number */
    uint64_t stamp;
    uint64_t size;
    uint64_t tracker_device, tracker_inode; /* the pipe of the resource tracker that knows this name; 0 for none */
    uint32_t next_id;
    uint32_t kept; /* a store whose name stays when its last user leaves */
    uint64_t line1[2];

    /* line 1: read by everybody, written when the segment grows */
    uint64_t committed;
    uint64_t last_size; /* grains of the block that ends at committed, 0 when there is none */
    uint64_t root; /* owning: a store's table, by which its objects are found */
    uint64_t line2[5];

    /* line 2 */
    fs_lock heap;  /* allocator, references, processes */
    fs_lock reaper; /* who frees what has died */
    uint64_t serial;
    uint64_t processes; /* first fs_process */
    uint64_t dying;     /* first object without references */

    uint64_t undo_n;
    struct {
        uint64_t at, was;
    } undo[FS_UNDO_WORDS];

    uint64_t quick[FS_QUICK_SIZES];
    uint64_t quick_n[FS_QUICK_SIZES];
    uint64_t bitmap[4];
    uint64_t bin[FS_BINS];
} fs_super;

#define FS_FIRST 4096u

_Static_assert(sizeof(fs_super) <= FS_FIRST, "the superblock is one page");
_Static_assert(sizeof(fs_block) == FS_HEADER, "block header");
_Static_assert(sizeof(fs_cell) == FS_GRAIN, "a value costs one cache line");
_Static_assert(sizeof(fs_stripe) == FS_GRAIN && sizeof(fs_counter) == FS_GRAIN, "no two stripes share a cache line");
_Static_assert(sizeof(fs_semaphore) == FS_GRAIN, "a semaphore costs one cache line");
_Static_assert(sizeof(fs_share) == 8 && sizeof(fs_seat) == 8, "each is read and written as one word");
_Static_assert(sizeof(fs_entry) == FS_GRAIN, "an entry costs one cache line");
_Static_assert(sizeof(fs_entries) == FS_GRAIN, "entries are cache-line aligned");
_Static_assert(sizeof(fs_array) <= 2 * FS_GRAIN, "array data starts at the third line");
_Static_assert(sizeof(fs_process) == 4 * FS_GRAIN, "process record");
_Static_assert(sizeof(fs_handles) == 64 * FS_GRAIN, "handles");
_Static_assert(offsetof(fs_super, heap) == 128, "the heap's lock has its own line");

#define FS_ARRAY_DATA 128u /* offset of an array's items in its block */
#define FS_ITEMS_DATA 64u  /* the same in a block of their own */

#endif
