/* free_list.pml: allocation, references and the undo log of alloc.h.
 *
 * Three processes allocate, refer, drop and bury the dead, in an arena of four grains; one of them cannot be killed, so that
 * there is always somebody to go on. Every store of fs_set, fs_commit and fs_rollback is a step before which a process may be
 * killed. What lock.pml shows of the lock is taken for granted. There is no bound on the number of operations.
 *
 * The quick list takes one block of one grain; everything else goes through the bins (here one for each size) and merges with
 * its free neighbours. An owner scribbles over its payload, links included, from the moment fs_take gave it the block.
 */
#define GRAINS 4
#define LOG 24
#define JUNK 77

/* Shared words by number, so that the log can name them. Grains, blocks and links are counted from 1; 0 is none. */
#define QUICK 0
#define QUICK_N 1
#define LAST_SIZE 2
#define BIN(size) (2 + (size))
#define SIZE(b) (2 + GRAINS + (b))       /* size << 4 | size of the block in front */
#define KIND(b) (2 + 2 * GRAINS + (b))   /* kind << 4 | refs */
#define NEXT(b) (2 + 3 * GRAINS + (b))
#define PREVIOUS(b) (2 + 4 * GRAINS + (b))
#define SLOT(p) (2 + 5 * GRAINS + (p))   /* the owning slot of process p */
#define WORDS (6 + 5 * GRAINS)
byte m[WORDS];

#define FREE 0
#define QUICKLY 1
#define USED 2
#define size_of(b) (m[SIZE(b)] >> 4)
#define before(b) (m[SIZE(b)] & 15)
#define kind_of(b) (m[KIND(b)] >> 4)
#define refs_of(b) (m[KIND(b)] & 15)
#define END (GRAINS + 1)

byte undo_n, undo_at[LOG], undo_was[LOG];

byte owner;
bool alive[4];
chan die[4] = [0] of { bit };

inline set(word, value) { /* fs_set; a death between writing the log's entry and counting it is one before either */
#ifdef BROKEN_ORDER
    atomic { to = word; was = m[to]; what = value; m[to] = what }
    atomic { undo_at[undo_n] = to; undo_was[undo_n] = was; undo_n++; to = 0; was = 0; what = 0 }
#else
    atomic { to = word; what = value; assert(undo_n < LOG); undo_at[undo_n] = to; undo_was[undo_n] = m[to]; undo_n++ }
    atomic { m[to] = what; to = 0; what = 0 }
#endif
}

inline forget_log() {
    undo_n = 0; i = 0;
    do
    :: i < LOG -> undo_at[i] = 0; undo_was[i] = 0; i++
    :: else -> break
    od;
    i = 0
}

inline commit() { /* fs_commit */
    d_step { forget_log(); check() }
}

inline rollback() { /* fs_rollback */
    i = undo_n;
    do
#ifdef BROKEN_ROLLBACK
    :: i > 0 -> d_step { m[undo_at[undo_n - i]] = undo_was[undo_n - i]; i-- } /* oldest first */
#else
    :: i > 0 -> d_step { m[undo_at[i - 1]] = undo_was[i - 1]; i-- }
#endif
    :: else -> break
    od;
    commit()
}

