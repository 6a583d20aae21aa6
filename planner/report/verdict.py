"""The first lines of the report: whether it fits and by how much, what is trained, how fast."""

from collections.abc import Iterator
from typing import Literal

from rich.console import Group, RenderableType
from rich.text import Text

from planner.base.phrases import Joined, Phrase
from planner.base.units import format_duration, format_rate, short_gib
from planner.decision.choose import Decision
from planner.decision.epochs import epochs_of
from planner.hardware.cluster import MOST_PER_HOST, Cluster
from planner.models.model_presets import ModelPreset
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import METHOD_NAMES
from planner.report.data_rows import counted_run_line, run_line
from planner.report.machine_report import lacking_now, machine_line
from planner.report.prose import Prose
from planner.report.speed_rows import LIMITS
from planner.report.tables import facts
from planner.report.words import batch_line, headline
from planner.speed.throughput import MILLION

WIDEST = 80
"""Columns of the rule below the first line, and of the bar with its name."""


LeftOut = Literal["nothing", "reason", "reason and time"]
"""What a terminal has no rows for."""


def verdict(
    decision: Decision, *, width: int, next_steps: list[str], left_out: LeftOut = "nothing"
) -> Group:
    """Return the section for a terminal of ``width`` columns."""
    chosen = decision.chosen
    colour = "yellow" if decision.tight else "green"
    rows: list[tuple[str, RenderableType]] = [
        (Phrase("Method"), Prose(headline(chosen), "bold green")),
        (Phrase("Batch"), batch_line(chosen)),
        (_memory_title(decision), Prose(memory_line(decision), "bold")),
        ("", _bar(decision, min(width, WIDEST) - 18)),
        (Phrase("Speed"), speed_line(decision)),
        *(_time(decision) if left_out != "reason and time" else []),
        *([_reason(decision)] if left_out == "nothing" else []),
        *((Phrase("Note"), Prose(note, "yellow")) for note in notes(decision)),
        (Phrase("Next"), Prose(Joined("\n", next_steps), "bold")),
    ]
    return Group(
        Prose(_title(decision), f"bold {colour}"),
        Text("─" * min(width, WIDEST), style="dim"),
        facts(rows),
    )


def _title(decision: Decision) -> str:
    tight = Phrase(", which is tight") if decision.tight else ""
    return Phrase(
        "{model} on {machine}: fits, {spare} GiB free in the worst case{tight}",
        model=decision.request.model.name,
        machine=machine_line(decision.request.cluster),
        spare=short_gib(decision.spare_bytes),
        tight=tight,
    )


def _memory_title(decision: Decision) -> Phrase:
    on_cpu = decision.request.cluster.device == "cpu"
    return Phrase("RAM") if on_cpu else Phrase("Memory")


def memory_line(decision: Decision) -> str:
    """Return what the plan takes of each device: in the worst case, and what its driver will show,
    which may be more, since an allocator keeps what tensors have left."""
    cluster = decision.request.cluster
    shown_bytes = decision.chosen.expected.device_used_bytes
    high_bytes = decision.chosen.memory.high_bytes
    shown, high = short_gib(shown_bytes), short_gib(high_bytes)
    budget = short_gib(decision.request.budget_bytes)
    each = Phrase(" of each GPU") if cluster.world_size > 1 else ""
    if shown_bytes > high_bytes:
        return Phrase(
            "{high} GiB at worst, of {budget}{each}; nvidia-smi will show {shown}",
            high=high,
            budget=budget,
            each=each,
            shown=shown,
        )
    return Phrase(
        "{shown} GiB expected, {high} in the worst case, of {budget}{each}",
        shown=shown,
        high=high,
        budget=budget,
        each=each,
    )


def _bar(decision: Decision, width: int) -> Text:
    """Return the bar: used in any case, used in the worst case, free."""
    memory, budget = decision.chosen.memory, decision.request.budget_bytes
    certain = round(width * memory.low_bytes / budget)
    perhaps = max(1, round(width * memory.high_bytes / budget) - certain)
    free = max(0, width - certain - perhaps)
    colour = "yellow" if decision.tight else "green"
    return Text.assemble(("█" * certain, colour), ("▒" * perhaps, "yellow"), ("·" * free, "dim"))


def speed_line(decision: Decision) -> str:
    """Return tokens per second and the time of a step with its range, and what limits it."""
    speed = decision.chosen.throughput
    if speed is None:
        return _unknown_speed(decision.request.cluster)
    return Phrase(
        "{rate} tokens/s, {step} per step ({low} to {high}), limited by {limit}",
        rate=format_rate(speed.tokens_per_second),
        step=format_duration(speed.step.total_s),
        low=format_duration(speed.low_s),
        high=format_duration(speed.high_s),
        limit=LIMITS[speed.bottleneck.name],
    )


