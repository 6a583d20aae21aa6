"""The report for people. Takes finished results and computes nothing but their layout."""

from collections.abc import Iterator
from itertools import islice
from typing import get_args

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.base.console import print_unpadded
from planner.base.phrases import Joined, Phrase
from planner.base.units import MIB, format_count, format_gib, short_gib
from planner.decision.choose import Decision
from planner.hardware.cluster import PROCESS_BYTES
from planner.memory.device_memory import overheads
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import PARTS, PHASE_TITLES, PHASES
from planner.report.alternatives_table import alternatives_section
from planner.report.data_rows import data_rows
from planner.report.improvements_table import improvements_section
from planner.report.machine_report import machine_section
from planner.report.prose import Prose
from planner.report.recipe_changes import changes
from planner.report.speed_rows import speed_rows
from planner.report.tables import NARROW, facts, plain_table
from planner.report.verdict import LeftOut, verdict
from planner.report.what_if_report import what_if_section
from planner.report.words import PART_TITLES
from planner.workload.measured_ratios import peak_ratio

MORE = Phrase("--verbose shows the rest: reason, other ways, limits, machine, data, sources")
ROWS_BELOW = 2
"""Rows of a terminal that the report leaves to that line and to the prompt."""


def report(decision: Decision, *, width: int, next_steps: list[str]) -> Group:
    """Return the whole report, top to bottom, for a terminal of ``width`` columns."""
    return _apart([*sections(decision, width=width, next_steps=next_steps)])


def sections(
    decision: Decision, *, width: int, next_steps: list[str], left_out: LeftOut = "nothing"
) -> Iterator[RenderableType]:
    """Yield the report's sections, the answer first and what it rests on last; what a section shows
    is computed when it is asked for."""
    yield verdict(decision, width=width, next_steps=next_steps, left_out=left_out)
    yield _memory(decision, width)
    yield from _improvements(decision, width)
    if decision.alternatives:
        yield alternatives_section(decision, width)
    yield from _limits(decision)
    yield machine_section(decision.request.cluster)
    yield facts(detail_rows(decision))


def print_report(
    console: Console, decision: Decision, next_steps: list[str], *, whole: bool = True
) -> None:
    """Print the report as wide as the console: all of it, or as many sections as a terminal has
    rows for, and that there are more."""
    if whole or not console.is_terminal:
        parts = sections(decision, width=console.width, next_steps=next_steps)
        print_unpadded(console, _apart([*parts]))
        return
    for left_out in get_args(LeftOut):
        parts = sections(decision, width=console.width, next_steps=next_steps, left_out=left_out)
        shown = [*islice(parts, 2)]
        if _rows(console, shown) <= console.height:
            break
    more = False
    for part in parts:
        more = _rows(console, [*shown, part]) > console.height
        if more:
            break
        shown.append(part)
    console.print(_apart(shown))
    if more:
        console.print(Prose(MORE, "dim"))


def _rows(console: Console, parts: list[RenderableType]) -> int:
    """Return the rows of a terminal that sections take, with what stands below them."""
    return len(console.render_lines(_apart(parts), pad=False)) + ROWS_BELOW


def _apart(parts: list[RenderableType]) -> Group:
    """Return the sections with an empty line between two of them."""
    first, *others = parts
    return Group(first, *(item for part in others for item in (Text(""), part)))


def _improvements(decision: Decision, width: int) -> list[RenderableType]:
    changes = decision.improvements
    return [improvements_section(changes, width)] if changes else []


def _limits(decision: Decision) -> list[RenderableType]:
    """Return how far the plan is from its limits and what a richer method needs, as a section."""
    parts: list[RenderableType] = []
    if decision.what_if is not None:
        parts.append(what_if_section(decision))
    if decision.richer is not None:
        parts.append(facts([(Phrase("Richer method"), decision.richer)]))
    return [_apart(parts)] if parts else []


def detail_rows(decision: Decision) -> list[tuple[str, RenderableType]]:
    """Return what the answer rests on: model, settings, ranges, host, disk, speed and data."""
    chosen = decision.chosen
    model = decision.request.model
    params = format_count(model.spec.num_params)
    trained = format_count(chosen.workload.trainable_params)
    counted = Phrase(
        "{name}, {params} parameters, {trained} trained",
        name=model.name,
        params=params,
        trained=trained,
    )
    return [
        (Phrase("Model"), counted),
        *_optimizer_line(decision),
        *_recipe(decision),
        *_capacity_rows(decision),
        *_costs(decision),
    ]


def _recipe(decision: Decision) -> list[tuple[str, RenderableType]]:
    """Return whose settings these are, and which of them are changed for the machine."""
    recipe = decision.request.recipe
    if recipe is None:
        return []
    sentences = Joined("; ", changes(decision.request, recipe, decision.chosen))
    changed = Phrase(". Changed: {sentences}", sentences=sentences) if sentences else ""
    return [(Phrase("Recipe"), f"{recipe.name} ({recipe.source.title})" + changed)]


def _optimizer_line(decision: Decision) -> list[tuple[str, RenderableType]]:
    """Return the optimizer where an option names it; its other settings stay the recipe's."""
    if decision.request.optimizer is None:
        return []
    name = decision.request.optimizer
    averages = optimizers()[name].averages
    at_rate = Phrase(
        "{optimizer}, at the recipe's learning rate of {rate:g}{constant}",
        optimizer=name,
        rate=decision.chosen.workload.settings.optimizer.learning_rate,
        constant=Phrase(", which does not fall: weights are averaged") if averages else "",
    )
    return [("", at_rate)]


