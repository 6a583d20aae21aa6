"""The console script ``plan``, and ``python -m planner``."""

import gc


def main() -> None:
    """A plan is made before garbage in cycles would matter: to look for it took a quarter of the
    time, while modules were imported and, once more, when all was done."""
    gc.disable()
    from planner.cli import main as plan

    try:
        plan()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
