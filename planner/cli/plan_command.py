"""``plan``: options to a request, a request to a decision, a decision to a report and a file."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from msgspec import structs
from rich.console import Console, Group, RenderableType
from rich.text import Text

from planner.base.errors import InvalidRequestError
from planner.base.output_file import OutputFile
from planner.base.preset_files import Kind
from planner.base.units import parse_size
from planner.cli.machine_options import find_cluster, show_machine
from planner.cli.model_option import find_model
from planner.cli.options import Option, run_command
from planner.datasets.training_data import TrainingData
from planner.decision.assemble import plan_of
from planner.decision.choose import Decision, decide_with_data
from planner.decision.request import Prefer, Request
from planner.hardware.multi_node import over_nodes
from planner.models.adapter_targets import Targets
from planner.models.model_presets import ModelPreset
from planner.plan.data_section import DataErrors, DataSection
from planner.plan.optimizer_presets import optimizer_name
from planner.plan.plan_file import launch_options, plan_output, render
from planner.plan.schema import Plan
from planner.plan.vocabulary import AttentionName, Loss, Method, Offload, Precision
from planner.recipes.load_recipe import load_recipe
from planner.recipes.recipe import Recipe
from planner.report.terminal_report import print_report, report

ZeroStageOption = Literal["0", "1", "2", "3"]
DEFAULT_OUTPUT = Path("plan.yaml")


def plan(
    *,
    model: Annotated[str | None, Option("Preset name, or a directory with config.json.")] = None,
    gpus: Annotated[
        str, Option("auto, cpu, 24G, 2x24G, a card: rtx-4090, 8xh100, or a saved machine.json.")
    ] = "auto",
    recipe: Annotated[str | None, Option("Training settings: a name, or an XTuner file.")] = None,
    data: Annotated[
        str | None, Option("Training data: a file, a folder, a data set on the hub, or demo.")
    ] = None,
    data_errors: Annotated[
        DataErrors | None, Option("What a bad record does: stop, or skip.")
    ] = None,
    method: Annotated[
        Literal["auto", "qlora", "lora", "full"], Option("How to fine-tune.")
    ] = "auto",
    prefer: Annotated[Prefer, Option("What decides where a choice is left.")] = "tiers",
    sequence_length: Annotated[
        int | None, Option("Tokens of a training sample.", minimum=1)
    ] = None,
    global_batch_size: Annotated[
        int | None, Option("Samples of an optimizer step, over all devices.", minimum=1)
    ] = None,
    micro_batch_size: Annotated[
        int | None, Option("Samples of one forward pass on one device.", minimum=1)
    ] = None,
    zero_stage: Annotated[ZeroStageOption | None, Option("DeepSpeed ZeRO stage; 0 is DDP.")] = None,
    offload: Annotated[
        Offload | None,
        Option("Hold optimizer states, or all, in host memory; a last resort."),
    ] = None,
    packing: Annotated[
        bool | None,
        Option("Put several samples in one sequence."),
    ] = None,
    activation_checkpointing: Annotated[
        bool | None,
        Option("Recompute activations in backward."),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        Option("Recompute activations in every N-th layer only; 1 is all.", minimum=1),
    ] = None,
    lora_rank: Annotated[int | None, Option("Rank of the adapters.", minimum=1)] = None,
    lora_targets: Annotated[
        str | None, Option("Which matrices carry adapters: all-linear, or names with commas.")
    ] = None,
    precision: Annotated[Precision | None, Option("What matrices are multiplied in.")] = None,
    loss: Annotated[Loss | None, Option("trl's fused head, or the stock cross-entropy.")] = None,
    attention: Annotated[
        AttentionName | None, Option("transformers' implementation: sdpa, eager.")
    ] = None,
    optimizer: Annotated[
        str | None, Option("adamw_torch_fused, adamw_8bit, adafactor, ... (README).")
    ] = None,
    memory_limit: Annotated[
        str | None, Option("Use at most this of each device, such as 22GiB.")
    ] = None,
    save_machine: Annotated[
        Path | None,
        Option("Save the machine found, to plan for it elsewhere: --gpus FILE."),
    ] = None,
    nodes: Annotated[
        int | None, Option("Machines with these GPUs, up to 4,096 GPUs in all.", minimum=1)
    ] = None,
    network: Annotated[
        str | None, Option("Between nodes: 25gbe, 100gbe, infiniband-400g, ... (README).")
    ] = None,
    price_per_gpu_hour: Annotated[
        float | None, Option("What a GPU costs an hour, for the report.", minimum=0)
    ] = None,
    output: Annotated[
        Path | None,
        Option("Where the plan goes, plan.yaml by default; - prints.", ("--output", "-o")),
    ] = None,
    force: Annotated[bool, Option("Replace an edited plan.")] = False,
    as_json: Annotated[bool, Option("Print one JSON document.", ("--json",))] = False,
    html: Annotated[
        Path | None, Option("The report as a page of its own, beside the plan.")
    ] = None,
    explain: Annotated[bool, Option("Show formulas and tensors behind the memory report.")] = False,
    list_kind: Annotated[Kind | None, Option("Show the presets of a kind.", ("--list",))] = None,
) -> None:
    """Choose how to fine-tune MODEL on the GPUs at hand, and write plan.yaml."""
    console = Console(highlight=False, markup=False, emoji=False)
    if list_kind is not None:
        _list(console, list_kind, as_json=as_json)
        return
    page = _page_file(html, force=force)
    settings = load_recipe(recipe) if recipe is not None else None
    model = _model_name(model, settings, optional=save_machine is not None)
    cluster = find_cluster(gpus, save_machine, force=force)
    if model is None:
        show_machine(console, cluster, save_machine, as_json=as_json)
        return
    preset = find_model(model)
    decision = decide_with_data(
        Request(
            model=preset,
            cluster=over_nodes(cluster, nodes, network),
            prefer=prefer,
            recipe=settings,
            method=_open(method),
            sequence_length=sequence_length,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            zero_stage=_STAGES[zero_stage] if zero_stage is not None else None,
            offload=offload,
            activation_checkpointing=activation_checkpointing,
            checkpoint_every=checkpoint_every,
            lora_rank=lora_rank,
            lora_targets=_targets(lora_targets),
            precision=precision,
            loss=loss,
            attention=attention,
            optimizer=optimizer_name(optimizer) if optimizer is not None else None,
            memory_limit_bytes=_size(memory_limit),
            data=_training_data(data, data_errors, settings, preset),
            packing=packing,
            price_per_gpu_hour=price_per_gpu_hour,
        )
    )
    made = plan_of(decision)
    text = render(made, command=shlex.join(["plan", *sys.argv[1:]]))
    destination = DEFAULT_OUTPUT if output is None else output
    to_stdout = str(output) == "-"
    # With --json a file is written only where one was asked for.
    if not to_stdout and (output is not None or not as_json):
        plan_output(destination, force=force).write(text)
    next_steps = _next_steps(made, destination)
    if page is not None:
        _write_page(page, decision, next_steps, explain=explain)
    if as_json:
        from planner.report.json_document import document  # for who asks for it

        print(json.dumps(document(decision, made), indent=2))
        return
    if to_stdout:
        print(text, end="")
        return
    if explain:
        # Only who asks for it waits for every layer to be run.
        from planner.report.explain_tables import explanation

        console.print(explanation(decision))
    print_report(console, decision, next_steps)


def _page_file(path: Path | None, *, force: bool) -> OutputFile | None:
    """Refused before a plan is made where it may not be written."""
    if path is None:
        return None
    from planner.report.html_report import page_file  # for who asks for it

    file = page_file(path, force=force)
    file.check()
    return file


def _write_page(
    file: OutputFile, decision: Decision, next_steps: list[str], *, explain: bool
) -> None:
    from planner.report.html_report import COLUMNS, html_page

    content: list[RenderableType] = [report(decision, width=COLUMNS, next_steps=next_steps)]
    if explain:
        from planner.report.explain_tables import explanation

        content += [Text(""), explanation(decision)]
    title = f"{decision.request.model.name}, {decision.chosen.method}"
    file.write(html_page(title, Group(*content)))


def _model_name(named: str | None, recipe: Recipe | None, *, optional: bool) -> str | None:
    """The recipe's where none is named; to save a machine none is needed."""
    found = recipe.model if named is None and recipe is not None else named
    if found is None and not optional:
        raise InvalidRequestError("--model is missing: name one (plan --list models shows them)")
    return found