def _unknown_speed(cluster: Cluster) -> Phrase:
    """Return why the speed is unknown; the device of this machine can be measured."""
    is_saved = cluster.machine is not None and cluster.machine.saved_on is not None
    if cluster.device == "cpu" and not is_saved:
        return Phrase("unknown until plan --measure has measured this machine, once")
    return Phrase("unknown: no published rates for this device")


def reason_and_time(decision: Decision) -> list[tuple[str, str]]:
    """Return how long a run takes, as far as that is known, and why this method."""
    return [*_time(decision), _reason(decision)]


def _time(decision: Decision) -> list[tuple[str, str]]:
    chosen, speed, data = decision.chosen, decision.chosen.throughput, decision.request.data
    if data is not None and data.known is not None:
        return [(Phrase("Time"), run_line(chosen, epochs_of(chosen, data.known)))]
    if data is not None and (counted := counted_run_line(chosen, data)) is not None:
        return [(Phrase("Time"), counted)]
    if speed is None:
        return []
    per_million = format_duration(speed.cost(MILLION, None).seconds)
    return [(Phrase("Time"), Phrase("{per_million} per million tokens", per_million=per_million))]


def _reason(decision: Decision) -> tuple[str, str]:
    method = METHOD_NAMES[decision.chosen.method]
    return Phrase("Why {method}", method=method), decision.why


def notes(decision: Decision) -> list[str]:
    """Return what a reader must know before the plan is run."""
    chosen, model, cluster = decision.chosen, decision.request.model, decision.request.cluster
    found = [note for note in (_limit_note(decision), _host_note(cluster)) if note is not None]
    if model.native_class is None:
        found.append(
            Phrase("transformers builds this model from remote code only: launch will not train it")
        )
    if isinstance(model.spec, TracedSpec):
        traced = Phrase("memory is that of traced steps; speed counts every matrix once per token")
        found.append(
            Phrase(
                "No formulas for {model_type}: {traced}, of experts the chosen",
                model_type=model.spec.model_type,
                traced=traced,
            )
        )
    found += [*_wrapper_notes(model), *_position_notes(model)]
    work = chosen.workload
    of_the_workload = (
        work.experts_note,
        work.adapter_note,
        work.dropout_note,
        work.loop_note,
        work.rounding_note,
    )
    found += [note for note in of_the_workload if note is not None]
    lacking = lacking_now(cluster, host_bytes=chosen.host.node_bytes, disk_bytes=chosen.disk_bytes)
    return found if lacking is None else [*found, lacking]


def _position_notes(model: ModelPreset) -> Iterator[str]:
    """Yield the note on positions that are scaled."""
    scaling = model.rope_scaling
    if scaling is not None:
        yield Phrase(
            "positions are scaled by YaRN (arXiv:2309.00071) from {own:,} to {most:,}, which takes "
            "no memory; short samples may lose a little by it",
            own=scaling.original_max_position_embeddings,
            most=model.spec.max_position_embeddings,
        )


def _limit_note(decision: Decision) -> str | None:
    """Return that a limit changes nothing; None without one, or where it does."""
    limit = decision.request.memory_limit_bytes
    free = decision.request.cluster.accelerator.free_bytes
    if limit is None or limit <= free:
        return None
    return Phrase(
        "--memory-limit {limit} GiB is more than the {free} GiB that are free: it changes nothing",
        limit=short_gib(limit),
        free=short_gib(free),
    )


def _host_note(cluster: Cluster) -> str | None:
    """Return how to name several hosts, where more cards are named than one usually holds."""
    count = cluster.gpus_per_node
    if cluster.machine is not None or count <= MOST_PER_HOST:
        return None
    held = next(each for each in range(MOST_PER_HOST, 0, -1) if count % each == 0)
    return Phrase(
        "one host with {count} cards is planned, and most hold at most {most}: for {nodes} hosts, "
        "--gpus {held}x{card} --nodes {nodes}",
        count=count,
        most=MOST_PER_HOST,
        nodes=cluster.num_nodes * count // held,
        held=held,
        card=cluster.accelerator.label,
    )


def _wrapper_notes(model: ModelPreset) -> list[str]:
    """Return what becomes of models of images or sound that the configuration has beside the text
    model: plan and launch build the same class."""
    notes: list[str] = []
    spec = model.spec
    if spec.left_out:
        notes.append(
            Phrase(
                "The text model alone is planned and trained, as {native_class}: {left_out} "
                "{number[is|are]} left out",
                native_class=str(model.native_class),
                left_out=", ".join(spec.left_out),
                number=len(spec.left_out),
            )
        )
    if spec.towers:
        notes.append(
            Phrase(
                "{towers} {number[is|are]} in memory beside the text model and "
                "{number[stays as it is|stay as they are]}: records are texts alone",
                towers=", ".join(spec.towers),
                number=len(spec.towers),
            )
        )
    return notes