def _memory(decision: Decision, width: int) -> Table:
    footprint, narrow = decision.chosen.footprint, width < NARROW
    on_cpu = decision.request.cluster.device == "cpu"
    title = Phrase("Memory per device, GiB") if on_cpu else Phrase("Memory per GPU, GiB")
    table = plain_table(title, narrow=narrow)
    table.add_column(Phrase("part"), min_width=16, no_wrap=True)
    for phase in PHASES:
        peak = phase == footprint.peak_phase
        mark = ("\n" if narrow else " ") + Phrase("peak") if peak else ""
        table.add_column(
            PHASE_TITLES[phase] + mark,
            justify="right",
            no_wrap=True,
            style="green" if peak else "",
            header_style="bold green" if peak else "bold",
        )
    for part in PARTS:
        sizes = [footprint.phases[phase].get(part, 0) for phase in PHASES]
        if any(sizes):
            table.add_row(PART_TITLES[part], *(gib_cell(size) for size in sizes))
    totals = (format_gib(footprint.total_bytes(phase)) for phase in PHASES)
    table.add_row(Phrase("allocated"), *totals, style="bold")
    return table


def gib_cell(num_bytes: int) -> str:
    """Return GiB; zero is a dash, and less than a hundredth is shown as such."""
    if num_bytes == 0:
        return "-"
    text = format_gib(num_bytes)
    return "<0.01" if text == "0.00" else text


def _capacity_rows(decision: Decision) -> list[tuple[str, RenderableType]]:
    memory, on_cpu = decision.chosen.memory, decision.request.cluster.device == "cpu"
    text = Phrase(
        "{low} to {high} GiB: {source}",
        low=short_gib(memory.low_bytes),
        high=short_gib(memory.high_bytes),
        source=_process_source() if on_cpu else _range_source(decision),
    )
    return [
        (Phrase("Capacity"), _capacity(decision)),
        (Phrase("Range"), Prose(text, "dim")),
        *([] if on_cpu else [(Phrase("nvidia-smi"), Prose(_shown(decision), "dim"))]),
    ]


def _shown(decision: Decision) -> str:
    """Return what the driver will show, of which a run does not need all."""
    expected = decision.chosen.expected
    return Phrase(
        "about {used} GiB: tensors {tensors}, cached and given back if needed {cached}, "
        "context {context}",
        used=short_gib(expected.device_used_bytes),
        tensors=short_gib(expected.peak_allocated_bytes),
        cached=short_gib(expected.cached_bytes),
        context=short_gib(expected.context_bytes),
    )


def _capacity(decision: Decision) -> str:
    capacity = decision.request.cluster.accelerator.capacity_bytes
    budget = decision.request.budget_bytes
    usable = "" if budget == capacity else Phrase("{budget} GiB usable, ", budget=short_gib(budget))
    return Phrase(
        "{capacity} GiB, {usable}{spare} GiB free in the worst case{tight}",
        capacity=short_gib(capacity),
        usable=usable,
        spare=short_gib(decision.spare_bytes),
        tight=Phrase(" (tight)") if decision.tight else "",
    )


def _range_source(decision: Decision) -> str:
    """Return what the range is made of, each ratio with its count of readings."""
    cluster = decision.request.cluster
    ratio, nccl = overheads().reserved_over_allocated, overheads().nccl_mib
    chosen, holes = decision.chosen, ""
    error = peak_ratio(chosen.method)
    if chosen.memory.holes_beyond_ratio_bytes:
        pool = chosen.footprint.pool_bytes / chosen.memory.peak_allocated_bytes
        holes = Phrase(", here {pool:.2f} since a pass leaves holes", pool=pool)
    text = Phrase(
        "measured over predicted {low:.2f} to {high:.2f} ({runs} published {runs[run|runs]}), "
        "reserved over allocated {least:.2f} to {most:.2f} ({readings} published "
        "{readings[reading|readings]}){holes}, context {context} GiB",
        low=error.low,
        high=error.high,
        runs=error.runs,
        least=ratio.low,
        most=ratio.high,
        readings=ratio.readings,
        holes=holes,
        context=format_gib(cluster.accelerator.context_bytes),
    )
    if cluster.world_size == 1:
        return text
    count = chosen.layout.num_communicators
    low, high = format_gib(nccl.low * MIB), format_gib(count * nccl.high * MIB)
    text += Phrase(
        ", NCCL {low} to {high} GiB ({readings} {readings[reading|readings]})",
        low=low,
        high=high,
        readings=nccl.readings,
    )
    if count == 1:
        return text
    return text + Phrase(", at the high end for each of {count} communicators", count=count)


def _process_source() -> str:
    """Return what the range of a process on the CPU is made of."""
    ratio, libraries = overheads().resident_over_allocated, overheads().libraries_mib
    return Phrase(
        "resident over allocated {least:.2f} to {most:.2f}, since glibc keeps what tensors have "
        "left ({readings} measured {readings[run|runs]}), the process itself {process} GiB",
        least=ratio.low,
        most=ratio.high,
        readings=ratio.readings,
        process=format_gib(PROCESS_BYTES + libraries.expected * MIB),
    )


def _costs(decision: Decision) -> list[tuple[str, RenderableType]]:
    chosen = decision.chosen
    nodes = chosen.cluster.num_nodes
    host = f"{short_gib(chosen.host.node_bytes)} GiB"
    disk = Phrase(
        "{result} GiB for the result, {checkpoint} GiB per checkpoint",
        result=short_gib(chosen.result_bytes),
        checkpoint=short_gib(chosen.checkpoint_bytes),
    )
    return [
        (Phrase("Host memory"), host + Phrase(" per node") if nodes > 1 else host),
        (Phrase("Disk"), disk),
        *speed_rows(chosen, decision.request.price_per_gpu_hour),
        *data_rows(chosen, decision.request.data, decision.packed),
    ]
