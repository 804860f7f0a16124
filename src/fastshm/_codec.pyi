from typing import final

@final
class Packed: ...

def set_proxy_classes(of_table: type, of_vector: type) -> None: ...

__pyx_capi__: dict[str, object]
