"""Where a process that is asked in JSON writes its answers."""

import os
from typing import TextIO

from launcher.run.end_with_parent import end_with_parent


def answer_pipe() -> TextIO:
    """Return a stream to the standard output that this process was started with, and print to
    standard error from now on: what a library prints is no answer.

    The process ends with the one that asks, even in the middle of an answer.
    """
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return answers
