/* table_publish.pml: the redo record of redo.h and what table.h does with it, beside an optimistic reader.
 *
 * Writers put and delete two keys, growing at any insert or when full; one reader looks with fs_peek_at and fs_peek_valid. A
 * writer may be killed before any store; whoever takes the lock next settles, and may be killed at that. The last one is not
 * killed, settles and counts. Writers take turns under the lock, so one proctype plays them all: after a death it is the next
 * of them. Every value is a block of its own (the wide case).
 *
 * An allocation and a drop are one step (free_list.pml). What nobody can see yet (new arrays, the list of words while
 * PREPARING) is filled in one step; freed memory is scribbled over at once.
 *
 * Ghosts: the changes of a key are numbered as they are committed, and a value holds the number of its change. A look must find
 * the state after some change that is no older than what was acknowledged when it began, or than what it found before.
 *
 *   LOOKS, ROUNDS, DEATHS   how many; with a reader, stores that it cannot tell apart are one step
 *   BUSY                    how many drops are FS_BUSY
 *   SAME_TAG                both keys have the same tag and start at the same index slot
 */
#ifndef LOOKS
#define LOOKS 2
#endif
#ifndef ROUNDS
#define ROUNDS 3
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#ifndef BUSY
#define BUSY 0
#endif

/* Shared words by number, so that a redo can name them. Blocks: 1, 2 entries; 3, 4 index; 5 to 7 values. */
#define T_ENTRIES 0
#define T_INDEX 1
#define T_USED 2
#define COUNT(a) (3 + (a))                       /* fs_entries.n */
#define HEAD(e) (5 + (e))                        /* seq << 1 | kind; entry e is number e % 2 of array e / 2 */
#define VALUE(e) (9 + (e))
#define KEY(e) (13 + (e))
#define SLOT(x, j) (17 + (x) * 3 + (j))          /* of index x; 0 empty, 1 deleted, tag << 3 | number + 2 */
#define KIND(b) (22 + (b))                       /* of block b: FREE, RAW, ENTRIES */
#define WORDS 30
byte m[WORDS];
byte data[8];                                    /* of value blocks */
byte version;

#define FREE 0
#define RAW 1
#define LIVE 2 /* FS_ENTRIES: to be emptied when it dies */
#define JUNK 99
#define CAPACITY 2

#define ODD_HEAD(h) (((((h) >> 1) | 1) << 1) | ((h) & 1)) /* fs_head_next */
#define NEXT_HEAD(h, kind) ((((((h) >> 1) | 1) + 1) << 1) | (kind))
#ifdef SAME_TAG
#define TAG(k) 1
#else
#define TAG(k) (1 + (k))
#endif

#define IDLE 0
#define PREPARING 1
#define COMMITTED 2
byte state, listed, at[4], word[4];
byte slot[6]; /* fs_redo.own and fs_redo.drop: value, entries, index */
#define OWN 0
#define DROP 3
#define own(x) slot[OWN + (x)]
#define drop(x) slot[DROP + (x)]

byte busy = BUSY;
byte last[2], acked[2], history[2]; /* ghosts; bit s of history: was the key there after change s? */

#if LOOKS > 0
#define TOGETHER atomic /* what a reader cannot tell apart; deaths inside are for the runs without one */
#else
#define TOGETHER
#endif

chan die = [0] of { bit };

inline scribble(b) {
    m[KIND(b)] = FREE;
    data[b] = JUNK;
    if
    :: b <= 2 ->
        m[HEAD(2 * b - 2)] = 1; m[KEY(2 * b - 2)] = 1; m[VALUE(2 * b - 2)] = 0;
        m[HEAD(2 * b - 1)] = 1; m[KEY(2 * b - 1)] = 0; m[VALUE(2 * b - 1)] = 0
    :: b == 3 || b == 4 ->
        m[SLOT(b - 3, 0)] = TAG(1) << 3 | 2; m[SLOT(b - 3, 1)] = TAG(0) << 3 | 3; m[SLOT(b - 3, 2)] = 0
    :: b > 4
    fi
}

inline drop_all(first) { /* fs_drop, of own[] or drop[] */
    j = first;
    do
    :: atomic { j < first + 3 && !failed ->
        if
        :: slot[j] == 0
        :: slot[j] != 0 && busy > 0 && !immortal -> busy--; failed = 1
        :: slot[j] != 0 ->
            assert(m[KIND(slot[j])] == RAW); /* not twice; and entries that are still LIVE would take their values along */
            scribble(slot[j]);
            slot[j] = 0
        fi;
        j++ }
    :: atomic { j == first + 3 || failed -> j = 0; break }
    od
}

