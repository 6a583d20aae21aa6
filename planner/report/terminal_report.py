"""Tables for people. Takes finished results, computes nothing but their layout."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.base.units import MIB, format_count, format_gib
from planner.decision.choose import Decision
from planner.memory.device_memory import overheads
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import PARTS, PHASES, Phase
from planner.report.data_rows import data_rows
from planner.report.machine_report import machine_section, shortage
from planner.report.recipe_changes import changes
from planner.report.speed_rows import speed_rows
from planner.report.tables import facts, plain_table
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
    """The whole report, top to bottom, for a terminal of ``width`` columns."""
    parts: list[RenderableType] = [
        machine_section(decision.request.cluster),
        _plan(decision),
        _memory(decision),
        _against_the_card(decision, width),
        _costs(decision),
        _alternatives(decision),
        *([what_if_section(decision)] if decision.what_if is not None else []),
    ]
    last: list[tuple[str, RenderableType]] = []
    if decision.richer is not None:
        last.append(("Richer method", decision.richer))
    last.append(("Next", Text("\n".join(next_steps), style="bold")))
    apart = [item for part in parts for item in (part, Text(""))]
    return Group(*apart, facts(last))


def print_report(console: Console, decision: Decision, next_steps: list[str]) -> None:
    console.print(report(decision, width=console.width, next_steps=next_steps))


def _plan(decision: Decision) -> Table:
    chosen = decision.chosen
    model = decision.request.model
    params = format_count(model.spec.num_params)
    trained = format_count(chosen.workload.trainable_params)
    rows: list[tuple[str, RenderableType]] = [
        ("Model", f"{model.name}, {params} parameters, {trained} of them trained"),
        ("Plan", Text(_headline(chosen), style="bold green")),
        ("", _batch_line(chosen)),
        *_optimizer_line(decision),
        ("Why", decision.why + (" (tight)" if decision.tight else "")),
        *_recipe(decision),
    ]
    if isinstance(model.spec, TracedSpec):
        traced = "memory is that of traced steps; speed counts every matrix once a token"
        rows.append(("Note", Text(f"No formulas for {model.spec.model_type}: {traced}")))
    if chosen.workload.experts_note is not None:
        rows.append(("Note", Text(chosen.workload.experts_note)))
    if model.native_class is None:
        warning = "transformers builds this model from remote code only: launch will not train it"
        rows.append(("Note", Text(warning, style="yellow")))
    return facts(rows)


def _recipe(decision: Decision) -> list[tuple[str, RenderableType]]:
    """Whose settings these are, and what of them is the machine's."""
    recipe = decision.request.recipe
    if recipe is None:
        return []
    sentences = "; ".join(changes(recipe, decision.chosen))
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
    """Where it is not the recipe's; what else the recipe says of it still holds."""
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
        f"{chosen.workload.settings.sequence_length:,} tokens a sample"
    )


def _memory(decision: Decision) -> Table:
    footprint = decision.chosen.footprint
    unit = "device" if decision.request.cluster.device == "cpu" else "GPU"
    table = plain_table(f"Memory per {unit}, GiB")
    table.show_footer = True
    table.add_column("part", footer="allocated", min_width=16)
    for phase in PHASES:
        peak = phase == footprint.peak_phase
        total = format_gib(footprint.total_bytes(phase))
        table.add_column(
            PHASE_TITLES[phase] + (" peak" if peak else ""),
            footer=Text(total, style="bold green" if peak else "bold"),
            justify="right",
            style="green" if peak else "",
            header_style="bold green" if peak else "bold",
        )
    for part in PARTS:
        sizes = [footprint.phases[phase].get(part, 0) for phase in PHASES]
        if any(sizes):
            table.add_row(part.replace("_", " "), *(_cell(size) for size in sizes))
    return table


def _cell(num_bytes: int) -> str:
    """Nothing is a dash; less than a hundredth is said to be so."""
    if num_bytes == 0:
        return "-"
    text = format_gib(num_bytes)
    return "<0.01" if text == "0.00" else text


def _against_the_card(decision: Decision, width: int) -> Table:
    memory = decision.chosen.memory
    budget = decision.request.budget_bytes
    accelerator = decision.request.cluster.accelerator
    range_text = (
        f"low {format_gib(memory.low_bytes)}   expected {format_gib(memory.device_used_bytes)}"
        f"   high {format_gib(memory.high_bytes)} GiB"
    )
    spare = format_gib(budget - memory.high_bytes)
    against = (
        f"{format_gib(budget)} GiB usable of {format_gib(accelerator.capacity_bytes)}; "
        f"{spare} GiB to spare at the high end"
    )
    rows: list[tuple[str, RenderableType]] = [
        ("In use", Text(range_text, style="bold")),
        ("", _bar(memory.low_bytes, memory.high_bytes, budget, min(width, 100) - 18)),
        ("Of", against),
    ]
    if decision.request.cluster.device == "cuda":
        rows.append(("", Text(_range_source(decision), style="dim")))
    return facts(rows)


def _range_source(decision: Decision) -> str:
    """What lies between predicted tensors and what is in use, each with its range and count."""
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
    """Used for certain, used perhaps, free."""
    certain = round(width * low / budget)
    perhaps = max(1, round(width * high / budget) - certain)
    free = max(0, width - certain - perhaps)
    return Text.assemble(("█" * certain, "green"), ("▒" * perhaps, "yellow"), ("·" * free, "dim"))


def _costs(decision: Decision) -> Table:
    chosen = decision.chosen
    rows: list[tuple[str, RenderableType]] = [
        (
            "Host",
            f"{format_gib(chosen.host.node_bytes, 1)} GiB of memory on each node; of disk "
            f"{format_gib(chosen.result_bytes)} GiB for the result, "
            f"{format_gib(chosen.checkpoint_bytes)} GiB for each checkpoint",
        ),
    ]
    lacking = shortage(
        decision.request.cluster,
        host_bytes=chosen.host.node_bytes,
        disk_bytes=chosen.disk_bytes,
    )
    if lacking is not None:
        rows.append(("", Text(lacking, style="yellow")))
    rows += speed_rows(chosen, decision.request.price_per_gpu_hour)
    rows += data_rows(chosen, decision.request.data, decision.packed)
    return facts(rows)


def _alternatives(decision: Decision) -> Table:
    table = plain_table("Alternatives")
    table.add_column("method", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("high GiB", justify="right", no_wrap=True)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    table.add_column("why not", overflow="fold")
    for alternative in decision.alternatives:
        candidate = alternative.candidate
        speed = candidate.tokens_per_second if alternative.fits else None
        table.add_row(
            candidate.method,
            STRATEGY_TITLES[candidate.layout.strategy],
            str(candidate.layout.micro_batch_size),
            format_gib(candidate.memory.high_bytes, 1),
            "-" if speed is None else format_count(speed),
            _reason(alternative.reason, candidate),
            style="" if alternative.fits else "dim",
        )
    return table


def _reason(reason: str, candidate: Candidate) -> str:
    """With what else is special about it."""
    recomputed = candidate.layout.recomputed
    said = [f"recomputes {recomputed}"] if recomputed and "checkpointing" not in reason else []
    said += [each for each in candidate.departures if each not in reason]
    return f"{reason} ({', '.join(said)})" if said else reason
