"""The model card of a run's result: ``README.md`` with the metadata that the hub reads.

It is made to be published: it names models and data sets of the hub, and no file of this machine.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from launcher.data.sources import is_hub_name
from launcher.display.closing_summary import measured_rows
from launcher.storage.hub_names import names_a_folder
from planner.base.units import format_duration
from planner.base.user_folders import expanded
from planner.plan.schema import Plan
from planner.plan.vocabulary import METHOD_NAMES

CARD = "README.md"
"""Name of the file, in the folder of the result."""

Row = tuple[str, ...]

_LOADERS = {
    True: ("peft", "AutoPeftModelForCausalLM"),
    False: ("transformers", "AutoModelForCausalLM"),
}
"""Library and class that load an adapter, or a model."""

_USE = """\
from {library} import {loader}
from transformers import AutoTokenizer

place = "."  # this folder, or its name on the hub
model = {loader}.from_pretrained(place, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(place)
messages = [{{"role": "user", "content": "Hello"}}]
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**prompt, max_new_tokens=256{stops})
print(tokenizer.decode(answer[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def model_card(
    plan: Plan, report: Mapping[str, Any], versions: Mapping[str, str | None], *, merged: bool
) -> ModelCard:
    """Return the card of a run's adapter or model, or of its ``merged`` model.

    ``report`` is the content of ``report.json``, and ``versions`` are those of the packages.
    """
    is_adapter = plan.adapter is not None and not merged
    data = ModelCardData(
        base_model=hub_model(plan),
        library_name=_LOADERS[is_adapter][0],
        pipeline_tag="text-generation",
        datasets=hub_data_sets(plan) or None,
        tags=["tuneplan", plan.method, *(["lora"] if plan.method == "qlora" else [])],
    )
    sections = [
        f"# {_cell(plan.model.name)}, fine-tuned by {METHOD_NAMES[plan.method]}",
        _summary(plan, is_adapter=is_adapter),
        "## Use",
        f"```python\n{_use(report, is_adapter=is_adapter)}```",
        "## Training",
        table(("setting", "value"), setting_rows(plan)),
        "## Result",
        table(("", "predicted", "measured"), result_rows(plan, report)),
        "## Versions",
        table(("package", "version"), [(name, text) for name, text in versions.items() if text]),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def hub_model(plan: Plan) -> str | None:
    """Return the base model's name on the hub; None if it comes from a folder."""
    source = plan.model.source
    return None if names_a_folder(source) or expanded(source).exists() else source


def hub_data_sets(plan: Plan) -> list[str]:
    """Return the names of the data sets that come from the hub."""
    sources = [source.source for source in plan.data.every_source]
    return [name for name in sources if is_hub_name(name) and not expanded(name).exists()]


def table(heading: Row, rows: Iterable[Row]) -> str:
    """Return a table of Markdown."""
    lines = [heading, tuple("---" for _ in heading), *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _summary(plan: Plan, *, is_adapter: bool) -> str:
    name = hub_model(plan)
    base = plan.model.name if name is None else f"[{name}](https://huggingface.co/{name})"
    what = "An adapter for" if is_adapter else "A model made from"
    return f"{what} {base}, planned and trained with tuneplan."


def _use(report: Mapping[str, Any], *, is_adapter: bool) -> str:
    """Return the lines of Python that load the result and ask it something.

    peft does not read the settings of generation beside an adapter, where new end marks are.
    """
    library, loader = _LOADERS[is_adapter]
    stops = list(report["inputs"]["data"].get("new_stops", {}).values())
    known = f", eos_token_id={stops}" if stops and is_adapter else ""
    return _USE.format(library=library, loader=loader, stops=known)


def setting_rows(plan: Plan) -> list[Row]:
    """Return the settings of the training, named as people name them."""
    batch, training, optimizer = plan.batch, plan.training, plan.optimizer
    steps = f"{training.max_steps:,} steps" if training.max_steps else f"{training.epochs:g} epochs"
    revision = f" at {plan.model.revision}" if plan.model.revision else ""
    return [
        ("base model", f"{hub_model(plan) or plan.model.name}{revision}"),
        ("method", METHOD_NAMES[plan.method]),
        *_adapter_rows(plan),
        ("precision", f"{plan.precision.compute}, trained weights {plan.kept_trainable}"),
        ("optimizer", optimizer.name),
        ("learning rate", f"{optimizer.learning_rate:g}, {plan.schedule.kind}"),
        ("warm-up", f"{plan.schedule.warmup_ratio:.0%} of the steps".replace("%", " %")),
        ("weight decay", f"{optimizer.weight_decay:g}"),
        ("samples per step", f"{batch.global_batch_size:,}"),
        (
            "tokens per sample",
            f"at most {batch.sequence_length:,}{', packed' if batch.packing else ''}",
        ),
        ("length", steps),
        ("loss on", plan.data.loss_on),
        ("data", _data(plan)),
        ("seed", str(training.seed)),
        ("machine", f"{plan.parallel.world_size} x {plan.hardware.device_name}"),
        ("parallel strategy", _strategy(plan)),
    ]


def _strategy(plan: Plan) -> str:
    parallel = plan.parallel
    copies = f", {parallel.copies} copies of {parallel.shard_ranks} ranks each"
    return parallel.strategy + (copies if parallel.copies > 1 else "")


def _data(plan: Plan) -> str:
    names = hub_data_sets(plan)
    if any(source.source == "demo" for source in plan.data.every_source):
        names = [*names, "the demo data of tuneplan"]
    num_others = len(plan.data.every_source) - len(names)
    others = f"{num_others} local source{'' if num_others == 1 else 's'}"
    return ", ".join([*names, *([others] if num_others else [])])


def _adapter_rows(plan: Plan) -> list[Row]:
    adapter, quantization = plan.adapter, plan.quantization
    if adapter is None:
        return []
    targets = adapter.targets
    named = (("DoRA", adapter.dora), ("rsLoRA", adapter.rslora), ("VeRA", adapter.vera))
    kinds = [name for name, on in named if on]
    rank = f"rank {adapter.rank}" if adapter.vera else f"rank {adapter.rank}, alpha {adapter.alpha}"
    if adapter.changes_base:
        kinds.append(f"began as {adapter.init}, saved with rank {2 * adapter.rank}")
    return [
        ("adapter", ", ".join([rank, *kinds])),
        ("adapter's dropout", f"{adapter.dropout:g}"),
        ("adapted matrices", targets if isinstance(targets, str) else ", ".join(targets)),
        *([] if quantization is None else [("base weights", quantization.quant_type)]),
    ]


def result_rows(plan: Plan, report: Mapping[str, Any]) -> list[Row]:
    """Return what came of the training: memory and speed beside their predictions, and the loss."""
    training, data = report["training"], report["inputs"]["data"]
    return [
        *measured_rows(plan, report),
        ("loss", "", f"{training['first_loss']:.4f} to {training['last_loss']:.4f}"),
        ("steps", "", f"{training['num_steps']:,}"),
        ("time", "", format_duration(report["measured"]["run_time_s"])),
        ("samples", "", f"{data['num_samples']:,}"),
    ]
