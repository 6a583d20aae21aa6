"""What presets there are, as tables."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.cards import visible_bytes
from planner.presets import Kind, aliases, load_gpu, load_model, preset_names
from planner.recipes import load_recipe, recipe_names
from planner.units import format_count, format_gib


def listing(kind: Kind) -> RenderableType:
    """Every preset of one kind, a line each."""
    tables = {"models": _models, "gpus": _gpus, "recipes": _recipes}
    return Group(tables[kind]())


def _table(kind: Kind, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in ("parameters", "GiB", "TFLOPS") else "left",
            no_wrap=not table.columns,
            overflow="fold",
            min_width=max(map(len, preset_names(kind))) if not table.columns else None,
        )
    return table


def _short_names(kind: Kind, name: str) -> str:
    return ", ".join(sorted(a for a, n in aliases(kind).items() if n == name and "/" not in a))


def _models() -> Table:
    table = _table("models", "model", "parameters", "hub id")
    for name in preset_names("models"):
        model = load_model(name)
        count = format_count(model.spec.num_params)
        others = _short_names("models", name)
        also = f"\n  also {others}" if others else ""
        table.add_row(Text.assemble(name, (also, "dim")), count, model.hub_id)
    return table


def _gpus() -> Table:
    table = _table("gpus", "card", "GiB", "TFLOPS", "device name", "also")
    for name in preset_names("gpus"):
        card = load_gpu(name)
        rate = card.dense_bf16_flops_per_s
        table.add_row(
            name,
            format_gib(visible_bytes(card), 1),
            "-" if rate is None else f"{rate / 1e12:.0f}",
            card.device_name,
            _short_names("gpus", name),
        )
    return table


def _recipes() -> Table:
    table = _table("recipes", "recipe", "method", "learning rate", "source")
    for name in recipe_names():
        recipe = load_recipe(name)
        rate = f"{recipe.optimizer.learning_rate:g}"
        table.add_row(name, recipe.method, rate, recipe.source.title)
    return table
