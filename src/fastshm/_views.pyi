from typing import final

@final
class Pin: ...
