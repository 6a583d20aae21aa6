"""The parts of docs/ that are generated from the source, by the name between their marks."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from launcher.cli.launch_command import launch
from launcher.engines.hosts import HostSettings
from launcher.engines.kubeflow_job import KubeflowSettings
from launcher.engines.skypilot_task import SkySettings
from launcher.engines.slurm_settings import SlurmSettings
from launcher.merging.serving import serving_lines
from launcher.quiz.quiz_command import quiz
from launcher.run.run_directory import RunDirectory
from planner.base.preset_files import preset_names
from planner.base.units import format_count
from planner.cli.plan_command import plan
from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.hardware.network import networks
from planner.models.config_json import ARCHITECTURES
from planner.models.model_presets import load_model
from planner.plan.data_section import DataFormat, DataSource, FieldName
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import Plan
from planner.recipes.load_recipe import load_recipe, recipe_names
from planner.recipes.recipe import Recipe
from planner.report.json_document import document
from planner.workload.rules import rule_book
from tests.documents.keys import key_table, key_tables
from tests.documents.options import option_tables
from tests.documents.picture import printed


def recipe_table() -> str:
    """Return a row for each recipe."""
    lines = [
        "| recipe | model | method | rank | learning rate | batch | tokens | epochs | source |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for recipe in map(load_recipe, recipe_names()):
        cells = (
            f"`{recipe.name}`",
            recipe.model or "any",
            recipe.method,
            str(recipe.adapter.rank) if recipe.adapter is not None else "-",
            f"{recipe.optimizer.learning_rate:g}",
            f"{recipe.global_batch_size:,}",
            f"{recipe.sequence_length:,}",
            f"{recipe.epochs:g}",
            _link(recipe.source.title, recipe.source.url),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _link(title: str, url: str) -> str:
    return f"[{title}]({url})" if "://" in url else title


def model_table() -> str:
    """Return a row for each model of presets/."""
    lines = ["| model | parameters | hub id |", "|---|---:|---|"]
    for name in preset_names("models"):
        model = load_model(name)
        lines.append(f"| `{name}` | {format_count(model.spec.num_params)} | {model.hub_id} |")
    return "\n".join(lines)


def architecture_list() -> str:
    """Return the model types whose forward passes are written out."""
    return ", ".join(f"`{name}`" for name in sorted(ARCHITECTURES)) + "."


def network_table() -> str:
    """Return a row for each network between nodes."""
    lines = ["| network | GB/s per adapter | adapters per node |", "|---|---:|---|"]
    for name, network in networks().networks.items():
        adapters = str(network.adapters).replace("per_gpu", "one per GPU")
        lines.append(f"| `{name}` | {network.bytes_per_s / 1e9:g} | {adapters} |")
    return "\n".join(lines)


def optimizer_list() -> str:
    """Return the names of every optimizer."""
    return ", ".join(f"`{name}`" for name in sorted(optimizers())) + "."


def json_table() -> str:
    """Return the keys of a real ``--json`` document, each with the type of its value there."""
    decision = decide(Request(model=load_model("qwen2.5-0.5b"), cluster=parse_gpus("24G")))
    content = document(decision, plan_of(decision))
    lines = ["| key | value |", "|---|---|"]
    for key, value in _flat(json.loads(json.dumps(content))):
        lines.append(f"| `{key}` | {value} |")
    return "\n".join(lines)


def _flat(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path of every value, and what it is, in words."""
    for key, value in content.items():
        name = f"{path}{key}"
        if name in IN_WORDS:
            yield name, IN_WORDS[name]
        elif isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from _flat(value[0], f"{name}[].")
        else:
            yield name, JSON_TYPES[type(value)]


IN_WORDS = {
    "plan": "the content of `plan.yaml`",
    "prediction.per_gpu.phases": "bytes by phase, then by part",
    "prediction.per_gpu.between_steps": "bytes between two steps, by part",
}
"""Keys whose own keys depend on the request."""
JSON_TYPES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null here",
    list: "list",
    dict: "keys with values",
}


