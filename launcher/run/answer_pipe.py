"""Where a process that is asked in JSON reads its questions and writes its answers."""

import os
from typing import TextIO

from launcher.run.end_with_parent import end_with_parent


def question_and_answer_pipes() -> tuple[TextIO, TextIO]:
    """Return streams from the standard input and to the standard output that this process was
    started with, which nobody else has from now on.

    What a library prints is no answer: it goes to standard error. What a library asks a person is
    no business of the one who sends questions: it reads the end of a file, and not a question.

    The process ends with the one that asks, even in the middle of an answer.
    """
    end_with_parent()
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return questions, answers
