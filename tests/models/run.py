"""Checks every model here with spin, exhaustively, and shows that each of them can fail.

    python tests/models/run.py [--only NAME]

Needs spin and gcc. A row "holds" must be free of errors, and these rows together must reach each line of a model. A
"mutant" lacks a safeguard, and must fail in the way that the row says.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ASSERTION, STUCK, CYCLE = "assertion violated", "invalid end state", "cycle"
MODES = {
    "safety": (["-DSAFETY"], []),
    "ends": (["-DNP"], ["-l"]),  # nothing is labelled as progress, so that any cycle is an error
    "fair": ([], ["-a", "-f"]),
}
TRUNCATED = ("search depth too small", "Search not completed", "MEMLIM", "out of memory", "Bit statespace")
LOOK = "LOOKS=1 DEATHS=1"


class Run(NamedTuple):
    model: str
    what: str
    defines: str = ""
    mode: str = "safety"
    fails: str = ""
    kind: str = "holds"


def mutant(model: str, name: str, fails: str = ASSERTION, more: str = "", mode: str = "safety") -> Run:
    return Run(model, name, f"{name} {more}", mode, fails, "mutant")


RUNS = [  # the longest first
    Run("table_publish", "a look finds old or new", LOOK),
    Run("table_publish", "the same, equal tags", f"{LOOK} SAME_TAG"),
    Run("table_publish", "nothing lost, leaked, dropped twice", "LOOKS=0 DEATHS=2 BUSY=1"),
    Run("table_publish", "two looks with one view", "LOOKS=2 ROUNDS=2 DEATHS=1"),
    Run("table_publish", "a look, a settling cut short", "LOOKS=1 ROUNDS=2 DEATHS=2"),
    *(mutant("table_publish", f"BROKEN_{b}", more=LOOK) for b in ("SEQ", "SWAP", "TENANT", "LOOK_ORDER")),
    mutant("table_publish", "BROKEN_LATE_HEAD", more=f"{LOOK} SAME_TAG"),
    *(mutant("table_publish", f"BROKEN_{b}", more="LOOKS=0 DEATHS=1") for b in ("RAW", "DROP_LAST")),
    Run("optimistic_read", "everybody comes to an end", "READS=1", "ends"),
    Run("optimistic_read", "no mix, nothing uncommitted"),
    *(mutant("optimistic_read", f"BROKEN_{b}") for b in ("WRITE_BEGIN", "HOLD", "REPAIR", "VALID")),
    mutant("optimistic_read", "BROKEN_FALLBACK", CYCLE, mode="ends"),
    Run("lock", "everybody comes to an end", "ENDS GIVE_UP ROUNDS=1", "fair"),
    Run("lock", "exclusion, no theft, abandoned"),
    Run("lock", "the same, with deadlines", "GIVE_UP"),
    Run("lock", "wake-ups suffice without deaths", "NO_NAPS ROUNDS=3"),
    Run("lock", "the same, with deadlines, unreserved", "NO_NAPS GIVE_UP NO_RESERVING ROUNDS=3"),
    *(mutant("lock", f"BROKEN_{b}") for b in ("TAKE_OVER", "LIVENESS", "IDS")),
    *(mutant("lock", f"BROKEN_{b}", STUCK, "NO_NAPS ROUNDS=3") for b in ("WAITERS_BIT", "LEAVE")),
    mutant("lock", "BROKEN_HAND_ON", STUCK, "NO_NAPS GIVE_UP NO_RESERVING ROUNDS=3"),
    mutant("lock", "BROKEN_RESERVATION", CYCLE, "ENDS ROUNDS=1", "fair"),
    mutant("lock", "TWO_STEPS", STUCK, "NO_NAPS ROUNDS=3"),  # these two cost a nap (README.md)
    mutant("lock", "GIVE_UP", STUCK, "NO_NAPS ROUNDS=3"),
    Run("free_list", "each block in one place"),
    *(mutant("free_list", f"BROKEN_{b}") for b in ("ORDER", "ROLLBACK")),
    Run("last_out", "nobody is left behind; a sweep ends it"),
    Run("last_out", "no name is left", "NORMAL"),
    *(mutant("last_out", f"BROKEN_{b}") for b in ("JOIN", "SWEEP")),
    mutant("last_out", "BROKEN_PART", more="NORMAL"),
]


def check(run: Run) -> tuple[Run, str, float, str, set, set]:
    """The run, its number of states, seconds, what is wrong or "", all steps of the model, those not reached."""
    begin, (compile_flags, pan_flags) = time.monotonic(), MODES[run.mode]
    with tempfile.TemporaryDirectory() as folder:

        def call(*command: str) -> str:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            return done.stdout + done.stderr

        said = call("spin", "-a", *(f"-D{d}" for d in run.defines.split()), str(HERE / f"{run.model}.pml"))
        said += call("gcc", "-O1", "-w", "-DNOREDUCE", "-DMEMLIM=6000", *compile_flags, "-o", "pan", "pan.c")
        if not Path(folder, "pan").exists():
            sys.exit(said)
        out, listing = call("./pan", "-m1000000", *pan_flags), call("./pan", "-d")
    states = re.search(r"(\d+) states, stored", out)
    error = re.search(r"^pan:1: .*", out, re.MULTILINE)
    if run.fails:
        wrong = "" if error and run.fails in error[0] else "does not fail as it must"
    else:
        wrong = error[0] if error else next((t for t in TRUNCATED if t in out), "")
        wrong = wrong if "errors: 0" in out and states else wrong or "not finished"
    known = {(line, state) for state, line in re.findall(r"^\tstate +(\d+) .*\.pml:(\d+) =>", listing, re.MULTILINE)}
    missed = set(re.findall(r"^\t\S+\.pml:(\d+), state (\d+),", out, re.MULTILINE))
    return run, states[1] if states else "-", time.monotonic() - begin, wrong, known, missed


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="NAME", choices={run.model for run in RUNS})
    only = parser.parse_args().only
    failed, lines = False, {}
    print(f"{'model':<16} {'kind':<10} {'property':<38} {'states':>9} {'s':>6}  errors")
    with ThreadPoolExecutor(2) as pool:
        for run, states, seconds, wrong, known, missed in pool.map(check, [r for r in RUNS if only in (None, r.model)]):
            result = wrong or ("as they must be" if run.fails else "none")
            print(f"{run.model:<16} {run.kind:<10} {run.what:<38} {states:>9} {seconds:>6.1f}  {result}", flush=True)
            failed |= bool(wrong)
            for line, state in known if run.kind == "holds" else ():
                lines[run.model, int(line)] = lines.get((run.model, int(line)), False) or (line, state) not in missed
    never = sorted(place for place, reached in lines.items() if not reached)
    print(*(f"{model}.pml:{line} is never reached" for model, line in never), sep="\n")
    return int(failed or bool(never))


if __name__ == "__main__":
    sys.exit(main())
