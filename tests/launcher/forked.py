"""``launch`` without the start of a Python for every process: its children are forked.

One server imports the training stack once; each rank and each preparation is a fork of it that
runs the launcher's own ``main``. Torch elastic's part is played by :func:`_elastic`: it starts
the ranks, ends all when one fails, and writes the summary that it would write.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from launcher.lifecycle.attempt_loop import execute
from launcher.run.checkpoints import SavedState
from launcher.run.read_plan import read_plan
from launcher.run.run_directory import RunDirectory, create
from tests.launcher.injected_faults import install, meet_before_preparing
from tests.launcher.launching import Finished

PRELOADED = [
    *(
        "launcher.training.rank",
        "launcher.lifecycle.preparation_process",
        "bitsandbytes",
        "deepspeed",
    ),
    *("launcher.cli.launch_command", "launcher.nodes.meeting", "torch.distributed.run"),
]
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
TIME_LIMIT_S = 90
SUMMARY = """\
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: {process})
"""


@cache
def server() -> Any:
    """The context whose processes are forks of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        context.set_forkserver_preload(PRELOADED)
        context.Process(target=_nothing).start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _nothing() -> None:
    pass


@dataclass
class Launcher:
    """Runs plans; ``meanwhile`` is called while ranks run, with their processes."""

    context: Any = field(default_factory=server)
    fault: str = ""
    stop_behind_step: int | None = None
    """A step that is logged; the ranks wait in the one behind it until they are asked to stop."""
    meanwhile: Callable[[Sequence[BaseProcess]], None] = lambda _ranks: None
    said: list[str] = field(default_factory=list)

    def run(self, folder: Path, saved: SavedState | None = None) -> Finished:
        """``launch plan.yaml`` in a folder that holds one."""
        self.said.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("launcher.lifecycle.attempt_loop.run_to_end", self.run_to_end)
            for module in ("lifecycle.attempt_loop", "faults.outcome"):
                patch.setattr(f"launcher.{module}.say", self.said.append)
            patch.chdir(folder)
            plan = read_plan(Path("plan.yaml"))
            run = create(Path(plan.output.directory), needed_bytes=0)
            code = execute(plan, run, saved)
        return Finished(code, "", "\n".join(self.said), folder / "run")

    def run_to_end(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        *,
        ask_to_stop: Callable[[int], bool] = lambda _number: False,
        look: Callable[[], bool] = lambda: False,
    ) -> int:
        """In place of the function of this name in launcher.run.process."""
        module = (
            "launcher.training.rank"
            if "launcher.training.rank" in command
            else "launcher.lifecycle.preparation_process"
        )
        arguments = list(command[command.index(module) :])
        run = RunDirectory(Path(arguments[1]))
        number = 1
        if "--nproc-per-node" in command:
            number = int(command[command.index("--nproc-per-node") + 1])
        ranks = self._start(module, arguments, environment, number, run)
        asked = self.stop_behind_step is None
        end = time.monotonic() + TIME_LIMIT_S
        while all(rank.is_alive() for rank in ranks) and time.monotonic() < end:
            time.sleep(0.02)
            look()
            self.meanwhile(ranks)
            if not asked and _steps(run) >= (self.stop_behind_step or 0):
                asked = ask_to_stop(signal.SIGTERM)
        if module == "launcher.lifecycle.preparation_process":
            return _ended(ranks[0])
        return _elastic(ranks, log_file)

    def _start(
        self,
        module: str,
        arguments: list[str],
        environment: Mapping[str, str],
        number: int,
        run: RunDirectory,
    ) -> list[BaseProcess]:
        port = str(_free_port())
        fault = self.fault
        if self.stop_behind_step is not None:
            fault = f"{fault} unasked@forward:{self.stop_behind_step + 1}"
        ranks = []
        for rank in range(number):
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
            values = (rank, rank, number, number)
            own = {
                **environment,
                **ENVIRONMENT,
                **dict(zip(names, map(str, values), strict=True)),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            process = self.context.Process(
                target=_child,
                args=(module, arguments, own, fault, str(Path.cwd()), run.logs / "screen.log"),
            )
            process.start()
            ranks.append(process)
        return ranks


def _child(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    fault: str,
    folder: str,
    screen: Path,
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    shown = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(shown, 1)
    if module == "launcher.lifecycle.preparation_process":
        from launcher.lifecycle.preparation_process import main

        meet_before_preparing(fault)
    else:
        from launcher.training.rank import main

        install(fault)
    main()


def _ended(process: BaseProcess) -> int:
    process.join(TIME_LIMIT_S)
    assert process.exitcode is not None
    return process.exitcode


def _elastic(ranks: Sequence[BaseProcess], log_file: Path) -> int:
    """End all ranks when one has failed, say how each ended."""
    for rank in ranks:
        if rank.exitcode == 0:
            rank.join()
    if all(rank.exitcode in (None, 0) for rank in ranks):
        for rank in ranks:
            rank.join(TIME_LIMIT_S)
    if all(rank.exitcode == 0 for rank in ranks):
        return 0
    for rank in ranks:
        rank.terminate()
        rank.join(5)
        if rank.is_alive():
            rank.kill()
            rank.join()
    summary = [
        SUMMARY.format(rank=number, code=rank.exitcode, process=rank.pid)
        for number, rank in enumerate(ranks)
        if rank.exitcode
    ]
    with suppress(OSError):  # a full disk, at which torch elastic's own log ends silently
        log_file.write_text("\n".join(summary), encoding="utf-8")
    return 1


def _steps(run: RunDirectory) -> int:
    if not run.metrics.is_file():
        return 0
    return len(run.metrics.read_text(encoding="utf-8").splitlines())


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
