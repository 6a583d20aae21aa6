"""``--gpus``: the machine that a plan is for, named on the command line or detected here."""

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.hardware.card_names import NamedCard, card_named, is_card, plain_spelling
from planner.hardware.cards import named_cluster, sized_cluster, visible_bytes
from planner.hardware.cluster import Cluster
from planner.hardware.machine import cpu_cluster, gpu_cluster, selection
from planner.hardware.machine_readings import CUDA_VARIABLES, CudaEnvironment, Machine
from planner.hardware.measured.kept_measurements import measurements_here
from planner.hardware.measured.own_runs import runs_here

_TIMES = r"[x*\u00d7]"
"""Signs between a count and a card."""


def parse_gpus(text: str) -> Cluster:
    """Return the cluster of ``cpu``, ``24G``, ``2x24G``, ``rtx-4090``, ``rtx-4090:2``, ``4090x2``,
    ``8 x NVIDIA H100 80GB HBM3`` or of several cards joined by ``+`` or ``,``.

    Raises InvalidRequestError for a text of another form, UnknownNameError for an unknown card.
    """
    spec = plain_spelling(text)
    if spec == "cpu":
        return read_cpu()
    parts = [part.strip() for part in re.split(r"[+,]", spec)]
    if len(parts) > 1:
        return _mixed_cluster(parts, text)
    count, card = _count_and_card(spec, text)
    size = re.fullmatch(r"([1-9][0-9]{0,3})(?:g|gb|gib)", card)
    if size is not None:
        return sized_cluster(int(size[1]), count)
    named = _named_card(card, text)
    cluster = named_cluster(named.card, count)
    return structs.replace(cluster, notes=(*cluster.notes, named.note)) if named.note else cluster


def _named_card(card: str, text: str) -> NamedCard:
    if re.fullmatch(r"[0-9.]+ ?(g|gb|gib|m|mb|mib)", card):
        raise _bad_spec(text, Phrase("sizes are whole GiB from 1G to 9999G, such as 24G."))
    if card == "cpu":
        raise _bad_spec(text, Phrase("the CPU takes no count: write cpu."))
    if card.isdigit() and not is_card(card):
        raise _bad_spec(text, Phrase("a size needs its unit, did you mean {card}G?", card=card))
    return card_named(card)


def _mixed_cluster(parts: list[str], text: str) -> Cluster:
    """Return the cluster of cards that differ, planned as on this machine (machine.py): with the
    memory of the card that has the least, at the rates of the slowest."""
    counts = [_count_and_card(part, text) for part in parts]
    if any(re.fullmatch("[0-9]+ ?gi?b?", card) for _, card in counts):
        raise _bad_spec(
            text, Phrase("sizes are not mixed: give all GPUs the smallest, as in 2x16G.")
        )
    cards = [_named_card(card, text).card for _, card in counts]
    total = sum(count for count, _ in counts)
    slowest = min(cards, key=lambda card: card.dense_bf16_flops_per_s or 0)
    weakest = min(cards, key=lambda card: (card.nominal_gib, card is not slowest))
    cluster = named_cluster(weakest, total)
    if len({card.name for card in cards}) == 1:
        return cluster
    rates = [card.pcie_bytes_per_s for card in cards]
    return structs.replace(
        cluster,
        accelerator=structs.replace(
            cluster.accelerator,
            capacity_bytes=min(map(visible_bytes, cards)),
            supports_bf16=all(card.supports_bf16 for card in cards),
            speed=slowest,
        ),
        link="pcie",
        link_bytes_per_s=min((rate for rate in rates if rate is not None), default=None),
        notes=(
            Phrase(
                "Mixed cards: all {total} are planned as {card}, which has the least memory, at "
                "the speed of {slowest}: the ranks wait for the slowest.",
                total=total,
                card=weakest.name,
                slowest=slowest.name,
            ),
        ),
    )


def _count_and_card(spec: str, text: str) -> tuple[int, str]:
    """Return count and card of a part of ``--gpus``, which ``text`` is."""
    count, card = _split(spec)
    if 2 < len(count) <= 4 and is_card(count):
        raise _card_as_count(count, text)
    if not re.fullmatch(r"[1-9][0-9]{0,3}", count):
        raise _bad_spec(
            text, Phrase("{count!r} is not a number of cards from 1 to 9999.", count=count)
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9 ._/-]{0,79}", card):
        raise _bad_spec(
            text,
            Phrase("{card!r} is neither a card nor a size.", card=card)
            if card
            else Phrase("it names no card."),
        )
    return int(count), card


def _split(spec: str) -> tuple[str, str]:
    """Return count and card of ``CARD``, ``2xCARD``, ``CARDx2``, ``2 CARD`` or ``CARD:2``.

    Names of cards have an x too, and of two numbers the one that is a card is no count.
    """
    before = re.fullmatch(rf"(-?[0-9]+) ?{_TIMES} ?(.*)", spec)
    behind = re.fullmatch(rf"(.*[^ ]) ?(?<!rt)(?<!gt){_TIMES} ?([0-9]{{1,4}})", spec)
    if behind is not None and (before is None or is_card(before[1])):
        return behind[2], behind[1]
    if before is not None:
        return before[1], before[2]
    apart = re.fullmatch(r"([0-9]{1,2}) (.*)", spec) or re.fullmatch(r"(.*?):(.*)", spec)
    if apart is None:
        return "1", spec
    return (apart[1], apart[2]) if apart[1].isdigit() else (apart[2], apart[1])


def _card_as_count(name: str, text: str) -> InvalidRequestError:
    card = card_named(name).card.name
    return InvalidRequestError(
        Phrase(
            "--gpus {text!r}: {name} is a card, not a number of cards: write {card} for "
            "one, 2x{card} for two",
            text=text,
            name=name,
            card=card,
        )
    )


def _bad_spec(text: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        Phrase(
            "--gpus {text!r}: {reason} Write for example 24G, 2x24G, rtx-4090, "
            "rtx-4090:2, 8xh100-sxm-80gb, cpu, auto or a saved machine.json (plan --list "
            "gpus shows the cards)",
            text=text,
            reason=reason,
        )
    )


def read_machine(environ: Mapping[str, str], output: Path = Path()) -> Machine:
    """Return all that can be read of this machine; ``output`` is where a run will be written."""
    # A plan for a named card does without.
    from planner.hardware.linux_host import read_host, read_torch
    from planner.hardware.nvml import read_nvml

    torch = read_torch()
    return Machine(
        nvml=read_nvml(),
        host=read_host(output=output),
        torch=torch,
        environment=cuda_environment(environ),
        measurements=measurements_here(torch),
        runs=runs_here(torch),
    )


def read_cpu() -> Cluster:
    """Return a cluster of this machine's processor alone."""
    from planner.hardware.linux_host import read_host, read_torch  # as above

    torch = read_torch()
    cluster = cpu_cluster(read_host(), measurements=measurements_here(torch))
    return structs.replace(cluster, runs=runs_here(torch))


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
