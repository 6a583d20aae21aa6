"""The console script ``plan``, and ``python -m planner``."""

import gc


def main() -> None:
    """A plan is made before garbage in cycles would matter: to look for it took a sixth of the
    time, while modules are imported for the most part."""
    gc.disable()
    from planner.cli import main as plan

    plan()


if __name__ == "__main__":
    main()
