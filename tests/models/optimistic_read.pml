/* optimistic_read.pml: the version of lock.h, beside a change of two words as array.h makes it.
 *
 * Two writers and one reader, any of which may be killed before any of its steps. A writer makes a change under the lock
 * (fs_array_write: stage, commit, copy), or a user's hold stores the two words one by one (fs_item_write, which leaves the
 * version alone) and then makes a change. The words stand for whatever changes together: a slice's items, a vector's start and
 * length, a slot's kind and value.
 *
 * The lock is what lock.pml shows it to be: taken in one step, from nobody or from the dead. Changes are numbered as they are
 * committed, and each writes its number into both words.
 */
#ifndef READS
#define READS 2
#endif
#define TRIES 2

byte version, x, y;
bool committed; /* fs_array.stage_state */
byte stage;     /* the staged bytes */

byte owner;
bool alive[4];
byte last;  /* ghost: the last change committed */
byte shown; /* ghost: the last change that others may see */
byte acked; /* ghost: the last change that others must see */
bool torn;  /* ghost: a user's own section was cut short between its two stores; that is the next holder's to mend */

chan die[4] = [0] of { bit };

inline write_begin() {
#ifdef BROKEN_WRITE_BEGIN
    skip
#else
    version = version | 1
#endif
}

inline settle() { /* fs_array_settle */
    if
    :: !committed
    :: committed ->
        write_begin();
        x = stage;
        y = stage;
        atomic { committed = 0; torn = 0 }
    fi
}

inline enter() { /* fs_array_enter */
    atomic {
        owner == 0 || !alive[owner] ->
        shown = (owner != 0 -> last : shown); /* a section cut short is seen as far as it got */
        owner = me
    }
#ifndef BROKEN_REPAIR
    settle()
#endif
}

inline leave() { /* fs_array_leave, fs_hold_end */
    atomic {
        version = (version & 1 -> version + 1 : version); /* fs_settle */
        shown = last
    }
    atomic { owner = 0; acked = last }
}

inline change(held) { /* fs_array_write */
    stage = last + 1;
    atomic { committed = 1; last++; shown = (held -> shown : last) }
    settle()
}

proctype writer(byte me; byte rounds) {
    {
        do
        :: rounds == 0 -> break
        :: rounds > 0 ->
            enter();
            atomic {
                rounds--;
                if
                :: goto operation
                :: goto hold
                fi
            }
operation:
            change(false);
            goto written;
hold:
#ifndef BROKEN_HOLD
            version = version | 1; /* fs_hold_begin */
#endif
            x = last + 1;
            atomic { y = last + 1; last++ }
            change(true);
written:
            leave()
        od
    } unless { atomic { die[me] ? _ -> alive[me] = 0; torn = torn || (owner == me && x != y && !committed) } }
}

inline judge() {
    assert(torn || seen == other); /* no mix */
    assert(torn || (least <= seen && seen <= shown));
    least = seen; seen = 0; other = 0; was = 0
}

proctype reader(byte me) {
    byte seen, other, was, least, tries, reads;
    {
        do
        :: reads == READS -> break
        :: reads < READS ->
            atomic { reads++; tries = 0; least = (acked > least -> acked : least) }
optimistic:
            atomic {
                was = version; /* fs_read_begin */
                if
                :: was & 1 ->
#ifdef BROKEN_FALLBACK
                    goto optimistic
#else
                    goto locked
#endif
                :: !(was & 1)
                fi
            }
            seen = x;
            other = y;
            atomic { /* fs_read_valid */
                if
#ifdef BROKEN_VALID
                :: skip ->
#else
                :: version == was ->
#endif
                    judge(); goto next
                :: version != was
                fi;
#ifdef BROKEN_FALLBACK
                goto optimistic;
#endif
                tries++;
                if
                :: tries < TRIES -> goto optimistic
                :: tries == TRIES
                fi
            }
locked:
            enter();
            atomic { seen = x; other = y; judge() }
            leave();
next:
            skip
        od
    } unless { atomic { die[me] ? _ -> alive[me] = 0; seen = 0; other = 0; was = 0; least = 0 } }
}

proctype death() {
    do
    :: break
    :: die[1] ! 0
    :: die[2] ! 0
    :: die[3] ! 0
    od
}

init {
    atomic {
        alive[1] = 1; alive[2] = 1; alive[3] = 1;
        run writer(1, 2); run writer(2, 1); run reader(3); run death()
    }
}
