"""The command ``plan``: from options to a request, a decision, and a plan with its report."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Struct, structs, to_builtins
from rich.console import Console

from planner.base.command_line import Option, run_command, written_options
from planner.base.console import print_unpadded, wide_console
from planner.base.errors import InvalidRequestError, reason_of
from planner.base.output_file import OutputFile
from planner.base.phrases import Joined, Phrase
from planner.base.preset_files import Listed, aliases, preset_names
from planner.base.strict_yaml import parse_spec
from planner.base.text_files import read_text
from planner.base.units import parse_size
from planner.cli.machine_options import find_cluster, show_machine
from planner.cli.model_option import find_model
from planner.cli.schema_option import SchemaKind, show_schema
from planner.datasets.training_data import TrainingData
from planner.decision.assemble import plan_of
from planner.decision.choose import Decision, decide_with_data
from planner.decision.request import Prefer, Request
from planner.hardware.multi_node import over_nodes
from planner.models.adapter_targets import Targets
from planner.models.long_positions import with_positions_for
from planner.models.model_presets import ModelPreset
from planner.plan.bounds import FEWEST_TOKENS, MOST_DROPOUT, MOST_EPOCHS, MOST_SAMPLES, MOST_TOKENS
from planner.plan.changed_plan import changed_plan, parsed_setting
from planner.plan.data_section import DataErrors, DataSection
from planner.plan.optimizer_presets import optimizer_name, optimizers
from planner.plan.plan_file import PLAN_FILE, is_untouched, launch_command, plan_output, render
from planner.plan.schema import Plan
from planner.plan.vocabulary import (
    AttentionName,
    Loss,
    Offload,
    Strategy,
    TrainingPrecision,
    ZeroStage,
)
from planner.recipes.load_recipe import load_recipe, recipe_names
from planner.recipes.recipe import Recipe
from planner.report.terminal_report import print_report

OF_THE_OUTPUT = {
    *("save_machine", "output", "force", "as_json", "html", "explain", "verbose", "list_kind"),
    "measure",
}
"""Parameters that say what becomes of a plan, and leave the plan as it is."""
FEWEST_EPOCHS = 1e-6
LEAST_RATE = 1e-12
"""Below every learning rate that trains: bf16 loses an update of 2**-9 of a weight."""
FREE_KEYS = (
    *("training.", "data.", "output.", "schedule.", "optimizer.weight_decay"),
    *("optimizer.max_grad_norm", "adapter.alpha", "adapter.rslora"),
)
"""Beginnings of the keys that neither memory nor the time of a step depends on."""

BEGINNING = "adapter.init"
"""The key that ``--set`` takes as the option ``--lora-init``, since rules depend on it."""
HAVE_OPTIONS = {"training.epochs", "data.source", "data.sources"}
"""Keys among them that the report shows, and that have options."""


def _model_names() -> list[str]:
    return preset_names("models")


def _machine_names() -> list[str]:
    return ["auto", "cpu", *preset_names("gpus"), *aliases("gpus")]


def _network_names() -> list[str]:
    from planner.hardware.network import networks

    return [*networks().networks]


def _dataset_names() -> list[str]:
    from planner.datasets.dataset_presets import data_sets

    return ["demo", *data_sets()]


def plan(
    *,
    model: Annotated[
        str | None,
        Option(
            "Model to fine-tune: a preset (--list models), a directory with config.json, or a "
            "model of the hub, whose config.json is fetched.",
            metavar="NAME|DIR|ORG/NAME[@REVISION]",
            group="model",
            known=_model_names,
        ),
    ] = None,
    gpus: Annotated[
        str,
        Option(
            "Machine to plan for: auto is this one; cpu, 24G, 2x24G, a card such as rtx-4090, "
            "8xh100 or as nvidia-smi names it, a card of your own in card.yaml, or a saved "
            "machine.json.",
            metavar="SPEC",
            group="machine",
            known=_machine_names,
        ),
    ] = "auto",
    recipe: Annotated[
        str | None,
        Option(
            "Training settings: a preset (--list recipes), a recipe in YAML, or an XTuner "
            "configuration.",
            metavar="NAME|FILE",
            group="model",
            known=recipe_names,
        ),
    ] = None,
    data: Annotated[
        str | None,
        Option(
            "Training data: a file, a folder, a data set on the hub, or demo.",
            metavar="FILE|NAME",
            group="data",
            known=_dataset_names,
        ),
    ] = None,
    data_errors: Annotated[
        DataErrors | None, Option("What to do at a bad record: stop, or skip it.", group="data")
    ] = None,
    method: Annotated[
        Literal["auto", "qlora", "lora", "full"],
        Option("How to fine-tune; auto chooses.", group="method"),
    ] = "auto",
    prefer: Annotated[
        Prefer, Option("Criterion for choosing among the methods that fit.", group="method")
    ] = "tiers",
    sequence_length: Annotated[
        int | None,
        Option(
            "Tokens per training sample.", minimum=FEWEST_TOKENS, maximum=MOST_TOKENS, group="data"
        ),
    ] = None,
    global_batch_size: Annotated[
        int | None,
        Option(
            "Samples per optimizer step, over all devices.",
            minimum=1,
            maximum=MOST_SAMPLES,
            group="batch size",
        ),
    ] = None,
    micro_batch_size: Annotated[
        int | None,
        Option(
            "Samples per forward pass on one device.",
            minimum=1,
            maximum=MOST_SAMPLES,
            group="batch size",
        ),
    ] = None,
    strategy: Annotated[
        Strategy | None,
        Option(
            "How the ranks share the work; fsdp is PyTorch's FSDP2, tensor cuts each layer.",
            group="memory",
        ),
    ] = None,
    zero_stage: Annotated[
        ZeroStage | None, Option("DeepSpeed ZeRO stage; 0 is DDP.", group="memory")
    ] = None,
    sequence_parallel_size: Annotated[
        int | None,
        Option(
            "GPUs of a node that share one sequence, for long ones; needs ZeRO.",
            minimum=1,
            group="memory",
        ),
    ] = None,
    offload: Annotated[
        Offload | None,
        Option(
            "Keep optimizer states, or all states, in host memory; slow, a last resort.",
            group="memory",
        ),
    ] = None,
    packing: Annotated[
        bool | None, Option("Pack several samples into one sequence.", group="data")
    ] = None,
    activation_checkpointing: Annotated[
        bool | None, Option("Recompute activations in the backward pass.", group="memory")
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        Option(
            "Recompute activations in every N-th layer only; 1 is every layer.",
            minimum=1,
            group="memory",
        ),
    ] = None,
    activation_offloading: Annotated[
        bool | None,
        Option(
            "Keep the inputs of recomputed layers in host memory, for long sequences.",
            group="memory",
        ),
    ] = None,
    tiled_mlp: Annotated[
        bool | None,
        Option(
            "Run each MLP tile by tile over the tokens, again in the backward pass, for long "
            "sequences.",
            group="memory",
        ),
    ] = None,
    lora_rank: Annotated[
        int | None, Option("Rank of the adapters.", minimum=1, group="method")
    ] = None,
    lora_dropout: Annotated[
        float | None,
        Option(
            "Share of an adapter's input that is dropped; 0 keeps no mask.",
            minimum=0,
            maximum=MOST_DROPOUT,
            group="method",
        ),
    ] = None,
    lora_targets: Annotated[
        str | None,
        Option(
            "Matrices that carry adapters: all-linear, or names separated by commas; experts "
            "beside them adapts routed experts.",
            metavar="NAMES",
            group="method",
        ),
    ] = None,
    lora_init: Annotated[
        str | None,
        Option(
            "What the adapters begin as: default, pissa, pissa_niter_16, olora.",
            metavar="NAME",
            group="method",
        ),
    ] = None,
    precision: Annotated[
        TrainingPrecision | None,
        Option(
            "Data type of matrix multiplications; what the optimizer updates is in fp32, with "
            "pure-bf16 in bf16, too.",
            group="method",
        ),
    ] = None,
    loss: Annotated[
        Loss | None, Option("Cross-entropy: trl's fused head, or the standard one.", group="method")
    ] = None,
    attention: Annotated[
        AttentionName | None,
        Option(
            "Attention implementation of transformers: sdpa, eager.", metavar="NAME", group="method"
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        Option(
            "Optimizer by transformers' name: adamw_torch_fused, adamw_8bit, adafactor, ... "
            "(--list optimizers).",
            metavar="NAME",
            group="method",
            known=optimizers,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        Option("Highest learning rate of the schedule.", minimum=LEAST_RATE, group="method"),
    ] = None,
    epochs: Annotated[
        float | None,
        Option("Passes over the data.", minimum=FEWEST_EPOCHS, maximum=MOST_EPOCHS, group="data"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        Option(
            "Change a key of the plan that no memory depends on, such as training.save_steps=100; "
            "may be repeated.",
            metavar="KEY=VALUE",
            flags=("--set",),
            group="output",
        ),
    ] = None,
    memory_limit: Annotated[
        str | None,
        Option(
            "Most memory to use on each device, such as 22GiB.", metavar="SIZE", group="machine"
        ),
    ] = None,
    save_machine: Annotated[
        Path | None,
        Option(
            "Save this machine, to plan for it on another computer with --gpus FILE.",
            group="machine",
        ),
    ] = None,
    measure: Annotated[
        bool,
        Option(
            "Measure the devices of this machine first, in at most a minute each; the rates are "
            "kept and used from then on (--list measurements).",
            group="machine",
        ),
    ] = False,
    nodes: Annotated[
        int | None,
        Option(
            "Number of machines with these GPUs; up to 4,096 GPUs in total.",
            minimum=1,
            group="machine",
        ),
    ] = None,
    network: Annotated[
        str | None,
        Option(
            "Network between the nodes: 25gbe, 100gbe, infiniband-400g, ... (--list networks), or "
            "a rate such as 25GB/s; 400gbe:2 is two adapters a node.",
            metavar="NAME|RATE",
            group="machine",
            known=_network_names,
        ),
    ] = None,
    price_per_gpu_hour: Annotated[
        float | None,
        Option("Price of one GPU for one hour, for the report.", minimum=0, group="machine"),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "File to write the plan to; - prints it. Default: plan.yaml.",
            flags=("--output", "-o"),
            group="output",
        ),
    ] = None,
    force: Annotated[bool, Option("Replace an edited plan.", group="output")] = False,
    as_json: Annotated[
        bool,
        Option("Print one JSON document instead of the report.", flags=("--json",), group="output"),
    ] = False,
    html: Annotated[
        Path | None,
        Option(
            "Write a page for the browser too: one file that loads nothing, with a chart of "
            "memory, its formulas, and a map of what else fits.",
            group="output",
        ),
    ] = None,
    explain: Annotated[
        bool, Option("Show the formulas and tensors behind the memory report.", group="output")
    ] = False,
    verbose: Annotated[
        bool,
        Option("Print the whole report, however few rows the terminal has.", group="output"),
    ] = False,
    schema: Annotated[
        SchemaKind | None,
        Option(
            "Print the JSON Schema of a kind of file, for editors; -o writes it.", group="output"
        ),
    ] = None,
    compared: Annotated[
        tuple[Path, ...] | None,
        Option(
            "Show plans side by side: what is predicted, and what differs.",
            metavar="PLAN",
            flags=("--compare",),
            group="output",
        ),
    ] = None,
    list_kind: Annotated[
        Listed | None,
        Option(
            "List what is known of a kind: models, gpus, recipes, networks, optimizers, "
            "measurements.",
            metavar="KIND",
            flags=("--list",),
            group="output",
        ),
    ] = None,
) -> None:
    """Choose how to fine-tune a model on the GPUs at hand, and write plan.yaml.

    Examples:
      plan --model qwen2.5-7b
      plan --model llama-3.1-8b --gpus 2x4090 --data my.jsonl
      plan --model Qwen/Qwen2.5-7B@main --gpus "RTX 4090"
      plan --model ./checkpoint --gpus 24G --method qlora
      plan --recipe qlora --model mistral-7b --gpus 8xh100
      plan --model qwen2.5-7b --gpus 24G --explain
      plan --compare a.yaml b.yaml
      plan --list gpus
      plan --measure
    """
    given = dict(locals())  # every option by its name
    console = wide_console(sys.stdout)
    if list_kind is not None:
        _list(console, list_kind, as_json=as_json)
        return
    if schema is not None:
        show_schema(schema, output, force=force)
        return
    if compared is not None:
        _compare(console, compared, as_json=as_json)
        return
    if measure:
        from planner.cli.measure_option import measure_here  # it asks the training stack

        measure_here(console, gpus, as_json=as_json)
        if model is None and recipe is None and save_machine is None:
            return
    beginning, others = _beginning(lora_init, settings or [])
    result = _Result(
        command=shlex.join(["plan", *sys.argv[1:]]),
        options={
            **{name: value for name, value in given.items() if name not in OF_THE_OUTPUT},
            "lora_init": beginning,
        },
        output=output,
        force=force,
        as_json=as_json,
        page=_page_file(html, force=force),
        explain=explain,
        verbose=verbose,
        settings=others,
    )
    cluster = find_cluster(gpus, result.command, save_machine, force=force)
    asked = None
    if recipe is not None:
        typed = written_options(plan, {**given, "recipe": None})
        devices = over_nodes(cluster, nodes, network).world_size
        asked = load_recipe(recipe, typed, devices)
    name = _model_name(model, asked, optional=save_machine is not None)
    if name is None:
        show_machine(console, cluster, save_machine, as_json=as_json)
        return
    preset = with_positions_for(find_model(name), sequence_length)
    decision = decide_with_data(
        Request(
            model=preset,
            cluster=over_nodes(cluster, nodes, network),
            prefer=prefer,
            recipe=asked,
            method=None if method == "auto" else method,
            sequence_length=sequence_length,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            strategy=strategy,
            zero_stage=zero_stage,
            sequence_parallel_size=sequence_parallel_size,
            offload=offload,
            activation_checkpointing=activation_checkpointing,
            checkpoint_every=checkpoint_every,
            activation_offloading=activation_offloading,
            tiled_mlp=tiled_mlp,
            lora_rank=lora_rank,
            lora_dropout=lora_dropout,
            lora_targets=_targets(lora_targets),
            lora_init=beginning,
            precision=precision,
            loss=loss,
            attention=attention,
            optimizer=optimizer_name(optimizer) if optimizer is not None else None,
            epochs=epochs,
            learning_rate=learning_rate,
            memory_limit_bytes=_size(memory_limit),
            data=_training_data(data, data_errors, asked, preset),
            packing=packing,
            price_per_gpu_hour=price_per_gpu_hour,
        )
    )
    result.give(console, decision)


class _Result(Struct, frozen=True, kw_only=True):
    """The files and the output that the options ask for."""

    command: str
    """Command line as typed, for the plan's header and for remedies."""
    options: dict[str, Any]
    """Options that decide the plan, by parameter."""
    output: Path | None
    """File of the plan; None is plan.yaml, or no file with --json."""
    force: bool
    as_json: bool
    page: OutputFile | None
    explain: bool
    verbose: bool
    """Whether the whole report is printed, however few rows the terminal has."""
    settings: list[str]
    """Keys of the plan that are changed, as ``KEY=VALUE``."""

    def give(self, console: Console, decision: Decision) -> None:
        """Write the plan and the page, and print the report, the document or the plan."""
        prints_plan = str(self.output) == "-"
        destination = PLAN_FILE if self.output is None or prints_plan else self.output
        made = _with_settings(plan_of(decision), self.settings, destination)
        text = render(made, command=self.command, file=None if prints_plan else destination)
        if not prints_plan and not (self.as_json and self.output is None):
            plan_output(destination, force=self.force).write(text)
        next_steps = _next_steps(made, destination)
        if self.page is not None:
            self._write_page(self.page, decision, next_steps)
        if self.as_json:
            from planner.report.json_document import document  # only --json needs it

            print(json.dumps(document(decision, made), indent=2))
        elif prints_plan:
            print(text, end="")
        else:
            self._report(console, decision, next_steps)

    def _write_page(self, file: OutputFile, decision: Decision, next_steps: list[str]) -> None:
        from planner.report.page.plan_page import plan_page

        settled = {
            name: getattr(decision.request, name)
            for name in ("offload", "activation_offloading", "tiled_mlp", "packing")
        }

        def written(changes: Mapping[str, Any]) -> str:
            options = {**self.options, **settled, "prefer": "tiers", **changes}
            return shlex.join(["plan", *written_options(plan, options)])

        text = plan_page(
            decision,
            made_by=self.command,
            gpus=self.options["gpus"],
            written=written,
            next_steps=next_steps,
            explain=self.explain,
        )
        file.write(text)

    def _report(self, console: Console, decision: Decision, next_steps: list[str]) -> None:
        if self.explain:
            # Only --explain waits for every layer to be run.
            from planner.report.explain_tables import explanation

            print_unpadded(console, explanation(decision))
        print_report(console, decision, next_steps, whole=self.verbose or self.explain)


