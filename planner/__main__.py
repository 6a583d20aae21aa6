"""The console script ``plan``, and ``python -m planner``."""

import gc
import os


def main() -> None:
    """A plan is made before garbage in cycles would matter: to look for it took a quarter of the
    time, while modules were imported and, once more, when all was done. pydantic would ask every
    installed distribution for plugins, which took a tenth of the time; none has a say here."""
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from planner.cli import main as plan

    try:
        plan()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
