/* lock.pml: the lock word of lock.h.
 *
 * Three processes; each may be killed before any of its steps. A load, a store, a compare-exchange and a futex call are one
 * step each; what touches nothing shared belongs to the step before. So does fs_enter's load, which leads where its
 * compare-exchange would. Spinning is left out: a process that spins has not got to its load yet. Who finds the lock taken
 * waits, or tries once more.
 *
 *   ROUNDS=n       each process comes for the lock n times and ends; without it, for ever
 *   NO_NAPS        a sleep ends only by being woken, and nobody dies: are the wake-ups enough by themselves?
 *   TWO_STEPS      with NO_NAPS the load and the store of fs_leave are one step; with this as well, two, as without NO_NAPS
 *   GIVE_UP        for two of them, a deadline may run out, and a signal may end a sleep and with it the wait
 *   NO_RESERVING   nobody starves enough to reserve the lock
 *   ENDS           everybody comes to an end or is dead (liveness)
 */
#define OWNER 3
#define RESERVED 4
#define WAITERS 8
#define CARRY (naps > 0 -> WAITERS : 0)
#ifdef NO_RESERVING
#define WANT (w | WAITERS)
#else
#define WANT (w | WAITERS | (naps >= 2 -> RESERVED : 0))
#endif
#define HURRIED (me < 3)
#ifdef BROKEN_LEAVE /* without looking for waiters */
#define UNWANTED ((word & OWNER) == me)
#else
#define UNWANTED (word == me)
#endif
#ifdef BROKEN_RESERVATION /* a sleeper is kept out as well */
#define MAY_TAKE ((w & OWNER) == 0 && !(w & RESERVED))
#else
#define MAY_TAKE ((w & OWNER) == 0 && (naps > 0 || !(w & RESERVED)))
#endif

byte word;
bool alive[4], asleep[4], over[4];
bool holds[4]; /* ghost: believes to have the lock */

bool count, abandoned; /* fs_lock.hold: FS_HOLD_COUNT as 0 or 1, FS_HOLD_ABANDONED */
bool inside[4];        /* ghost: between fs_hold_begin's store and fs_hold_end's */
bool cut;              /* ghost: a user's section was cut short, and no holder since has come to its end */

#ifdef NO_NAPS
#define MORTAL
#else
#define MORTAL unless { atomic { die[me] ? _ -> \
    alive[me] = 0; asleep[me] = 0; cut = cut || inside[me]; inside[me] = 0; w = 0; naps = 0; late = 0 } }
chan die[4] = [0] of { bit };
#endif

inline taken() {
    assert(!(holds[1] && alive[1]) && !(holds[2] && alive[2]) && !(holds[3] && alive[3]));
    holds[1] = 0; holds[2] = 0; holds[3] = 0;
    holds[me] = 1;
    w = 0; naps = 0; late = 0
}

inline let_go(value) {
    assert((word & OWNER) == me);
    word = value; holds[me] = 0; w = 0
}

inline wake_one() { /* any sleeper: more than the kernel's first in, first out */
    if
    :: asleep[1] -> asleep[1] = 0
    :: asleep[2] -> asleep[2] = 0
    :: asleep[3] -> asleep[3] = 0
    :: !asleep[1] && !asleep[2] && !asleep[3]
    fi
}

