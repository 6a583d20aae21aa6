"""``plan``: options to a request, a request to a decision, a decision to a report and a file."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from planner.assemble import plan_of
from planner.choose import decide
from planner.command_line import run
from planner.document import document
from planner.errors import InvalidRequestError
from planner.listing import listing
from planner.machine_options import find_cluster, show_machine
from planner.model_config import load_model_dir
from planner.optimizers import optimizer_name
from planner.plan import Method, Offload
from planner.plan_file import render, write
from planner.presets import Kind, ModelPreset, load_model, preset_names
from planner.recipe import load_recipe
from planner.report import print_report
from planner.request import Prefer, Request
from planner.units import parse_size

ZeroStageOption = Literal["0", "1", "2", "3"]
DEFAULT_OUTPUT = Path("plan.yaml")


def plan(
    model: Annotated[
        str | None, typer.Option(help="Preset name, or a directory with config.json.")
    ] = None,
    gpus: Annotated[
        str,
        typer.Option(
            help="auto, cpu, 24G, 2x24G, a card: rtx-4090, 8xh100, or a saved machine.json."
        ),
    ] = "auto",
    recipe: Annotated[str | None, typer.Option(help="Training settings by name.")] = None,
    data: Annotated[str | None, typer.Option(help="Training data, or demo.")] = None,
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
    save_machine: Annotated[
        Path | None,
        typer.Option(help="Save the machine found, to plan for it elsewhere: --gpus FILE."),
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
        _list(console, list_kind, as_json=as_json)
        return
    if model is None and save_machine is None:
        raise InvalidRequestError("--model is missing: name one (plan --list models shows them)")
    cluster = find_cluster(gpus, save_machine, force=force)
    if model is None:
        show_machine(console, cluster, save_machine, as_json=as_json)
        return
    decision = decide(
        Request(
            model=find_model(model),
            cluster=cluster,
            prefer=prefer,
            recipe=load_recipe(recipe) if recipe is not None else None,
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
            data_source=_data_source(data),
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
    print_report(console, decision, _next_steps(destination, made.data.source))


def _list(console: Console, kind: Kind, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(preset_names(kind)))
    else:
        console.print(listing(kind))


_STAGES: dict[ZeroStageOption, Literal[0, 1, 2, 3]] = {"0": 0, "1": 1, "2": 2, "3": 3}


def find_model(name: str) -> ModelPreset:
    """A directory where there is one, else a preset."""
    path = Path(name)
    return load_model_dir(path) if path.is_dir() else load_model(name)


def _open(method: Literal["auto", "qlora", "lora", "full"]) -> Method | None:
    return None if method == "auto" else method


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise InvalidRequestError(f"--memory-limit: {error}") from error


def _data_source(data: str | None) -> str | None:
    if data is not None and data != "demo" and not Path(data).exists():
        raise InvalidRequestError(f"--data {data}: there is no such file or directory")
    return data


def _next_steps(output: Path, data_source: str | None) -> list[str]:
    command = f"launch {shlex.quote(str(output))}"
    return [command if data_source is not None else f"{command} --data FILE"]


def main() -> None:
    """The console script."""
    run(plan)
