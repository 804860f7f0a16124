from typing import final

@final
class Pins: ...

__pyx_capi__: dict[str, object]
