"""The console script ``plan``, and ``python -m planner``."""

import dataclasses
import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def main() -> None:
    """A plan is made before garbage in cycles would matter: to look for it took a quarter of the
    time, while modules were imported and, once more, when all was done."""
    gc.disable()
    _read_no_plugins()
    _compile_when_called()
    from planner.cli import main as plan

    try:
        plan()
    finally:
        gc.freeze()


def _read_no_plugins() -> None:
    """pydantic asks every installed distribution for plugins of its own, which took a tenth of
    the time; none has a say here (pydantic/plugin/_loader.py at 2.14, get_plugins)."""
    loader = ModuleType("pydantic.plugin._loader")
    vars(loader)["get_plugins"] = tuple
    sys.modules[loader.__name__] = loader


RARELY_CALLED = ("__repr__", "__setattr__", "__delattr__")
"""Of a frozen dataclass: the last two only ever refuse."""


def _compile_when_called() -> None:
    """Half of the methods that ``dataclass`` writes and compiles, one by one until Python 3.13,
    are never called here: to compile them took a twentieth of the time (Lib/dataclasses.py at
    3.11 and 3.12, _create_fn)."""
    if sys.version_info >= (3, 13):
        return
    create: Callable[..., Callable[..., Any]] = vars(dataclasses)["_create_fn"]

    def later(name: str, *source: Any, **around: Any) -> Callable[..., Any]:
        if name not in RARELY_CALLED:
            return create(name, *source, **around)

        def method(*given: Any) -> Any:
            return create(name, *source, **around)(*given)

        method.__name__ = name
        return method

    vars(dataclasses)["_create_fn"] = later


if __name__ == "__main__":
    main()
