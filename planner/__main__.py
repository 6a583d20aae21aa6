"""The console script ``plan``, and ``python -m planner``."""

import gc
import sys
from types import ModuleType


def main() -> None:
    """A plan is made before garbage in cycles would matter: to look for it took a quarter of the
    time, while modules were imported and, once more, when all was done."""
    gc.disable()
    _read_no_plugins()
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


if __name__ == "__main__":
    main()
