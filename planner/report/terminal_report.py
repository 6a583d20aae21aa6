"""The report for people. Takes finished results and computes nothing but their layout."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.base.units import MIB, format_count, format_gib, format_rate, short_gib
from planner.decision.alternatives import Alternative
from planner.decision.choose import Decision
from planner.memory.device_memory import overheads
from planner.plan.vocabulary import METHOD_NAMES, PARTS, PHASE_TITLES, PHASES
from planner.report.data_rows import data_rows
from planner.report.machine_report import machine_section
from planner.report.prose import Prose
from planner.report.recipe_changes import changes
from planner.report.speed_rows import speed_rows
from planner.report.tables import NARROW, facts, plain_table
from planner.report.verdict import verdict
from planner.report.what_if_report import what_if_section
from planner.report.words import STRATEGY_TITLES
from planner.search.candidate import Candidate
from planner.workload.measured_ratios import peak_ratio

MORE = "--verbose shows the rest: reason, other ways, limits, machine, sources"
ROWS_BELOW = 2
"""Rows of a terminal that the report leaves to that line and to the prompt."""


def report(decision: Decision, *, width: int, next_steps: list[str]) -> Group:
    """Return the whole report, top to bottom, for a terminal of ``width`` columns."""
    return _apart(sections(decision, width=width, next_steps=next_steps))


def sections(
    decision: Decision, *, width: int, next_steps: list[str], brief: bool = False
) -> list[RenderableType]:
    """Return the report's sections, the answer first and what it rests on last."""
    return [
        verdict(decision, width=width, next_steps=next_steps, brief=brief),
        _memory(decision, width),
        *([_alternatives(decision, width)] if decision.alternatives else []),
        *_limits(decision),
        machine_section(decision.request.cluster),
        facts(detail_rows(decision)),
    ]


def print_report(
    console: Console, decision: Decision, next_steps: list[str], *, whole: bool = True
) -> None:
    """Print the report as wide as the console: all of it, or as many sections as a terminal has
    rows for, and how many more there are."""
    parts = sections(decision, width=console.width, next_steps=next_steps)
    if not console.is_terminal:
        with console.capture() as captured:
            console.print(_apart(parts))
        lines = captured.get().splitlines()
        console.file.write("\n".join(line.rstrip() for line in lines) + "\n")
        return
    if not whole and _rows(console, parts[:2]) > console.height:
        parts = sections(decision, width=console.width, next_steps=next_steps, brief=True)
    shown = len(parts) if whole else _fitting(console, parts)
    console.print(_apart(parts[:shown]))
    if shown < len(parts):
        console.print(Text(MORE, style="dim"))


def _fitting(console: Console, parts: list[RenderableType]) -> int:
    """Return how many sections a terminal's rows hold with a line below them: at least the first
    two."""
    fitting = (n for n in range(len(parts), 2, -1) if _rows(console, parts[:n]) <= console.height)
    return next(fitting, 2)


def _rows(console: Console, parts: list[RenderableType]) -> int:
    """Return the rows of a terminal that sections take, with what stands below them."""
    return len(console.render_lines(_apart(parts), pad=False)) + ROWS_BELOW


def _apart(parts: list[RenderableType]) -> Group:
    """Return the sections with an empty line between two of them."""
    first, *others = parts
    return Group(first, *(item for part in others for item in (Text(""), part)))


def _limits(decision: Decision) -> list[RenderableType]:
    """Return how far the plan is from its limits and what a richer method needs, as a section."""
    parts: list[RenderableType] = []
    if decision.what_if is not None:
        parts.append(what_if_section(decision))
    if decision.richer is not None:
        parts.append(facts([("Richer method", decision.richer)]))
    return [_apart(parts)] if parts else []


