"""Make the kernel end a process when its parent is gone; as a program, start a command so.

``python -I -S end_with_parent.py PARENT_PID COMMAND ...`` becomes COMMAND. A ``preexec_fn`` would
run Python between ``fork`` and ``exec``, where it can wait forever for a lock that another thread
of the parent held. This file runs isolated, so it imports nothing of this project.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # read: linux/prctl.h


def end_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this process when its parent has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> None:
    """Become the command of ``sys.argv``, or end if the parent is gone already."""
    parent, *command = sys.argv[1:]
    end_with_parent()
    if os.getppid() != int(parent):
        raise SystemExit(f"process {parent}, which started this one, has ended")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