inline forget() {
    listed = 0;
    at[0] = 0; at[1] = 0; at[2] = 0; at[3] = 0; word[0] = 0; word[1] = 0; word[2] = 0; word[3] = 0
}

inline redo_settle() { /* fs_redo_settle */
    failed = 0;
    if
    :: state == IDLE
    :: state == PREPARING ->
        TOGETHER {
            drop_all(OWN);
            if
            :: !failed -> atomic { forget(); drop(0) = 0; drop(1) = 0; drop(2) = 0; state = IDLE }
            :: failed
            fi
        }
    :: state == COMMITTED ->
#ifdef BROKEN_DROP_LAST
        drop_all(DROP);
#endif
        do
        :: i < listed -> atomic { m[at[i]] = word[i]; i++ }
        :: i >= listed -> break
        od;
        TOGETHER {
            atomic { i = 0; forget() }
            atomic { own(0) = 0; own(1) = 0; own(2) = 0 }
            drop_all(DROP);
            if
            :: !failed -> state = IDLE
            :: failed
            fi
        }
    fi
}

inline table_settle() { /* fs_table_settle */
    if
    :: state == COMMITTED && listed > 0 -> version = version | 1
    :: !(state == COMMITTED && listed > 0)
    fi;
    redo_settle()
}

inline leave() { /* fs_table_leave */
    version = (version & 1 -> version + 1 : version);
    atomic { acked[0] = last[0]; acked[1] = last[1] }
}

inline add(where, value) { /* fs_redo_add */
    at[listed] = where; word[listed] = value; listed++
}

inline committed(k, there) {
    last[k] = last[k] + 1;
    history[k] = history[k] | (there << last[k])
}

/* fs_view_make, fs_find: place in p, entry in e (NONE when there is none), index slots in use in used. */
#define NONE 9
inline find(k) {
    ea = m[T_ENTRIES] - 1; xa = m[T_INDEX] - 3;
    p = 0; e = NONE; used = 0;
    do
    :: p < 3 && m[SLOT(xa, p)] != 0 && (m[SLOT(xa, p)] >> 3) == TAG(k) && m[KEY(2 * ea + (m[SLOT(xa, p)] & 7) - 2)] == k ->
        e = 2 * ea + (m[SLOT(xa, p)] & 7) - 2; break
    :: p < 3 && m[SLOT(xa, p)] == 0 -> break
    :: else -> assert(p < 2); p++
    od;
    i = 0;
    do
    :: i < 3 -> used = used + (m[SLOT(xa, i)] != 0); i++
    :: else -> break
    od;
    i = 0
}

inline take_block(place, first, end, kind) { /* fs_alloc_to: the lowest free one, so that blocks come back soon */
    i = first;
    do
    :: m[KIND(i)] != FREE -> assert(i < end); i++
    :: else -> break
    od;
    m[KIND(i)] = kind; place = i; i = 0
}

inline fill_arrays() { /* the copying in fs_table_move */
    na = own(1) - 1; nx = own(2) - 3;
    m[SLOT(nx, 0)] = 0; m[SLOT(nx, 1)] = 0; m[SLOT(nx, 2)] = 0;
    m[HEAD(2 * na)] = 0; m[HEAD(2 * na + 1)] = 0;
    n = 0; i = 0;
    do
    :: i < m[COUNT(ea)] ->
        if
        :: m[HEAD(2 * ea + i)] & 1 ->
            m[HEAD(2 * na + n)] = m[HEAD(2 * ea + i)];
            m[KEY(2 * na + n)] = m[KEY(2 * ea + i)];
            m[VALUE(2 * na + n)] = m[VALUE(2 * ea + i)];
            m[SLOT(nx, n)] = TAG(m[KEY(2 * na + n)]) << 3 | (n + 2);
            n++
        :: else
        fi;
        i++
    :: else -> break
    od;
    m[COUNT(na)] = n;
    assert(n == m[T_USED]);
    n = 0; i = 0
}

inline clear() {
    i = 0; j = 0; k = 0; p = 0; e = 0; ea = 0; xa = 0; na = 0; nx = 0; n = 0; used = 0; failed = 0
}

