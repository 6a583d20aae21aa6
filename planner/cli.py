"""``plan``: options to a request, a request to a decision, a decision to a report and a file."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from planner.assemble import plan_of
from planner.choose import decide_with_data
from planner.command_line import run
from planner.data_section import DataErrors, DataSection
from planner.detect import detect, parse_gpus
from planner.document import document
from planner.errors import InvalidRequestError
from planner.gpu import Cluster
from planner.listing import listing
from planner.model_config import load_model_dir
from planner.optimizers import optimizer_name
from planner.plan import Method, Offload
from planner.plan_file import render, write
from planner.presets import Kind, ModelPreset, load_model, preset_names
from planner.recipe import Recipe, load_recipe
from planner.report import print_report
from planner.request import Prefer, Request
from planner.training_data import TrainingData
from planner.units import parse_size

ZeroStageOption = Literal["0", "1", "2", "3"]
DEFAULT_OUTPUT = Path("plan.yaml")


def plan(
    model: Annotated[
        str | None, typer.Option(help="Preset name, or a directory with config.json.")
    ] = None,
    gpus: Annotated[
        str, typer.Option(help="auto, cpu, 24G, 2x24G, or a card: rtx-4090, 8xh100.")
    ] = "auto",
    recipe: Annotated[str | None, typer.Option(help="Training settings by name.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Training data: a file, a folder, a data set on the hub, or demo."),
    ] = None,
    data_errors: Annotated[
        DataErrors | None, typer.Option(help="What a bad record does: stop, or skip.")
    ] = None,
    method: Annotated[
        Literal["auto", "qlora", "lora", "full"], typer.Option(help="How to fine-tune.")
    ] = "auto",
    prefer: Annotated[Prefer, typer.Option(help="What decides where a choice is left.")] = "tiers",
    sequence_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a training sample.")
    ] = None,
    global_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples of an optimizer step, over all devices.")
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples of one forward pass on one device.")
    ] = None,
    zero_stage: Annotated[
        ZeroStageOption | None, typer.Option(help="DeepSpeed ZeRO stage; 0 is DDP.")
    ] = None,
    offload: Annotated[
        Offload | None,
        typer.Option(help="Hold optimizer states, or all, in host memory; a last resort."),
    ] = None,
    packing: Annotated[
        bool | None,
        typer.Option("--packing/--no-packing", help="Put several samples in one sequence."),
    ] = None,
    activation_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--activation-checkpointing/--no-activation-checkpointing",
            help="Recompute activations in backward.",
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(min=1, help="Recompute activations in every N-th layer only; 1 is all."),
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapters.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adamw_torch_fused, adamw_8bit, adafactor, ... (README).")
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Use at most this of each device, such as 22GiB.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the plan goes, plan.yaml by default; - prints."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an edited plan.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show formulas and tensors behind the memory report.")
    ] = False,
    list_kind: Annotated[
        Kind | None, typer.Option("--list", help="Show the presets of a kind.")
    ] = None,
) -> None:
    """Choose how to fine-tune MODEL on the GPUs at hand, and write plan.yaml."""
    console = Console(highlight=False)
    if list_kind is not None:
        if as_json:
            print(json.dumps(preset_names(list_kind)))
        else:
            console.print(listing(list_kind))
        return
    if model is None:
        raise InvalidRequestError("--model is missing: name one (plan --list models shows them)")
    preset = find_model(model)
    settings = load_recipe(recipe) if recipe is not None else None
    decision = decide_with_data(
        Request(
            model=preset,
            cluster=find_cluster(gpus),
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
            optimizer=optimizer_name(optimizer) if optimizer is not None else None,
            memory_limit_bytes=_size(memory_limit),
            data=_training_data(data, data_errors, settings, preset),
            packing=packing,
        )
    )
    made = plan_of(decision)
    text = render(made, command=shlex.join(["plan", *sys.argv[1:]]))
    destination = DEFAULT_OUTPUT if output is None else output
    to_stdout = str(output) == "-"
    # With --json a file is written only where one was asked for.
    if not to_stdout and (output is not None or not as_json):
        write(text, destination, force=force)
    if as_json:
        print(json.dumps(document(decision, made), indent=2))
        return
    if to_stdout:
        print(text, end="")
        return
    if explain:
        # Only who asks for it waits for every layer to be run.
        from planner.explanation import explanation

        console.print(explanation(decision))
    print_report(console, decision, _next_steps(destination, named=bool(made.data.every_source)))


_STAGES: dict[ZeroStageOption, Literal[0, 1, 2, 3]] = {"0": 0, "1": 1, "2": 2, "3": 3}


def find_model(name: str) -> ModelPreset:
    """A directory where there is one, else a preset."""
    path = Path(name)
    return load_model_dir(path) if path.is_dir() else load_model(name)


def find_cluster(spec: str) -> Cluster:
    return detect(os.environ) if spec == "auto" else parse_gpus(spec)


def _open(method: Literal["auto", "qlora", "lora", "full"]) -> Method | None:
    return None if method == "auto" else method


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
    from planner.planned_data import training_data  # starts a process

    section = (recipe.data if recipe is not None else DataSection()).reading(named)
    if errors is not None:
        section = section.model_copy(update={"errors": errors})
    return training_data(section, model)


def _next_steps(output: Path, *, named: bool) -> list[str]:
    command = f"launch {shlex.quote(str(output))}"
    return [command if named else f"{command} --data FILE"]


def main() -> None:
    """The console script."""
    run(plan)
