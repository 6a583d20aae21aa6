"""The report for people. Takes finished results and computes nothing but their layout."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.base.units import MIB, format_count, format_gib, format_rate, short_gib
from planner.decision.alternatives import Alternative
from planner.decision.choose import Decision
from planner.memory.device_memory import overheads
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import METHOD_NAMES, PARTS, PHASES, Phase
from planner.report.data_rows import data_rows
from planner.report.machine_report import lacking_now, machine_section
from planner.report.prose import Prose
from planner.report.recipe_changes import changes
from planner.report.speed_rows import speed_rows
from planner.report.tables import NARROW, facts, plain_table
from planner.report.what_if_report import what_if_section
from planner.search.candidate import Candidate
from planner.workload.measured_ratios import peak_ratio

PHASE_TITLES: dict[Phase, str] = {
    "load": "load",
    "forward": "forward",
    "backward": "backward",
    "optimizer_step": "step",
    "save": "save",
}
STRATEGY_TITLES = {
    "single": "one device",
    "ddp": "DDP",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
}
BASE_TITLES = {"nf4": "4-bit", "int8": "8-bit"}
OFFLOAD_TITLES = {
    "none": "",
    "optimizer": ", optimizer in host memory",
    "all": ", parameters and optimizer in host memory",
}
METHOD_TITLES = {"qlora": "QLoRA", "lora": "LoRA", "full": "full fine-tuning"}


def report(decision: Decision, *, width: int, next_steps: list[str]) -> Group:
    """Return the whole report, top to bottom, for a terminal of ``width`` columns."""
    parts: list[RenderableType] = [
        machine_section(decision.request.cluster),
        _plan(decision),
        _memory(decision, width),
        _against_the_card(decision, width),
        _costs(decision),
        *([_alternatives(decision, width)] if decision.alternatives else []),
        *([what_if_section(decision)] if decision.what_if is not None else []),
    ]
    last: list[tuple[str, RenderableType]] = []
    if decision.richer is not None:
        last.append(("Richer method", decision.richer))
    last.append(("Next", Text("\n".join(next_steps), style="bold")))
    apart = [item for part in parts for item in (part, Text(""))]
    return Group(*apart, facts(last))


def print_report(console: Console, decision: Decision, next_steps: list[str]) -> None:
    """Print the report as wide as the console."""
    console.print(report(decision, width=console.width, next_steps=next_steps))


def _plan(decision: Decision) -> Table:
    chosen = decision.chosen
    model = decision.request.model
    params = format_count(model.spec.num_params)
    trained = format_count(chosen.workload.trainable_params)
    rows: list[tuple[str, RenderableType]] = [
        ("Model", f"{model.name}, {params} parameters, {trained} trained"),
        ("Plan", Prose(_headline(chosen), "bold green")),
        ("", _batch_line(chosen)),
        *_optimizer_line(decision),
        (f"Why {METHOD_NAMES[chosen.method]}", decision.why),
        *_recipe(decision),
    ]
    if isinstance(model.spec, TracedSpec):
        traced = "memory is that of traced steps; speed counts every matrix once per token"
        rows.append(("Note", f"No formulas for {model.spec.model_type}: {traced}"))
    if chosen.workload.experts_note is not None:
        rows.append(("Note", chosen.workload.experts_note))
    if model.native_class is None:
        warning = "transformers builds this model from remote code only: launch will not train it"
        rows.append(("Note", Prose(warning, "yellow")))
    return facts(rows)


def _recipe(decision: Decision) -> list[tuple[str, RenderableType]]:
    """Return whose settings these are, and which of them are changed for the machine."""
    recipe = decision.request.recipe
    if recipe is None:
        return []
    sentences = "; ".join(changes(decision.request, recipe, decision.chosen))
    changed = f". Changed: {sentences}" if sentences else ""
    return [("Recipe", f"{recipe.name} ({recipe.source.title}){changed}")]


def _headline(chosen: Candidate) -> str:
    ranks = chosen.layout.world_size
    where = STRATEGY_TITLES[chosen.layout.strategy]
    where = f"{where} over {ranks}" if ranks > 1 else where
    where += OFFLOAD_TITLES[chosen.layout.offload]
    recomputed = chosen.layout.recomputed
    kept = f"activations recomputed in {recomputed}" if recomputed else "activations kept"
    parts = METHOD_TITLES[chosen.method], where, _precision(chosen), kept, *chosen.departures
    return ", ".join(parts)


def _optimizer_line(decision: Decision) -> list[tuple[str, RenderableType]]:
    """Return the optimizer where an option names it; its other settings stay the recipe's."""
    if decision.request.optimizer is None:
        return []
    rate = decision.chosen.workload.settings.optimizer.learning_rate
    return [("", f"{decision.request.optimizer}, at the recipe's learning rate of {rate:g}")]


def _precision(chosen: Candidate) -> str:
    quantization = chosen.workload.settings.quantization
    base = "" if quantization is None else f"{BASE_TITLES[quantization.quant_type]} base, "
    return f"{base}{chosen.workload.compute}"