proctype writers() {
    byte i, j, k, p, e, ea, xa, na, nx, n, used, rounds = ROUNDS;
    bool failed, immortal;
next:
    {
        if
        :: rounds == 0 -> goto done
        :: rounds > 0 -> table_settle() /* fs_table_enter */
        fi;
        if
        :: failed -> leave(); atomic { clear(); goto next }
        :: !failed
        fi;
        atomic {
            rounds--;
            if
            :: k = 0
            :: k = 1
            fi;
            find(k);
            if
            :: e != NONE -> goto overwrite
            :: e != NONE -> goto delete
            :: e == NONE && m[COUNT(ea)] < CAPACITY && used < CAPACITY -> goto fill
            :: e == NONE /* as if full */
            fi
        }
rebuild: /* fs_table_move */
        TOGETHER {
            state = PREPARING;
            atomic { take_block(own(1), 1, 2, RAW) }
            atomic { take_block(own(2), 3, 4, RAW); fill_arrays() }
        }
#ifndef BROKEN_SWAP
        version = version | 1;
#endif
        atomic {
#ifndef BROKEN_RAW
            add(KIND(m[T_ENTRIES]), RAW);
#endif
            drop(1) = m[T_ENTRIES]; drop(2) = m[T_INDEX];
            add(KIND(own(1)), LIVE);
            add(T_ENTRIES, own(1));
            add(T_INDEX, own(2))
        }
        state = COMMITTED;
        redo_settle();
        if
        :: failed -> leave(); atomic { clear(); goto next }
        :: !failed -> atomic { find(k); assert(e == NONE) }
        fi;
fill: /* fs_entry_fill */
        TOGETHER {
            state = PREPARING;
            atomic {
                take_block(own(0), 5, 7, RAW);
                e = 2 * ea + m[COUNT(ea)]
            }
            data[own(0)] = last[k] + 1
        }
#ifdef BROKEN_TENANT
        m[HEAD(e)] = 0;
#else
        m[HEAD(e)] = NEXT_HEAD(m[HEAD(e)], 0);
#endif
        m[KEY(e)] = k;
        m[VALUE(e)] = own(0);
        atomic {
            m[HEAD(e)] = m[HEAD(e)] | 1;
            add(SLOT(xa, p), TAG(k) << 3 | (e - 2 * ea + 2));
            add(COUNT(ea), m[COUNT(ea)] + 1);
            add(T_USED, m[T_USED] + 1)
        }
        atomic { state = COMMITTED; committed(k, 1); goto settle }
overwrite: /* fs_table_overwrite */
        TOGETHER {
            state = PREPARING;
            atomic { take_block(own(0), 5, 7, RAW) }
            data[own(0)] = last[k] + 1;
        }
        atomic {
            drop(0) = m[VALUE(e)];
#ifndef BROKEN_SEQ
            add(HEAD(e), ODD_HEAD(m[HEAD(e)]));
#endif
            add(VALUE(e), own(0));
#ifndef BROKEN_SEQ
            add(HEAD(e), NEXT_HEAD(m[HEAD(e)], 1))
#endif
        }
        atomic { state = COMMITTED; committed(k, 1); goto settle }
delete: /* fs_table_delete */
        state = PREPARING;
        atomic {
            drop(0) = m[VALUE(e)];
            n = m[COUNT(ea)];
            if
            :: e == 2 * ea + n - 1 ->
                n--;
                do
                :: n > 0 && !(m[HEAD(2 * ea + n - 1)] & 1) -> n--
                :: else -> break
                od
            :: else
            fi;
            add(HEAD(e), NEXT_HEAD(m[HEAD(e)], 0));
            add(SLOT(xa, p), (m[SLOT(xa, (p + 1) % 3)] == 0 -> 0 : 1));
            add(COUNT(ea), n);
            add(T_USED, m[T_USED] - 1)
        }
        atomic { state = COMMITTED; committed(k, 0) }
settle: /* fs_redo_commit */
        redo_settle();
        leave();
        atomic { clear(); goto next }
done:
        skip
    } unless { atomic { die ? _ -> clear(); goto next } }
    immortal = 1;
    table_settle();
    leave();
    d_step {
        assert(state == IDLE && own(0) + own(1) + own(2) + drop(0) + drop(1) + drop(2) == 0);
        assert(m[KIND(m[T_ENTRIES])] == LIVE && m[KIND(m[T_INDEX])] == RAW);
        n = 0;
        do
        :: k < 2 ->
            find(k);
            assert((e != NONE) == ((history[k] >> last[k]) & 1)); /* no acknowledged change is lost */
            if
            :: e != NONE ->
                assert((m[HEAD(e)] & 1) && m[KIND(m[VALUE(e)])] == RAW && data[m[VALUE(e)]] == last[k]);
                n++
            :: else
            fi;
            k++
        :: else -> break
        od;
        assert(n == m[T_USED]);
        used = 0; i = 1;
        do
        :: i < 8 -> used = used + (m[KIND(i)] != FREE); i++
        :: else -> break
        od;
        assert(used == n + 2) /* nothing leaked */
    }
}

