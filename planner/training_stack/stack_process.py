"""A process that imports the training stack and answers in JSON; or why it could not answer."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Any

from planner.base.phrases import Phrase, from_data
from planner.base.printable import print_text
from planner.base.python_children import child_environment, module_command

INSTALL = "pip install 'tuneplan[train]'"
STACK_MODULES = frozenset(
    {
        "accelerate",
        "apollo_torch",
        "bitsandbytes",
        "datasets",
        "deepspeed",
        "huggingface_hub",
        "numpy",
        "optimi",
        "packaging",
        "peft",
        "psutil",
        "pyarrow",
        "safetensors",
        "schedulefree",
        "sentencepiece",
        "tokenizers",
        "torch",
        "torchao",
        "transformers",
        "trl",
    }
)
"""Import names of the packages of setup.cfg's extra ``train``, and of their dependencies."""
LONGEST_REASON = 300
"""Characters of a library's message that are shown."""

_TRACEBACK = "Traceback (most recent call last):\n"
_RAISED = re.compile(r"^\S.*", re.MULTILINE)
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '(?P<top>\w+)")


class StackProcessError(Exception):
    """A process of the training stack that ended without an answer; the message says why."""


class StackProcess:
    """``python -m MODULE``, which is asked by lines of JSON on standard input.

    It answers every line with one JSON object on standard output. Objects of the form
    ``{"note": PHRASE}`` may come before an answer and are shown to the person at once.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._errors = TemporaryFile()  # noqa: SIM115 (closed with the process; a pipe fills up)
        self._process = subprocess.Popen(
            module_command(module),
            env=child_environment(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer; raise ``StackProcessError`` if the process ends without one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise StackProcessError(self._why_it_ended()) from None
        for line in self._process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "note" not in answer:
                return answer
            print_text(from_data(answer["note"]), file=sys.stderr)
        raise StackProcessError(self._why_it_ended())

    def close(self) -> None:
        """End the process; nothing is lost, because it keeps its results before it answers."""
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        return why_it_ended(self._module, code, self._errors.read().decode(errors="replace"))


def why_it_ended(module: str, code: int, errors: str) -> str:
    """Return one line: what raised, or which signal killed the process.

    ``code`` is its exit code, negative for a signal, and ``errors`` its standard error.

    >>> why_it_ended("launcher.x", -9, "")
    'launcher.x was killed by SIGKILL'
    """
    raised = last_error(errors)
    missing = _NO_MODULE.match(raised)
    if missing is not None and missing["top"] in STACK_MODULES:
        return Phrase(
            "the training stack is not installed, {missing} is missing: {install}",
            missing=missing["top"],
            install=INSTALL,
        )
    if code < 0:
        return Phrase(
            "{module} was killed by {name}", module=module, name=signal.Signals(-code).name
        )
    return Phrase(
        "{module} failed with {raised}",
        module=module,
        raised=raised[:LONGEST_REASON] or Phrase("exit code {code}", code=code),
    )


def last_error(errors: str) -> str:
    r"""Return the exception line of the last traceback in ``errors``, else its last line.

    >>> last_error("Traceback (most recent call last):\n  File 'a'\nValueError: b\n  c\nwarning\n")
    'ValueError: b'
    >>> last_error("one\ntwo\n\n"), last_error("")
    ('two', '')
    """
    _, traceback, rest = errors.rpartition(_TRACEBACK)
    if traceback:
        raised = _RAISED.search(rest)
        return raised[0].strip() if raised is not None else ""
    return next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