proctype user(byte me) {
    byte w, naps;
    bool late; /* the deadline has run out in a sleep */
#ifdef ROUNDS
    byte round;
#endif
enter:
    {
        /* fs_enter */
        atomic {
#ifdef ROUNDS
            if
            :: round == ROUNDS -> goto done
            :: round < ROUNDS -> round++
            fi;
#endif
            if
            :: word == 0 -> word = me; taken(); goto entered
            :: word != 0 -> goto look
            :: word != 0 -> goto try
            fi
        }
look: /* fs_lock_wait */
        w = word;
        if
        :: atomic { MAY_TAKE ->
            if
            :: word == w -> word = me | CARRY | (w & WAITERS); taken(); goto entered
            :: word != w -> goto look
            fi }
#ifdef GIVE_UP
        :: atomic { !(MAY_TAKE) && HURRIED ->
#ifndef BROKEN_HAND_ON
            if
            :: naps > 0 -> wake_one()
            :: naps == 0
            fi;
#endif
            w = 0; naps = 0; late = 0; goto enter }
#endif
        :: atomic { !(MAY_TAKE) && !late ->
#ifndef BROKEN_WAITERS_BIT
            if
            :: w == WANT
            :: w != WANT && word != w -> goto look
            :: w != WANT && word == w -> w = WANT; word = w
            fi
#endif
        }
        fi;
        asleep[me] = (word == w); /* fs_wait: the kernel compares and queues as one */
        atomic {
            if
            :: !asleep[me]
#ifndef NO_NAPS
            :: asleep[me] -> asleep[me] = 0
#elif defined(GIVE_UP)
            :: asleep[me] && HURRIED -> asleep[me] = 0; late = 1
#endif
#ifdef GIVE_UP
            :: asleep[me] && HURRIED -> asleep[me] = 0; w = 0; naps = 0; goto enter /* FS_INTERRUPTED */
#endif
            fi;
            naps = (naps < 2 -> naps + 1 : 2);
            if
            :: (w & OWNER) == 0 || (w & OWNER) != (word & OWNER) -> goto look
            :: (w & OWNER) != 0 && (w & OWNER) == (word & OWNER) -> w = 0; goto inherit
            fi
        }
try: /* fs_lock_try */
        w = word;
        atomic {
            if
            :: (w & OWNER) == 0 && word == w -> word = me | (w & WAITERS); taken(); goto entered
            :: (w & OWNER) == 0 && word != w
            :: (w & OWNER) != 0
            fi;
            w = 0
        }
inherit: /* fs_lock_inherit */
        w = word;
        if
        :: atomic { (w & OWNER) == 0 || alive[w & OWNER] -> goto busy }
#ifdef BROKEN_LIVENESS
        :: skip
#elif !defined(NO_NAPS)
        :: (w & OWNER) != 0 && !alive[w & OWNER]
#endif
        fi;
#ifndef NO_NAPS
        atomic {
#ifndef BROKEN_TAKE_OVER
            if
            :: word != w -> goto busy
            :: word == w
            fi;
#endif
            word = me | WAITERS;
            taken()
        }
        if
        :: atomic { count -> count = 0; abandoned = 1; goto entered }
        :: atomic { !count -> goto entered }
        fi;
#endif
busy:
        atomic {
            w = 0;
            if
            :: naps > 0 -> goto look
            :: naps == 0 -> goto enter /* who has not slept came from fs_lock_try */
            fi
        }
entered:
        atomic { count = 1; inside[me] = 1; assert(abandoned == cut) } /* fs_hold_begin */
        atomic { count = 0; abandoned = 0; inside[me] = 0; cut = 0 }   /* fs_hold_end */
        atomic { /* fs_leave */
            assert((word & OWNER) == me);
            if
            :: UNWANTED
            :: !(UNWANTED) -> goto leave_slow
            fi;
#if defined(NO_NAPS) && !defined(TWO_STEPS)
            let_go(0);
            goto enter
        }
#else
        }
        atomic { let_go(0); goto enter } /* whatever the word is by now */
#endif
leave_slow:
        w = word;
        atomic {
            if
            :: word != w -> goto leave_slow
            :: word == w -> assert(w & WAITERS); let_go((w & RESERVED -> RESERVED | WAITERS : 0))
            fi
        }
        atomic { wake_one(); goto enter }
done:
        skip
    } MORTAL;
    atomic {
#ifdef BROKEN_IDS
        if
        :: !alive[me] -> holds[me] = 0; alive[me] = 1; goto enter
        :: alive[me]
        fi;
#endif
        over[me] = 1
    }
}

#ifndef NO_NAPS
proctype death() {
    do
    :: break
    :: die[1] ! 0
    :: die[2] ! 0
    :: die[3] ! 0
    od
}
#endif

init {
    atomic {
        alive[1] = 1; alive[2] = 1; alive[3] = 1;
        run user(1); run user(2); run user(3);
#ifndef NO_NAPS
        run death()
#endif
    }
}

#ifdef ENDS
ltl ends { <> (over[1] && over[2] && over[3]) }
#endif
