from typing import final

@final
class Packed: ...

@final
class Span: ...

__pyx_capi__: dict[str, object]