/* Each grain in one block, each block in one list or owned by as many slots as it counts. What nobody may read becomes JUNK. */
inline check() {
    i = 1; last = 0; listed = 0; was_free = 0;
    do
    :: i < END ->
        assert(size_of(i) > 0 && i + size_of(i) <= END && before(i) == last && kind_of(i) <= USED);
        if
        :: kind_of(i) == FREE -> assert(!was_free); was_free = 1; listed++
        :: kind_of(i) == QUICKLY ->
            assert(m[QUICK] == i && size_of(i) == 1 && m[NEXT(i)] == 0);
            was_free = 0;
            m[PREVIOUS(i)] = JUNK
        :: kind_of(i) == USED ->
            assert(refs_of(i) > 0 && refs_of(i) == (m[SLOT(1)] == i) + (m[SLOT(2)] == i) + (m[SLOT(3)] == i));
            was_free = 0; m[NEXT(i)] = JUNK; m[PREVIOUS(i)] = JUNK
        fi;
        last = size_of(i);
        to = i + 1;
        do
        :: to < i + last -> m[SIZE(to)] = JUNK; m[KIND(to)] = JUNK; m[NEXT(to)] = JUNK; m[PREVIOUS(to)] = JUNK; to++
        :: else -> break
        od;
        to = 0;
        i = i + last
    :: else -> break
    od;
    assert(m[LAST_SIZE] == last && m[QUICK_N] == (m[QUICK] != 0));
    assert(m[QUICK] == 0 || kind_of(m[QUICK]) == QUICKLY);
    i = 1;
    do
    :: i <= GRAINS ->
        last = m[BIN(i)];
        if
        :: last != 0 -> assert(m[PREVIOUS(last)] == 0)
        :: else
        fi;
        do
        :: last != 0 -> assert(kind_of(last) == FREE && size_of(last) == i && listed > 0); listed--; last = m[NEXT(last)]
        :: else -> break
        od;
        i++
    :: else -> break
    od;
    assert(listed == 0);
    i = 1;
    do
    :: i <= 3 -> assert(m[SLOT(i)] == 0 || kind_of(m[SLOT(i)]) == USED); i++
    :: else -> break
    od;
    i = 0; last = 0; was_free = 0
}

inline bin_insert(x) { /* fs_bin_insert */
    head = m[BIN(size_of(x))];
    if
    :: head != 0 -> set(PREVIOUS(head), x)
    :: else
    fi;
    set(NEXT(x), head);
    set(PREVIOUS(x), 0);
    set(BIN(size_of(x)), x);
    head = 0
}

inline bin_remove(x) { /* fs_bin_remove */
    if
    :: m[NEXT(x)] != 0 -> set(PREVIOUS(m[NEXT(x)]), m[PREVIOUS(x)])
    :: else
    fi;
    if
    :: m[PREVIOUS(x)] != 0 -> set(NEXT(m[PREVIOUS(x)]), m[NEXT(x)])
    :: else -> assert(m[BIN(size_of(x))] == x); set(BIN(size_of(x)), m[NEXT(x)])
    fi
}

inline merge() { /* fs_merge, of b */
    d_step { size = size_of(b); after = b + size; front = before(b) }
    if
    :: after < END && kind_of(after) == FREE ->
        bin_remove(after);
        d_step { size = size + size_of(after); after = after + size_of(after) }
    :: else
    fi;
    if
    :: front > 0 && kind_of(b - front) == FREE ->
        bin_remove(b - front);
        d_step { b = b - front; size = size + front; front = before(b) }
    :: else
    fi;
    set(SIZE(b), size << 4 | front);
    set(KIND(b), FREE << 4);
    if
    :: after < END -> set(SIZE(after), size_of(after) << 4 | size)
    :: else -> set(LAST_SIZE, size)
    fi;
    bin_insert(b)
}

inline clear() {
    b = 0; size = 0; after = 0; front = 0; head = 0; rest = 0; slot = 0; to = 0; what = 0; was = 0; i = 0;
    last = 0; listed = 0; was_free = 0; flushed = 0
}