def _batch_line(chosen: Candidate) -> str:
    layout = chosen.layout
    ranks = f" x {layout.world_size} devices" if layout.world_size > 1 else ""
    return (
        f"micro-batch {layout.micro_batch_size} x accumulation "
        f"{layout.gradient_accumulation_steps}{ranks} = global batch {layout.global_batch_size}, "
        f"{chosen.workload.settings.sequence_length:,} tokens per sample"
    )


def _memory(decision: Decision, width: int) -> Table:
    footprint, narrow = decision.chosen.footprint, width < NARROW
    unit = "device" if decision.request.cluster.device == "cpu" else "GPU"
    table = plain_table(f"Memory per {unit}, GiB", narrow=narrow)
    table.show_footer = True
    table.add_column("part", footer="allocated", min_width=16, no_wrap=True)
    for phase in PHASES:
        peak = phase == footprint.peak_phase
        mark = ("\npeak" if narrow else " peak") if peak else ""
        total = format_gib(footprint.total_bytes(phase))
        table.add_column(
            PHASE_TITLES[phase] + mark,
            footer=Text(total, style="bold green" if peak else "bold"),
            justify="right",
            no_wrap=True,
            style="green" if peak else "",
            header_style="bold green" if peak else "bold",
        )
    for part in PARTS:
        sizes = [footprint.phases[phase].get(part, 0) for phase in PHASES]
        if any(sizes):
            table.add_row(part.replace("_", " "), *(_cell(size) for size in sizes))
    return table


def _cell(num_bytes: int) -> str:
    """Return GiB; zero is a dash, and less than a hundredth is shown as such."""
    if num_bytes == 0:
        return "-"
    text = format_gib(num_bytes)
    return "<0.01" if text == "0.00" else text


def _against_the_card(decision: Decision, width: int) -> Table:
    memory, budget = decision.chosen.memory, decision.request.budget_bytes
    on_cpu = decision.request.cluster.device == "cpu"
    expected, low, high = map(
        short_gib, (memory.device_used_bytes, memory.low_bytes, memory.high_bytes)
    )
    usage = f"{expected} GiB" if on_cpu else f"{expected} GiB expected, {low} to {high}"
    rows: list[tuple[str, RenderableType]] = [
        ("Memory" if on_cpu else "GPU memory", Prose(usage, "bold")),
        ("", _bar(memory.low_bytes, memory.high_bytes, budget, min(width, 100) - 18)),
        ("Capacity", _capacity(decision)),
    ]
    if not on_cpu:
        rows.append(("", Prose(_range_source(decision), "dim")))
    return facts(rows)


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
    error = peak_ratio(decision.chosen.method)
    text = (
        f"measured over predicted {error.low:.2f} to {error.high:.2f} "
        f"({error.runs} published runs), "
        f"reserved over allocated {ratio.low:.2f} to {ratio.high:.2f} "
        f"({ratio.readings} published readings), "
        f"context {format_gib(cluster.accelerator.context_bytes)} GiB"
    )
    if cluster.world_size == 1:
        return text
    low, high = format_gib(nccl.low * MIB), format_gib(nccl.high * MIB)
    return f"{text}, NCCL {low} to {high} GiB ({nccl.readings} readings)"


def _bar(low: int, high: int, budget: int, width: int) -> Text:
    """Return the bar: used in any case, used in the worst case, free."""
    certain = round(width * low / budget)
    perhaps = max(1, round(width * high / budget) - certain)
    free = max(0, width - certain - perhaps)
    return Text.assemble(("█" * certain, "green"), ("▒" * perhaps, "yellow"), ("·" * free, "dim"))


def _costs(decision: Decision) -> Table:
    chosen = decision.chosen
    nodes = chosen.cluster.num_nodes
    host = f"{short_gib(chosen.host.node_bytes)} GiB" + (" per node" if nodes > 1 else "")
    disk = (
        f"{short_gib(chosen.result_bytes)} GiB for the result, "
        f"{short_gib(chosen.checkpoint_bytes)} GiB per checkpoint"
    )
    rows: list[tuple[str, RenderableType]] = [("Host memory", host), ("Disk", disk)]
    lacking = lacking_now(
        decision.request.cluster,
        host_bytes=chosen.host.node_bytes,
        disk_bytes=chosen.disk_bytes,
    )
    if lacking is not None:
        rows.append(("", Prose(lacking, "yellow")))
    rows += speed_rows(chosen, decision.request.price_per_gpu_hour)
    rows += data_rows(chosen, decision.request.data, decision.packed)
    return facts(rows)


def _alternatives(decision: Decision, width: int) -> RenderableType:
    """Return a row for each alternative; in a narrow terminal, the reason has lines of its own."""
    rows = [_alternative(alternative) for alternative in decision.alternatives]
    styles = ["" if alternative.fits else "dim" for alternative in decision.alternatives]
    if width < NARROW:
        sentences = [
            (method, Prose(f"{strategy}, batch {batch}, {gib} GiB{_rate(speed)}: {why}", style))
            for (method, strategy, batch, gib, speed, why), style in zip(rows, styles, strict=True)
        ]
        return Group(Text("Alternatives", style="bold"), facts(sentences))
    table = plain_table("Alternatives")
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


def _alternative(alternative: Alternative) -> tuple[str, str, str, str, str, str]:
    """Return the cells of one row."""
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
