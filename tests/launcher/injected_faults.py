"""Faults put into a rank by the tests; the launcher itself knows nothing of them.

Words of ``KIND@STAGE:STEP``; ``/N`` behind it: on rank N only; ``+N``: only where micro-batches
are above N.
"""

import contextlib
import gc
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launcher.faults.rank_stages import Stages
from launcher.run.run_directory import RunDirectory
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan

_FAULT = re.compile(r"(\w+)@(\w+):(\d+)(?:/(\d+))?(?:\+(\d+))?")


def install(faults: str) -> None:
    """Make this process fail when it enters one of the stages."""
    mine = [each for each in map(_fault, faults.split()) if each.rank in (None, os.environ["RANK"])]
    enter = Stages.enter

    def entering(self: Stages, stage: Any, step: int) -> None:
        enter(self, stage, step)
        for fault in mine:
            if (fault.stage, fault.step) == (stage, step) and _large(fault.above):
                _meet(fault.kind)

    if mine:
        Stages.enter = entering  # type: ignore[method-assign]


def meet_before_preparing(faults: str) -> None:
    """Let a preparation meet the faults ``KIND@prepare:0`` at its beginning."""
    for fault in map(_fault, faults.split()):
        if fault.stage == "prepare":
            _meet(fault.kind)


@dataclass(frozen=True)
class Fault:
    kind: str
    stage: str
    step: int
    rank: str | None
    above: str | None


def _fault(text: str) -> Fault:
    match = _FAULT.fullmatch(text)
    assert match is not None, text
    kind, stage, step, rank, above = match.groups()
    return Fault(kind, stage, int(step), rank, above)


def _large(above: str | None) -> bool:
    """Whether the plan that runs has micro-batches that are too large for this fault."""
    if above is None:
        return True
    plan = read_spec(Plan, Path(sys.argv[1]) / "plan.yaml")
    return plan.batch.micro_batch_size > int(above)


def _meet(kind: str) -> None:
    KINDS[kind]()


def _run_out_of_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _run_out_of_a_shared_card() -> None:
    import torch

    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 40.00 MiB "
        "of which 1.00 MiB is free. Process 7 has 34.00 MiB memory in use. Including non-PyTorch "
        "memory, this process has 5.00 MiB memory in use. Of the allocated memory 4.00 MiB is "
        "allocated by PyTorch, and 1.00 MiB is reserved by PyTorch but unallocated."
    )


def _fail() -> None:
    raise RuntimeError("something else")


def _be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _await_the_request_to_stop() -> None:
    """The steps of a tiny model take less than the launcher's looks lie apart."""
    asked = RunDirectory(Path(sys.argv[1])).stop
    end = time.monotonic() + 60
    while not asked.exists():
        assert time.monotonic() < end, "nobody has asked to stop"
        time.sleep(0.005)


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _die_behind_the_files() -> None:
    """Killed within a checkpoint, where the other ranks wait for its end."""
    from launcher.training.durable_trainer import DurableTrainer

    DurableTrainer._save_unlogged = lambda *_: _be_killed()  # type: ignore[method-assign]


def _limit_files() -> None:
    """As on a full disk, writes of more than a few bytes fail from now on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, hard))


def _fill_the_disk() -> None:
    """Write a file until not a byte is free on the disk of the current folder."""
    with Path("ballast").open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while file.write(b"\0" * size):
                    pass


def _write_engine_config() -> None:
    """Nothing fails: what DeepSpeed's engine was given is written beside the plan."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    (engine,) = (found for found in gc.get_objects() if type(found) is DeepSpeedEngine)
    text = json.dumps(engine.config)
    Path(sys.argv[1], f"engine-{os.environ['RANK']}.json").write_text(text, encoding="utf-8")


def _lose_the_card(fault: str) -> None:
    """A simulated card fails from now on, in this process alone."""
    import torch

    path = Path(os.environ["SIMULATED_GPU_FAULT"])
    path.write_text(fault)
    with contextlib.suppress(RuntimeError):
        torch.cuda.mem_get_info()
    path.unlink()


SLOW_S = 1.0
"""Seconds by which the slow faults delay a step or more, far above those of the tiny model."""


def _slow_reader() -> None:
    """Every batch comes late from now on."""
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    read = _BaseDataLoaderIter.__next__

    def late(self: Any) -> Any:
        time.sleep(SLOW_S)
        return read(self)

    _BaseDataLoaderIter.__next__ = late  # type: ignore[method-assign]


def _slow_host(event: str) -> None:
    """Every callback of one kind takes longer from now on."""
    from transformers.trainer_callback import CallbackHandler

    call = getattr(CallbackHandler, event)

    def late(self: Any, *inputs: Any) -> Any:
        time.sleep(SLOW_S)
        return call(self, *inputs)

    setattr(CallbackHandler, event, late)


def _slow_device() -> None:
    """Every layer takes longer from now on."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    multiply = LlamaMLP.forward

    def slowly(self: Any, x: Any) -> Any:
        time.sleep(SLOW_S / 2)
        return multiply(self, x)

    LlamaMLP.forward = slowly


def _slow_link() -> None:
    """Every bucket of DDP's gradients takes longer to be reduced from now on."""
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    wrap = torch.nn.parallel.DistributedDataParallel.__init__

    def late(group, bucket):  # type: ignore[no-untyped-def]  # DDP asks for no annotations
        time.sleep(SLOW_S)
        return allreduce_hook(group, bucket)

    def wrapped(self: Any, *inputs: Any, **options: Any) -> None:
        wrap(self, *inputs, **options)
        self.register_comm_hook(None, late)

    torch.nn.parallel.DistributedDataParallel.__init__ = wrapped  # type: ignore[method-assign]


KINDS: dict[str, Callable[[], object]] = {
    "memory": _run_out_of_memory,
    "shared": _run_out_of_a_shared_card,
    "error": _fail,
    "kill": _be_killed,
    "killsaving": _die_behind_the_files,
    "crash": _crash,
    "unasked": _await_the_request_to_stop,
    "exit": partial(os._exit, 3),
    "hang": partial(time.sleep, 600),
    "disk": _limit_files,
    "fill": _fill_the_disk,
    "engine": _write_engine_config,
    "full": partial(_lose_the_card, "full"),
    "ecc": partial(_lose_the_card, "lost 214"),
    "xid": partial(_lose_the_card, "lost 999"),
    "ncclmemory": partial(_lose_the_card, "collective 1"),
    "ncclhang": partial(_lose_the_card, "hang"),
    "slowdevice": _slow_device,
    "slowreader": _slow_reader,
    "slowlink": _slow_link,
    "slowbegin": partial(_slow_host, "on_step_begin"),
    "slowend": partial(_slow_host, "on_step_end"),
}