proctype reader() {
    byte k, looks, least, v, seen, head, p, held, e, i;
    byte view = 1, ea, xa; /* fs_view, kept from look to look */
    if
    :: k = 0
    :: k = 1
    fi;
    do
    :: looks == LOOKS -> break
    :: looks < LOOKS ->
        atomic {
            looks++;
            least = (acked[k] > least -> acked[k] : least)
        }
        atomic { /* fs_peek_at */
            v = version;
            if
            :: v & 1 -> goto again
            :: !(v & 1) && view == v -> goto looking
            :: !(v & 1) && view != v -> view = 1
            fi
        }
        ea = m[T_ENTRIES] - 1;
        xa = m[T_INDEX] - 3;
        atomic {
            if
            :: version != v -> goto again
            :: version == v -> view = v
            fi
        }
looking: /* fs_find */
        atomic {
            held = m[SLOT(xa, p)];
            if
            :: held == 0 -> goto missing
            :: held != 0 && ((held >> 3) != TAG(k) || (held & 7) < 2) -> goto probe
            :: held != 0 && (held >> 3) == TAG(k) && (held & 7) >= 2 -> e = 2 * ea + (held & 7) - 2
            fi
        }
#ifdef BROKEN_LATE_HEAD
        atomic {
            if
            :: m[KEY(e)] != k -> goto probe
            :: m[KEY(e)] == k
            fi
        }
        head = m[HEAD(e)];
#else
        head = m[HEAD(e)];
        atomic {
            if
            :: m[KEY(e)] != k -> goto probe
            :: m[KEY(e)] == k
            fi
        }
#endif
        atomic {
            if
            :: (head >> 1) & 1 || !(head & 1) -> goto again
            :: !((head >> 1) & 1) && (head & 1) -> seen = m[VALUE(e)]
            fi
        }
        seen = data[seen];
        /* fs_peek_valid */
#ifdef BROKEN_LOOK_ORDER
        atomic {
            if
            :: m[HEAD(e)] != head -> goto again
            :: m[HEAD(e)] == head
            fi
        }
#endif
        atomic {
            if
            :: m[SLOT(xa, p)] != held -> goto again
            :: m[SLOT(xa, p)] == held
            fi
        }
#ifndef BROKEN_LOOK_ORDER
        atomic {
            if
            :: m[HEAD(e)] != head -> goto again
            :: m[HEAD(e)] == head
            fi
        }
#endif
        atomic {
            if
            :: version != view -> goto again
            :: version == view
            fi;
            assert(least <= seen && seen <= last[k] && (history[k] >> seen) & 1);
            least = seen;
            goto again
        }
probe:
        atomic {
            p++; head = 0;
            if
            :: p < 3 -> goto looking
            :: p == 3 -> goto again /* FS_CORRUPT, which a look may say of a change */
            fi
        }
missing:
        atomic {
            if
            :: version != view -> goto again
            :: version == view
            fi;
            i = least;
            do
            :: (history[k] >> i) & 1 -> i++; assert(i <= last[k])
            :: else -> break
            od;
            least = i; i = 0
        }
again:
        atomic { v = 0; seen = 0; head = 0; p = 0; held = 0; e = 0 }
    od;
    atomic { least = 0; view = 0; ea = 0; xa = 0 }
}

proctype death() {
    byte deaths;
    do
    :: break
    :: die ! 0 ->
        deaths++;
        if
        :: deaths == DEATHS -> break
        :: deaths < DEATHS
        fi
    od
}

init {
    d_step { /* key 0 is there, alone */
        m[T_ENTRIES] = 1; m[T_INDEX] = 3; m[T_USED] = 1;
        m[KIND(1)] = LIVE; m[KIND(3)] = RAW; m[KIND(5)] = RAW;
        m[COUNT(0)] = 1; m[HEAD(0)] = 5; m[VALUE(0)] = 5; m[SLOT(0, 0)] = TAG(0) << 3 | 2;
        history[0] = 1;
        data[0] = JUNK; data[6] = JUNK; data[7] = JUNK
    }
    atomic {
        run writers(); run reader(); run death()
    }
}
