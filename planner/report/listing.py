"""The presets of one kind: as records, and the same as a table."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from planner.base.preset_files import Kind, aliases, preset_names
from planner.base.units import format_count, format_gib
from planner.hardware.cards import load_gpu, visible_bytes
from planner.models.model_presets import load_model
from planner.recipes.load_recipe import load_recipe, recipe_names

Record = dict[str, Any]


def listed(kind: Kind) -> list[Record]:
    """Return every preset of one kind, by name."""
    records = {"models": _models, "gpus": _gpus, "recipes": _recipes}
    return list(records[kind]())


def listing(kind: Kind) -> RenderableType:
    """Return a table with a row for each preset."""
    records = listed(kind)
    if kind == "models":
        table = _table(records, "model", "parameters", "hub id")
        for each in records:
            also = f"\n  also {', '.join(each['also'])}" if each["also"] else ""
            name = Text.assemble(each["name"], (also, "dim"))
            table.add_row(name, format_count(each["num_params"]), each["hub_id"])
    elif kind == "gpus":
        table = _table(records, "card", "GiB", "TFLOPS", "device name", "also")
        for each in records:
            rate = each["dense_bf16_flops_per_s"]
            speed = "-" if rate is None else f"{rate / 1e12:.0f}"
            size = format_gib(each["capacity_bytes"], 1)
            table.add_row(each["name"], size, speed, each["device_name"], ", ".join(each["also"]))
    else:
        table = _table(records, "recipe", "method", "learning rate", "source")
        for each in records:
            rate = f"{each['learning_rate']:g}"
            table.add_row(each["name"], each["method"], rate, each["source"])
    return table


def _table(records: list[Record], *columns: str) -> Table:
    """Return a table whose first column, the names, is never cut."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in ("parameters", "GiB", "TFLOPS") else "left",
            no_wrap=not table.columns,
            overflow="fold",
            min_width=None if table.columns else max(len(each["name"]) for each in records),
        )
    return table


def _models() -> Iterator[Record]:
    for name in preset_names("models"):
        model = load_model(name)
        yield {
            "name": name,
            "num_params": model.spec.num_params,
            "hub_id": model.hub_id,
            "also": _short_names("models", name),
        }


def _gpus() -> Iterator[Record]:
    for name in preset_names("gpus"):
        card = load_gpu(name)
        yield {
            "name": name,
            "capacity_bytes": visible_bytes(card),
            "dense_bf16_flops_per_s": card.dense_bf16_flops_per_s,
            "device_name": card.device_name,
            "also": _short_names("gpus", name),
        }


def _recipes() -> Iterator[Record]:
    for name in recipe_names():
        recipe = load_recipe(name)
        yield {
            "name": name,
            "method": recipe.method,
            "learning_rate": recipe.optimizer.learning_rate,
            "source": recipe.source.title,
        }


def _short_names(kind: Kind, name: str) -> list[str]:
    return sorted(short for short, n in aliases(kind).items() if n == name and "/" not in short)
