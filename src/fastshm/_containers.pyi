from collections.abc import Callable
from typing import Any, final

from fastshm._core import Handle

@final
class Pins: ...

__pyx_capi__: dict[str, object]

@final
class Neighbour(Handle): ...

def set_live_maker(make: Callable[[Any, Handle], Handle]) -> None: ...