def detail_rows(decision: Decision) -> list[tuple[str, RenderableType]]:
    """Return what the answer rests on: model, settings, ranges, host, disk, speed and data."""
    chosen = decision.chosen
    model = decision.request.model
    params = format_count(model.spec.num_params)
    trained = format_count(chosen.workload.trainable_params)
    return [
        ("Model", f"{model.name}, {params} parameters, {trained} trained"),
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
    sentences = "; ".join(changes(decision.request, recipe, decision.chosen))
    changed = f". Changed: {sentences}" if sentences else ""
    return [("Recipe", f"{recipe.name} ({recipe.source.title}){changed}")]


def _optimizer_line(decision: Decision) -> list[tuple[str, RenderableType]]:
    """Return the optimizer where an option names it; its other settings stay the recipe's."""
    if decision.request.optimizer is None:
        return []
    rate = decision.chosen.workload.settings.optimizer.learning_rate
    return [("", f"{decision.request.optimizer}, at the recipe's learning rate of {rate:g}")]


def _memory(decision: Decision, width: int) -> Table:
    footprint, narrow = decision.chosen.footprint, width < NARROW
    unit = "device" if decision.request.cluster.device == "cpu" else "GPU"
    table = plain_table(f"Memory per {unit}, GiB", narrow=narrow)
    table.add_column("part", min_width=16, no_wrap=True)
    for phase in PHASES:
        peak = phase == footprint.peak_phase
        mark = ("\npeak" if narrow else " peak") if peak else ""
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
            table.add_row(part.replace("_", " "), *(gib_cell(size) for size in sizes))
    totals = (format_gib(footprint.total_bytes(phase)) for phase in PHASES)
    table.add_row("allocated", *totals, style="bold")
    return table


def gib_cell(num_bytes: int) -> str:
    """Return GiB; zero is a dash, and less than a hundredth is shown as such."""
    if num_bytes == 0:
        return "-"
    text = format_gib(num_bytes)
    return "<0.01" if text == "0.00" else text


def _capacity_rows(decision: Decision) -> list[tuple[str, RenderableType]]:
    on_cpu = decision.request.cluster.device == "cpu"
    rows: list[tuple[str, RenderableType]] = [("Capacity", _capacity(decision))]
    if not on_cpu:
        memory = decision.chosen.memory
        low, high = short_gib(memory.low_bytes), short_gib(memory.high_bytes)
        rows.append(("Range", Prose(f"{low} to {high} GiB: {_range_source(decision)}", "dim")))
    return rows


def _capacity(decision: Decision) -> str:
    capacity = decision.request.cluster.accelerator.capacity_bytes
    budget = decision.request.budget_bytes
    usable = "" if budget == capacity else f"{short_gib(budget)} GiB usable, "
    spare = f"{short_gib(decision.spare_bytes)} GiB free in the worst case"
    return f"{short_gib(capacity)} GiB, {usable}{spare}{' (tight)' if decision.tight else ''}"


def _range_source(decision: Decision) -> str:
    """Return what the range is made of, each ratio with its count of readings."""
    cluster = decision.request.cluster
    ratio, nccl = overheads().reserved_over_allocated, overheads().nccl_mib
    chosen, holes = decision.chosen, ""
    error = peak_ratio(chosen.method)
    if chosen.memory.holes_beyond_ratio_bytes:
        pool = chosen.footprint.pool_bytes / chosen.memory.peak_allocated_bytes
        holes = f", here {pool:.2f} since a pass leaves holes"
    text = (
        f"measured over predicted {error.low:.2f} to {error.high:.2f} "
        f"({error.runs} published runs), "
        f"reserved over allocated {ratio.low:.2f} to {ratio.high:.2f} "
        f"({ratio.readings} published readings){holes}, "
        f"context {format_gib(cluster.accelerator.context_bytes)} GiB"
    )
    if cluster.world_size == 1:
        return text
    low, high = format_gib(nccl.low * MIB), format_gib(nccl.high * MIB)
    return f"{text}, NCCL {low} to {high} GiB ({nccl.readings} readings)"


def _costs(decision: Decision) -> list[tuple[str, RenderableType]]:
    chosen = decision.chosen
    nodes = chosen.cluster.num_nodes
    host = f"{short_gib(chosen.host.node_bytes)} GiB" + (" per node" if nodes > 1 else "")
    disk = (
        f"{short_gib(chosen.result_bytes)} GiB for the result, "
        f"{short_gib(chosen.checkpoint_bytes)} GiB per checkpoint"
    )
    return [
        ("Host memory", host),
        ("Disk", disk),
        *speed_rows(chosen, decision.request.price_per_gpu_hour),
        *data_rows(chosen, decision.request.data, decision.packed),
    ]


def _alternatives(decision: Decision, width: int) -> RenderableType:
    """Return a row for each alternative; in a narrow terminal, the reason has lines of its own."""
    rows = [alternative_cells(alternative) for alternative in decision.alternatives]
    styles = ["" if alternative.fits else "dim" for alternative in decision.alternatives]
    if width < NARROW:
        sentences = [
            (method, Prose(f"{strategy}, batch {batch}, {gib} GiB{_rate(speed)}: {why}", style))
            for (method, strategy, batch, gib, speed, why), style in zip(rows, styles, strict=True)
        ]
        return Group(Text("Other ways", style="bold"), facts(sentences))
    table = plain_table("Other ways")
    table.add_column("method", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("worst GiB", justify="right", no_wrap=True)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    table.add_column("why not", overflow="fold")
    for (*cells, why), style in zip(rows, styles, strict=True):
        table.add_row(*cells, Prose(why, style), style=style)
    return table


def _rate(speed: str) -> str:
    return "" if speed == "-" else f", {speed} tokens/s"


def alternative_cells(alternative: Alternative) -> tuple[str, str, str, str, str, str]:
    """Return a row: method, strategy, micro-batch size, worst GiB, tokens/s, reason."""
    candidate = alternative.candidate
    speed = candidate.tokens_per_second if alternative.fits else None
    return (
        METHOD_NAMES[candidate.method],
        STRATEGY_TITLES[candidate.layout.strategy],
        str(candidate.layout.micro_batch_size),
        format_gib(candidate.memory.high_bytes, 1),
        "-" if speed is None else format_rate(speed),
        _reason(alternative.reason, candidate),
    )


def _reason(reason: str, candidate: Candidate) -> str:
    """Return the reason, with what is special about the candidate beside it."""
    recomputed = candidate.layout.recomputed
    special = [f"recomputes {recomputed}"] if recomputed and "checkpointing" not in reason else []
    special += [departure for departure in candidate.departures if departure not in reason]
    return f"{reason} ({', '.join(special)})" if special else reason
