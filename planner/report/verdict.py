"""The first lines of the report: whether it fits and by how much, what is trained, how fast."""

from rich.console import Group, RenderableType
from rich.text import Text

from planner.base.units import format_duration, format_rate, short_gib
from planner.decision.choose import Decision
from planner.decision.epochs import epochs_of
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


def verdict(decision: Decision, *, width: int, next_steps: list[str], brief: bool = False) -> Group:
    """Return the section for a terminal of ``width`` columns; a brief one has no reason and no
    time."""
    chosen = decision.chosen
    colour = "yellow" if decision.tight else "green"
    rows: list[tuple[str, RenderableType]] = [
        ("Method", Prose(headline(chosen), "bold green")),
        ("Batch", batch_line(chosen)),
        ("Memory", Prose(memory_line(decision), "bold")),
        ("", _bar(decision, min(width, WIDEST) - 18)),
        ("Speed", speed_line(decision)),
        *([] if brief else reason_and_time(decision)),
        *(("Note", Prose(note, "yellow")) for note in notes(decision)),
        ("Next", Text("\n".join(next_steps), style="bold")),
    ]
    return Group(
        Prose(_title(decision), f"bold {colour}"),
        Text("─" * min(width, WIDEST), style="dim"),
        facts(rows),
    )


def _title(decision: Decision) -> str:
    tight = ", which is tight" if decision.tight else ""
    return (
        f"{decision.request.model.name} on {machine_line(decision.request.cluster)}: fits, "
        f"{short_gib(decision.spare_bytes)} GiB free in the worst case{tight}"
    )


def memory_line(decision: Decision) -> str:
    """Return what the plan takes of each device, expected and in the worst case."""
    memory, cluster = decision.chosen.memory, decision.request.cluster
    expected, high = short_gib(memory.device_used_bytes), short_gib(memory.high_bytes)
    budget = short_gib(decision.request.budget_bytes)
    if cluster.device == "cpu":
        return f"{expected} GiB of {budget}"
    each = " of each GPU" if cluster.world_size > 1 else ""
    return f"{expected} GiB expected, {high} in the worst case, of {budget}{each}"


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
        return "unknown: no published rates for this device"
    return (
        f"{format_rate(speed.tokens_per_second)} tokens/s, "
        f"{format_duration(speed.step.total_s)} per step ({format_duration(speed.low_s)} to "
        f"{format_duration(speed.high_s)}), limited by {LIMITS[speed.bottleneck.name]}"
    )


def reason_and_time(decision: Decision) -> list[tuple[str, str]]:
    """Return how long a run takes, as far as that is known, and why this method."""
    chosen, speed, data = decision.chosen, decision.chosen.throughput, decision.request.data
    rows: list[tuple[str, str]] = []
    if data is not None and data.known is not None:
        rows.append(("Time", run_line(chosen, epochs_of(chosen, data.known))))
    elif data is not None and (counted := counted_run_line(chosen, data)) is not None:
        rows.append(("Time", counted))
    elif speed is not None:
        per_million = format_duration(speed.cost(MILLION, None).seconds)
        rows.append(("Time", f"{per_million} per million tokens"))
    return [*rows, (f"Why {METHOD_NAMES[chosen.method]}", decision.why)]


def notes(decision: Decision) -> list[str]:
    """Return what a reader must know before the plan is run."""
    chosen, model, cluster = decision.chosen, decision.request.model, decision.request.cluster
    found = []
    if model.native_class is None:
        found.append(
            "transformers builds this model from remote code only: launch will not train it"
        )
    if isinstance(model.spec, TracedSpec):
        traced = "memory is that of traced steps; speed counts every matrix once per token"
        found.append(f"No formulas for {model.spec.model_type}: {traced}, of experts the chosen")
        found += _wrapper_notes(model.spec)
    work = chosen.workload
    found += [
        note
        for note in (work.experts_note, work.adapter_note, work.rounding_note)
        if note is not None
    ]
    lacking = lacking_now(cluster, host_bytes=chosen.host.node_bytes, disk_bytes=chosen.disk_bytes)
    return found if lacking is None else [*found, lacking]


def _wrapper_notes(spec: TracedSpec) -> list[str]:
    """Return what becomes of models of images or sound that the configuration has beside the text
    model: plan and launch build the same class."""
    notes = []
    if spec.left_out:
        notes.append(
            f"The text model alone is planned and trained, as {spec.native_class}: "
            f"{', '.join(spec.left_out)} is left out"
        )
    if spec.towers:
        notes.append(
            f"{', '.join(spec.towers)} is in memory beside the text model and stays as it is: "
            "records are texts alone"
        )
    return notes
