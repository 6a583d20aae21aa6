"""PyYAML, whose patterns are compiled when they are first used.

One of them has every character that may be printed: to compile it takes a 25th of a cold ``plan``,
and only the reader in Python uses it, not libyaml's.

read: yaml/reader.py at 6.0.3, Reader.NON_PRINTABLE.
"""

import re
from typing import Any


class LatePattern:
    """A pattern that is compiled when it is first asked for anything."""

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self._asked = pattern, flags

    def __getattr__(self, name: str) -> Any:
        compiled = _compile(*self._asked)
        self.__dict__.update(match=compiled.match, search=compiled.search)
        return getattr(compiled, name)


_compile = re.compile
re.compile = LatePattern  # type: ignore[assignment]
try:
    import yaml as yaml
finally:
    re.compile = _compile