def _beginning(option: str | None, settings: list[str]) -> tuple[str | None, list[str]]:
    """Return what adapters begin as, by the option or the key, and the settings of other keys.

    Raises InvalidRequestError for a beginning that is not planned.
    """
    asked = [each for each in settings if each.partition("=")[0] == BEGINNING]
    found = option
    for setting in asked:
        found = str(parsed_setting(setting)[1])
    if found is not None:
        from planner.plan.adapter_init import check_init  # few plans name one

        try:
            check_init(found)
        except ValueError as error:
            raise InvalidRequestError(error.args[0]) from error
    return found, [each for each in settings if each not in asked]


def _with_settings(made: Plan, settings: Sequence[str], file: Path) -> Plan:
    """Return the plan with keys changed; raise InvalidRequestError for one that memory or speed
    depends on, which the report would not know of: ``launch`` takes it for the plan in ``file``."""
    parsed = [*map(parsed_setting, settings)]
    # First of all a key that no plan has, or a value that it cannot have.
    changed = changed_plan(to_builtins(made), dict(parsed), settings) if parsed else made
    for (key, _), setting in zip(parsed, settings, strict=True):
        if key in HAVE_OPTIONS or not key.startswith(FREE_KEYS):
            raise InvalidRequestError(
                Phrase(
                    "--set {key}: memory or speed may depend on it: use its option (plan "
                    "--help), or change it when the plan is run, which predicts anew: {command}",
                    key=key,
                    command=f"launch {shlex.quote(str(file))} --set {shlex.quote(setting)}",
                )
            )
    return changed


