"""``--gpus``: the machine that a plan is for, named on the command line or detected here."""

import re
from collections.abc import Mapping
from pathlib import Path

from planner.base.errors import InvalidRequestError
from planner.base.preset_files import aliases
from planner.hardware.cards import load_gpu, named_cluster, sized_cluster
from planner.hardware.cluster import Cluster
from planner.hardware.machine import cpu_cluster, gpu_cluster, selection
from planner.hardware.machine_readings import CUDA_VARIABLES, CudaEnvironment, Machine


def parse_gpus(text: str) -> Cluster:
    """Return the cluster of ``cpu``, ``24G``, ``2x24G``, ``rtx-4090``, ``rtx-4090:2`` or
    ``8xh100``.

    Raises InvalidRequestError for a text of another form, UnknownNameError for an unknown card.
    """
    spec = text.strip().lower()
    if spec == "cpu":
        return read_cpu()
    count, card = _count_and_card(spec, text)
    size = re.fullmatch(r"([1-9][0-9]{0,3}) ?(?:g|gb|gib)", card)
    if size is not None:
        return sized_cluster(int(size[1]), count)
    if re.fullmatch(r"[0-9.]+ ?(g|gb|gib|m|mb|mib)", card):
        raise _bad_spec(text, "sizes are whole GiB from 1G to 9999G, such as 24G.")
    if card == "cpu":
        raise _bad_spec(text, "the CPU takes no count: write cpu.")
    if card.isdigit() and card not in aliases("gpus"):
        raise _bad_spec(text, f"a size needs its unit, did you mean {card}G?")
    return named_cluster(load_gpu(card), count)


def _count_and_card(spec: str, text: str) -> tuple[int, str]:
    """Return count and card of ``CARD``, ``2xCARD`` or ``CARD:2``."""
    before = re.fullmatch(r"(-?[0-9]+)x(.*)", spec)
    after = re.fullmatch(r"(.*):(.*)", spec)
    count, card = "1", spec
    if before is not None:
        count, card = before.groups()
    elif after is not None:
        card, count = after.groups()
    if not re.fullmatch(r"[1-9][0-9]{0,3}", count):
        raise _bad_spec(text, f"{count!r} is not a number of cards from 1 to 9999.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9 ._/-]{0,79}", card):
        raise _bad_spec(
            text, f"{card!r} is neither a card nor a size." if card else "it names no card."
        )
    return int(count), card


def _bad_spec(text: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"--gpus {text!r}: {reason} Write for example 24G, 2x24G, rtx-4090, rtx-4090:2, "
        "8xh100-sxm-80gb, cpu, auto or a saved machine.json (plan --list gpus shows the cards)"
    )


def read_machine(environ: Mapping[str, str], output: Path = Path()) -> Machine:
    """Return all that can be read of this machine; ``output`` is where a run will be written."""
    # A plan for a named card does without.
    from planner.hardware.linux_host import read_host, read_torch
    from planner.hardware.nvml import read_nvml

    return Machine(
        nvml=read_nvml(),
        host=read_host(output=output),
        torch=read_torch(),
        environment=cuda_environment(environ),
    )


def read_cpu() -> Cluster:
    """Return a cluster of this machine's processor alone."""
    from planner.hardware.linux_host import read_host  # as above

    return cpu_cluster(read_host())


def cuda_environment(environ: Mapping[str, str]) -> CudaEnvironment:
    """Return the variables that decide which GPUs CUDA shows."""
    return {name: environ[name] for name in CUDA_VARIABLES if name in environ}


def detect(environ: Mapping[str, str], command: str = "plan ...") -> Cluster:
    """Return the cluster of this machine, as far as ``environ`` lets CUDA see it."""
    return cluster_from(read_machine(environ), command)


def cluster_from(machine: Machine, command: str = "plan ...") -> Cluster:
    """Return the GPUs of a machine where there is one to plan for, else the CPU and the reason.

    ``command`` is what a note repeats where it proposes other GPUs.
    """
    from planner.hardware.machine_notes import notes, why_no_gpu  # as above

    chosen = selection(machine)
    if not chosen.gpus:
        return cpu_cluster(machine.host, why_no_gpu(machine, chosen), machine)
    return gpu_cluster(machine, chosen, list(notes(machine, chosen, command)))
