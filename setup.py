"""The extensions and their build switches; everything else is in pyproject.toml.

FASTSHM_BUILD=debug|asan|tsan  assertions and symbols; with asan or tsan also that sanitizer.
FASTSHM_PORTABLE_WAIT=1        wait by bounded sleeps instead of the kernel's futex.
"""

from __future__ import annotations

import multiprocessing
import os
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

KINDS = {
    "release": ["-O2", "-g0"],
    "debug": ["-O1", "-g", "-UNDEBUG", "-DFASTSHM_DEBUG=1", "-Wall"],
    "asan": ["-O1", "-g", "-UNDEBUG", "-DFASTSHM_DEBUG=1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
    "tsan": ["-O1", "-g", "-UNDEBUG", "-DFASTSHM_DEBUG=1", "-fsanitize=thread", "-fno-omit-frame-pointer"],
}
kind = os.environ.get("FASTSHM_BUILD", "release")
if kind not in KINDS:
    raise SystemExit(f"FASTSHM_BUILD={kind}: choose one of {', '.join(KINDS)}")
portable_wait = os.environ.get("FASTSHM_PORTABLE_WAIT", "0") == "1"
checked = kind != "release"
build_base = "-".join(["build", kind] + ["portable"] * portable_wait)  # two kinds never share an object file
processors = len(os.sched_getaffinity(0))
forks = multiprocessing.get_start_method() == "fork"  # else each process of Cython's would run this file again


def extension(name: str, *macros: tuple[str, str]) -> Extension:
    return Extension(
        f"fastshm.{name}",
        [f"src/fastshm/{name}.pyx"],
        include_dirs=["src/fastshm"],
        define_macros=[*macros, *([("FASTSHM_PORTABLE_WAIT", "1")] if portable_wait else [])],
        depends=sorted(glob("src/fastshm/*.h") + glob("src/fastshm/*.pxd")),
        extra_compile_args=["-std=gnu11", "-fno-semantic-interposition", *KINDS[kind]],
        extra_link_args=[flag for flag in KINDS[kind] if flag.startswith("-fsanitize")],
        language="c",
    )


elsewhere = ("FASTSHM_IDENTITY_ELSEWHERE", "1")  # one extension keeps the identities, the others ask it
extensions = [
    extension("_core"),
    extension("_set"),
    extension("_parts"),
    extension("_pickles"),
    extension("_pipes"),
    *(
        extension(name, elsewhere)
        for name in (
            "_locks",
            "_typed",
            "_array",
            "_packing",
            "_views",
            "_buffers",
            "_codec",
            "_containers",
            "_replicas",
            "_dict",
            "_list",
            "_sync",
            "_counter",
        )
    ),
]
directives = {
    "language_level": 3,
    "binding": False,  # 5 ns a call
    "auto_pickle": False,
    "autotestdict": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",  # which inspect.signature() reads
    "initializedcheck": False,
    "boundscheck": checked,
    "wraparound": False,
    "cdivision": True,
}
setup(
    ext_modules=cythonize(
        extensions, build_dir=build_base, compiler_directives=directives, emit_linenums=checked, nthreads=forks * processors
    ),
    options={"build": {"build_base": build_base}, "build_ext": {"parallel": processors}},
)