def _list(console: Console, kind: Kind, *, as_json: bool) -> None:
    from planner.report.listing import listed, listing  # for who asks for it

    if as_json:
        print(json.dumps(listed(kind), indent=2))
    else:
        console.print(listing(kind))


_STAGES: dict[ZeroStageOption, Literal[0, 1, 2, 3]] = {"0": 0, "1": 1, "2": 2, "3": 3}


def _open(method: Literal["auto", "qlora", "lora", "full"]) -> Method | None:
    return None if method == "auto" else method


def _targets(text: str | None) -> Targets | None:
    if text is None or text == "all-linear":
        return "all-linear" if text else None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise InvalidRequestError(f"--memory-limit: {error}") from error


def _training_data(
    named: str | None, errors: DataErrors | None, recipe: Recipe | None, model: ModelPreset
) -> TrainingData | None:
    """What ``--data`` names, read as the recipe says."""
    if named is None:
        return None
    from planner.training_stack.token_length_client import training_data  # starts a process

    section = (recipe.data if recipe is not None else DataSection()).reading(named)
    if errors is not None:
        section = structs.replace(section, errors=errors)
    return training_data(section, model)


def _next_steps(made: Plan, output: Path) -> list[str]:
    command = " ".join([f"launch {shlex.quote(str(output))}", *launch_options(made)])
    nodes = made.parallel.num_nodes
    if nodes == 1:
        return [command]
    return [
        command,
        f"the same on each of the {nodes} nodes, or --on ENGINE (launch --help)",
    ]


def main() -> None:
    """The console script."""
    run_command(plan)
