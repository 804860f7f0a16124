from multiprocessing.reduction import ForkingPickler
from typing import Any

class Collector(ForkingPickler):
    def reducer_override(self, o: object) -> Any: ...

def set_proxy_classes(of_table: type, of_vector: type) -> None: ...

__pyx_capi__: dict[str, object]
