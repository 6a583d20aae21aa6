"""The console script ``launch``, and ``python -m launcher``."""

import sys

from planner.base.interruptions import ended_by_ctrl_c


def main() -> int:
    """Run ``launch`` and return its exit code."""
    with ended_by_ctrl_c():
        from launcher.cli.launch_command import main as launch
    return launch()


if __name__ == "__main__":
    sys.exit(main())