def _page_file(path: Path | None, *, force: bool) -> OutputFile | None:
    """Return the file of ``--html``.

    Raises InvalidRequestError, before anything is planned, if it may not be written.
    """
    if path is None:
        return None
    from planner.page.document import page_file  # only --html needs it

    file = page_file(path, option="--html", force=force)
    file.check()
    return file


def _model_name(named: str | None, recipe: Recipe | None, *, optional: bool) -> str | None:
    """Return the model's name, by default the recipe's.

    Raises InvalidRequestError if there is none, unless it is ``optional``.
    """
    name = recipe.model if named is None and recipe is not None else named
    if name is None and not optional:
        raise InvalidRequestError(
            Phrase("--model is missing: name one (plan --list models shows them)")
        )
    return name


def _list(console: Console, kind: Listed, *, as_json: bool) -> None:
    from planner.report.listing import listed, listing  # only --list needs it

    if as_json:
        print(json.dumps(listed(kind), indent=2))
    else:
        print_unpadded(console, listing(kind))


def _compare(console: Console, files: Sequence[Path], *, as_json: bool) -> None:
    from planner.report.plan_comparison import (  # only --compare needs it
        comparison_document,
        comparison_table,
        with_prediction,
    )

    texts = [read_text(file) for file in files]
    plans = [
        with_prediction(parse_spec(Plan, text, file), edited=not is_untouched(text))
        for text, file in zip(texts, files, strict=True)
    ]
    names = list(map(str, files))
    if as_json:
        print(json.dumps(comparison_document(names, plans), indent=2))
    else:
        print_unpadded(console, comparison_table(names, plans))


def _targets(text: str | None) -> Targets | None:
    if text is None:
        return None
    if text == "all-linear":
        return "all-linear"
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise InvalidRequestError(Joined(": ", ["--memory-limit", reason_of(error)])) from error


def _training_data(
    named: str | None, errors: DataErrors | None, recipe: Recipe | None, model: ModelPreset
) -> TrainingData | None:
    """Return the data set of ``--data`` with its token lengths, read as the recipe says."""
    if named is None:
        return None
    from planner.training_stack.token_length_client import training_data  # only --data needs it

    section = (recipe.data if recipe is not None else DataSection()).reading(named)
    if errors is not None:
        section = structs.replace(section, errors=errors)
    return training_data(section, model)


def _next_steps(made: Plan, output: Path) -> list[str]:
    command = launch_command(made, output)
    nodes = made.parallel.num_nodes
    if nodes == 1:
        return [command]
    return [
        command,
        Phrase(
            "the same on each of the {nodes} nodes, or --on ENGINE (launch --help)", nodes=nodes
        ),
    ]


def main() -> int:
    """Run ``plan`` and return its exit code."""
    return run_command(plan)
