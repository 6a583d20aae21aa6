"""Processes that a node starts, without the start of a Python for each: they are forked.

Torch elastic, the preparation, the meeting and every rank run as they do otherwise, in a process
of their own; only their imports are done already. In place of ``subprocess.Popen``.
"""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import IO, Any, NoReturn

from launcher.run import end_with_parent

_popen = subprocess.Popen


def fork_modules(*_: Any, **__: Any) -> Any:
    """``subprocess.Popen``, which forks for ``python -m MODULE``."""
    command = list(__.get("args") or _[0])
    if end_with_parent.__file__ in command:
        command = command[command.index(end_with_parent.__file__) + 2 :]
        __["preexec_fn"] = end_with_parent.end_with_parent
    if "-m" in command[:3]:
        rest = command[command.index("-m") + 1 :]
        return Forked(rest, **{name: value for name, value in __.items() if name != "args"})
    return _popen(*_, **__)


class Forked:
    """As much of a ``Popen`` as this project and torch elastic use."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: IO[Any] | int | None = None,
        stderr: IO[Any] | int | None = None,
        stdin: int | None = None,
        start_new_session: bool = False,
        preexec_fn: Callable[[], None] | None = None,
    ) -> None:
        self.args, self.returncode = arguments, None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                if preexec_fn is not None:
                    preexec_fn()
                for number, stream in ((1, stdout), (2, stderr)):
                    if stream is not None:
                        os.dup2(stream if isinstance(stream, int) else stream.fileno(), number)
                os.environ.clear()
                os.environ.update(env)
            finally:
                become(list(arguments))

    returncode: int | None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(9)


def become(arguments: list[str]) -> NoReturn:
    """``python -m MODULE ARGUMENTS``; does not come back."""
    code = 1
    try:
        sys.argv = arguments
        code = import_module(arguments[0]).main() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
