from typing import final

@final
class Packed: ...
