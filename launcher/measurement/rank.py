"""One rank that measures, alone or together with the others of this machine."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from msgspec import convert

from launcher.measurement.host import host_rates
from launcher.measurement.host_per_kernel import TinyStep, host_s_per_kernel
from launcher.measurement.kernels import kernel_rates
from launcher.measurement.links import link_rates
from launcher.measurement.question import Question
from launcher.measurement.stopwatch import Stopwatch
from planner.base.phrases import Phrase
from planner.plan.schema import Plan

MEASURING_SECONDS = 30.0
"""Seconds for measuring, of the minute that a device may take; loading libraries takes the rest."""


ROUNDS = 3
"""Times that the kernels are measured, of which the middle counts: a processor may be faster while
it is cool, and slower while another program runs."""


def steady_kernel_rates(
    watch: Stopwatch, half: torch.dtype, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the middle of as many rounds of rates as there is time for."""
    began = time.monotonic()
    rounds = [kernel_rates(watch, half, say)]
    round_s = time.monotonic() - began
    while len(rounds) < ROUNDS and watch.has(round_s):
        say(Phrase("the same again"))
        again = kernel_rates(watch, half, lambda _what: None)
        if watch.is_over:
            break  # what was left out of it is unknown
        rounds.append(again)
    steady: dict[str, Any] = middle(rounds)
    return steady


def middle(rounds: Sequence[Any]) -> Any:
    """Return the median of each number of contents that are alike.

    >>> middle([{"moved": [1.0, 5.0]}, {"moved": [2.0, 6.0]}, {"moved": [9.0, 4.0]}])
    {'moved': [2.0, 5.0]}
    """
    first = rounds[0]
    if isinstance(first, dict):
        return {name: middle([each[name] for each in rounds]) for name in first}
    if isinstance(first, list):
        return [middle(points) for points in zip(*rounds, strict=True)]
    return median(rounds)


def measured(question: Question, rank: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return what rank 0 answers; all ranks call it, each for its own device."""
    if question.device == "cuda":
        torch.cuda.set_device(rank)
        device = torch.device("cuda", rank)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    until = time.monotonic() + MEASURING_SECONDS
    watch = Stopwatch(device, until=until)
    half = torch.bfloat16 if question.has_bf16 else torch.float16
    rates = steady_kernel_rates(watch, half, say)
    say(Phrase("launches of kernels, by training tiny models"))
    tiny = [TinyStep(convert(each["plan"], Plan), each["kernels"]) for each in question.tiny_steps]
    rates["host_s_per_kernel"] = host_s_per_kernel(tiny, device)
    links = None
    if dist.is_initialized():
        say(Phrase("all-reduce, all-gather and reduce-scatter"))
        links = link_rates(watch)
    say(Phrase("the host's memory and the disk"))
    host = host_rates(device, until=until, folder=Path(question.folder))
    return {"kernels": rates, "host": host, "links": links, "torch": torch.__version__}
