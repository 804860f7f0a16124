"""Large values: seen where they lie, copied out, and stored. The private rival copies as many bytes within one process."""

from __future__ import annotations

from measure import Loop, Row, Texts

BYTES = "x = bytes(1_000_000)"
ARRAY = "import numpy\nx = numpy.ones(1_000_000)"


def holding(value: str) -> Texts:
    return {
        "fastshm": f"{value}\nd = fastshm.dict(k=x)",
        "manager": f"{value}\nd = manager.dict(k=x)",
        "copied": f"{value}\nimport array\ny = memoryview(array.array('B', bytes(memoryview(x).nbytes)))",
    }


COPY = {"copied": "y[:] = memoryview(x).cast('B')"}


def read(statement: str) -> Texts:
    return {"fastshm": statement, "manager": "d['k']", "copied": "bytes(y)"}


def seen(statement: str) -> Texts:
    return {"fastshm": statement, "manager": statement.replace("d.view('k')", "d['k']"), "copied": "bytes(y)"}


def written() -> Texts:
    return {"fastshm": "d['k'] = x", "manager": "d['k'] = x", **COPY}


ROWS: list[Row] = [
    Loop("d.view(k)  (bytes, 1 MB)", holding(BYTES), seen("d.view('k')[-1]")),
    Loop("d[k]  (bytes, 1 MB)", holding(BYTES), read("d['k']")),
    Loop("d[k] = bytes, 1 MB", holding(BYTES), written()),
    Loop("d.view(k)  (ndarray, 8 MB)", holding(ARRAY), seen("d.view('k')[-1]")),
    Loop("d[k]  (ndarray, 8 MB)", holding(ARRAY), read("d['k']")),
    Loop("d[k] = ndarray, 8 MB", holding(ARRAY), written()),
]