proctype user(byte me) {
    byte b, size, after, front, head, rest, slot, to, what, was, i, last, listed;
    bool was_free, flushed;
next:
    {
        atomic { owner == 0 || !alive[owner] -> owner = me } /* fs_heap_enter */
        if
        :: undo_n > 0 -> rollback()
        :: undo_n == 0
        fi;
        if
        :: atomic { m[SLOT(me)] == 0 -> size = 1; goto take }
        :: atomic { m[SLOT(me)] == 0 -> size = 2; goto take }
        :: atomic { m[SLOT(me)] == 0 && m[SLOT(1 + me % 3)] != 0 -> b = m[SLOT(1 + me % 3)]; goto refer }
        :: atomic { m[SLOT(me)] != 0 -> slot = SLOT(me); goto drop }
        :: atomic { !alive[1 + (me + 1) % 3] && m[SLOT(1 + (me + 1) % 3)] != 0 -> slot = SLOT(1 + (me + 1) % 3); goto drop }
        :: atomic { !alive[1 + me % 3] && m[SLOT(1 + me % 3)] != 0 -> slot = SLOT(1 + me % 3); goto drop } /* fs_bury */
        fi;
take: /* fs_take */
        if
        :: size == 1 && m[QUICK] != 0 ->
            b = m[QUICK];
            set(QUICK, m[NEXT(b)]);
            set(QUICK_N, m[QUICK_N] - 1);
            set(NEXT(b), 0)
        :: else -> /* fs_take_from_bins */
            d_step {
                i = size;
                do
                :: i <= GRAINS && m[BIN(i)] == 0 -> i++
                :: else -> break
                od;
                b = (i <= GRAINS -> m[BIN(i)] : 0); i = 0
            }
            if
            :: b == 0 && m[QUICK] != 0 && !flushed -> /* fs_flush_quick */
                b = m[QUICK];
                rest = size;
                set(QUICK, m[NEXT(b)]);
                set(QUICK_N, m[QUICK_N] - 1);
                merge();
                commit();
                d_step { size = rest; rest = 0; b = 0; after = 0; front = 0; flushed = 1 }
                goto take
            :: b == 0 && (m[QUICK] == 0 || flushed) -> rollback(); goto done /* fs_heap_fail(FS_NOMEM) */
            :: b != 0
            fi;
            bin_remove(b);
            rest = size_of(b) - size;
            set(NEXT(b), 0);
            set(PREVIOUS(b), 0);
            if
            :: rest > 0 ->
                after = b + size_of(b);
                m[SIZE(b + size)] = rest << 4 | size; /* into the payload of a free block */
                m[KIND(b + size)] = FREE << 4;
                set(SIZE(b), size << 4 | before(b));
                if
                :: after < END -> set(SIZE(after), size_of(after) << 4 | rest)
                :: else -> set(LAST_SIZE, rest)
                fi;
                front = b + size;
                bin_insert(front)
            :: else
            fi
        fi;
        m[NEXT(b)] = JUNK; /* filled before it exists */
        m[PREVIOUS(b)] = JUNK;
        set(KIND(b), USED << 4 | 1); /* fs_publish */
        set(SLOT(me), b);
        goto committing;
refer: /* fs_ref_inside */
        set(KIND(b), m[KIND(b)] + 1);
        set(SLOT(me), b);
        goto committing;
drop: /* fs_drop_inside */
        b = m[slot];
        assert(kind_of(b) == USED && refs_of(b) > 0);
        set(slot, 0);
        if
        :: refs_of(b) > 1 -> set(KIND(b), m[KIND(b)] - 1)
        :: refs_of(b) == 1 && size_of(b) == 1 && m[QUICK_N] < 1 -> /* fs_give */
            set(KIND(b), QUICKLY << 4);
            set(NEXT(b), m[QUICK]);
            set(QUICK, b);
            set(QUICK_N, m[QUICK_N] + 1)
        :: else -> merge()
        fi;
committing:
        commit();
done:
        atomic { owner = 0; clear(); goto next }
    } unless { atomic { die[me] ? _ -> alive[me] = 0; clear() } }
}

proctype death() {
    do
    :: break
    :: die[1] ! 0
    :: die[2] ! 0
    od
}

init {
    byte i;
    d_step {
        m[SIZE(1)] = GRAINS << 4; m[KIND(1)] = FREE << 4; m[BIN(GRAINS)] = 1; m[LAST_SIZE] = GRAINS;
        i = 2;
        do
        :: i <= GRAINS -> m[SIZE(i)] = JUNK; m[KIND(i)] = JUNK; m[NEXT(i)] = JUNK; m[PREVIOUS(i)] = JUNK; i++
        :: else -> break
        od;
        i = 0
    }
    atomic { alive[1] = 1; alive[2] = 1; alive[3] = 1; run user(1); run user(2); run user(3); run death() }
}
