/* last_out.pml: who removes a segment's name: fs_join, fs_part, heap._leave and heap.sweep.
 *
 * One process makes the segment and leaves it, two join and leave, one sweeps; any of them may be killed before any of its
 * steps. The kernel drops what a dead process claimed. All the numbers of one process are one claim here. Nobody knows of the
 * segment but by its name; the resource tracker, which removes names as well, is left out, and so are forks.
 *
 *   NORMAL   nobody is killed
 */
#define MAKER 1
#define USER 2
#define OTHER 3
#define SWEEPER 4

bool name, made;           /* the name in /dev/shm; super->magic */
bool claim[5];              /* numbers claimed by the process's description */
byte whole;                 /* who holds all numbers, 0 for nobody */
bool joined[5];             /* ghost: fs_join succeeded, fs_part has not begun */
byte over;
chan die[5] = [0] of { bit };

#ifdef NORMAL
#define MORTAL
#else
#define MORTAL unless { atomic { die[me] ? _ -> let_go() } }
#endif

#define others (claim[1] + claim[2] + claim[3] + claim[4] - claim[me])

inline let_go() {
    atomic { claim[me] = 0; joined[me] = 0; whole = (whole == me -> 0 : whole) }
}

inline claim_all() { /* fs_claim_all: all or nothing; an own claim is no obstacle */
    atomic {
        is_last = (others == 0 && (whole == 0 || whole == me));
        whole = (is_last -> me : whole)
    }
}

inline remove_name() { /* nobody who has joined may be left behind with it */
    atomic { name = 0; assert(!joined[1] && !joined[2] && !joined[3] && !joined[4]) }
}

inline join() { /* fs_join */
    if
    :: atomic { whole == 0 -> claim[me] = 1 } /* fs_new_id */
    :: atomic { whole != 0 -> goto gone }     /* after as many tries as it has patience for */
    fi;
#ifndef BROKEN_JOIN
    if
    :: atomic { name -> joined[me] = 1 }
    :: atomic { !name -> goto gone } /* st_nlink */
    fi
#else
    atomic { joined[me] = 1; assert(name) }
#endif
}

inline part() { /* fs_part */
    claim_all();
    if
    :: is_last
    :: !is_last ->
        let_go(); /* fs_process_remove, fs_unclaim_all */
#ifndef BROKEN_PART
        claim_all()
#endif
    fi;
    if
    :: is_last -> joined[me] = 0; remove_name() /* heap._leave */
    :: !is_last
    fi
}

proctype maker(byte me) {
    bool is_last;
    {
        name = 1;
        if
        :: name /* names.open_segment; a sweeper with a wrong clock may have been quicker */
        :: !name -> goto gone /* heap.create begins again, with another name */
        fi;
        join();
        made = 1;
        part();
gone:
        skip
    } MORTAL;
    atomic { let_go(); over++ }
}

proctype user(byte me) {
    bool is_last;
    {
        if
        :: name && made /* names.open_segment, fs_segment_inspect */
        :: skip -> goto gone
        fi;
        join();
        part();
gone:
        skip
    } MORTAL;
    atomic { let_go(); over++ }
}

inline sweep() { /* names.judged */
    if
    :: name && made
    :: name && !made /* UNFINISHED seconds old: a clock may say so at any time */
    :: goto gone
    fi;
#ifdef BROKEN_SWEEP
    is_last = (others == 0 && whole == 0);
#else
    claim_all(); /* _core.is_abandoned */
#endif
    if
    :: is_last && name -> remove_name() /* _removed */
    :: is_last && !name
    :: !is_last
    fi
}

proctype sweeper(byte me) {
    bool is_last;
    {
        sweep();
gone:
        skip
    } MORTAL;
    atomic { let_go(); over++ }
}

init {
#ifndef NORMAL
    byte me = SWEEPER;
    bool is_last;
#endif
    atomic { run maker(MAKER); run user(USER); run user(OTHER); run sweeper(SWEEPER); run death() }
    over == 4;
#ifndef NORMAL
    if
    :: name -> claim_all(); assert(is_last); remove_name() /* the next start sweeps */
    :: !name
    fi;
#endif
    assert(!name)
}

proctype death() {
    do
    :: break
#ifndef NORMAL
    :: die[1] ! 0
    :: die[2] ! 0
    :: die[3] ! 0
    :: die[4] ! 0
#endif
    od
}
