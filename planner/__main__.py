"""The console script ``plan``, and ``python -m planner``."""

import gc
import os
import signal
import sys


def main() -> None:
    """A plan is made before garbage in cycles would matter: to look for it took a quarter of the
    time while modules were imported. Nor does anybody wait for a finished process to be taken
    apart, which takes a twentieth: what was printed is flushed, and it ends, as mypy's does."""
    gc.disable()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who reads no further ends it, as of any filter
    from planner.cli.plan_command import main as plan

    plan()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