def serving_commands_block() -> str:
    """Return the commands of other programs for a merged model, as ``launch --merge`` prints
    them."""
    lines = serving_lines(Path("/srv/runs/try/merged"), "qwen2.5-7b-try")
    return "\n".join(["```text", *lines, "```"])


def reason_table() -> str:
    """Return a row for each code of a reason: those of the sources, then the rules' names."""
    lines = ["| where | code | what it says |", "|---|---|---|"]
    for where, reasons in REASONS.items():
        lines += [f"| `{where}` | `{code}` | {text} |" for code, text in reasons.items()]
    lines += [f"| `rejected` | `{rule.name}` | {rule.reason} |" for rule in rule_book()]
    return "\n".join(lines)


REASONS = {
    "why": {
        "tiers": "the richest method whose tier the machine reaches and that fits",
        "only_method": "an option or the recipe names the method",
        "richest": "`--prefer quality`: the richest method that fits",
        "fastest": "`--prefer speed`: the most tokens per second",
        "smallest": "`--prefer memory`: the smallest peak",
    },
    "alternatives[].reason": {
        "richer_method_fits": "it fits, and so does a richer method",
        "tier_not_reached": "it fits, and the machine does not reach the method's tier",
        "another_preferred": "it fits, and `--prefer` chose another",
        "slower": "it fits, and a step takes longer",
        "lead_within_deepspeed_spread": "it is faster by less than runs of DeepSpeed differ",
        "lead_untested": "it is faster by a prediction that no published run tests",
        "slower_over_slow_links": "it is faster over the assumed links, slower over slow ones",
        "as_fast_with_more_memory": "it is as fast and takes more memory",
        "as_fast_with_more_parts": "it is as fast and has more moving parts",
        "memory_short": "a device has too little memory",
        "host_memory_short": "the host has too little memory",
    },
    "rejected": {
        "over_memory_budget": "it takes more memory than a device may use",
        "not_faster": "it is not faster than what fits, so it was not priced",
        "untraceable": "a model without formulas whose steps cannot be traced",
    },
}
"""What each code of a reason says, by the keys of the document that have it."""


def run_directory_table() -> str:
    """Return a row for each file of a run directory that is no hidden one."""
    run = RunDirectory(Path())
    lines = ["| path | what it is |", "|---|---|"]
    for name, member in vars(RunDirectory).items():
        if not isinstance(member, property):
            continue
        path = str(getattr(run, name))
        if not path.startswith("."):
            described = " ".join((inspect.getdoc(member) or "").split()).replace("``", "`")
            lines.append(f"| `{path}` | {described} |")
    lines.append(f"| `{run.rank_log(0)}` | Log of a rank, by its number. |")
    return "\n".join(lines)


def _names(kind: Any) -> str:
    return ", ".join(f"`{name}`" for name in get_args(kind)) + "."


PARTS: dict[str, Callable[[], str]] = {
    "report": printed,
    "options of plan": lambda: option_tables(plan),
    "options of launch": lambda: option_tables(launch),
    "options of quiz": lambda: option_tables(quiz),
    "keys of plan.yaml": lambda: key_tables(Plan, "plan.yaml"),
    "keys of a recipe": lambda: key_table(Recipe),
    "keys of a source": lambda: key_table(DataSource),
    "formats": lambda: _names(DataFormat),
    "fields": lambda: _names(FieldName),
    "recipes": recipe_table,
    "models": model_table,
    "architectures": architecture_list,
    "networks": network_table,
    "optimizers": optimizer_list,
    "settings of hosts": lambda: key_table(HostSettings),
    "settings of slurm": lambda: key_table(SlurmSettings),
    "settings of skypilot": lambda: key_table(SkySettings),
    "settings of kubeflow": lambda: key_table(KubeflowSettings),
    "json": json_table,
    "serving commands": serving_commands_block,
    "reasons": reason_table,
    "run directory": run_directory_table,
}
