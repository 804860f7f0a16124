from typing import final

HANDLES: dict[int, tuple[str, str]]
WHOLES: dict[int, tuple[str, str, tuple[set[int], ...]]]
STATED: tuple[int, ...]

def learn() -> None: ...
def is_shared(value: object) -> bool: ...

@final
class Made: ...

__pyx_capi__: dict[str, object]
