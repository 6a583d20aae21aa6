"""What is known of one kind, such as every card: as records, and the same as a table."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.base.errors import InvalidFileError
from planner.base.phrases import Joined, Phrase, spoken
from planner.base.preset_files import Kind, Listed, aliases, own_files, preset_names
from planner.base.printable import print_text
from planner.base.units import format_count, format_gib
from planner.hardware.cards import load_gpu, visible_bytes
from planner.hardware.measured.kept_measurements import kept_measurements
from planner.hardware.network import networks
from planner.models.model_presets import load_model
from planner.plan.optimizer_presets import optimizers
from planner.recipes.load_recipe import load_recipe, recipe_names
from planner.report.measured_words import measured_words
from planner.report.prose import Prose

Record = dict[str, Any]
Loaded = TypeVar("Loaded")


def listed(kind: Listed) -> list[Record]:
    """Return every record of one kind, by name."""
    records = {
        "models": _models,
        "gpus": _gpus,
        "recipes": _recipes,
        "networks": _networks,
        "optimizers": _optimizers,
        "measurements": _measurements,
    }
    return list(records[kind]())


def listing(kind: Listed) -> RenderableType:
    """Return the records of a kind: a row for each, or where that is too wide, a paragraph."""
    cells = {
        "models": _model_cells,
        "gpus": _gpu_cells,
        "recipes": _recipe_cells,
        "networks": _network_cells,
        "optimizers": _optimizer_cells,
        "measurements": _measurement_cells,
    }
    return _Listing(COLUMNS[kind], [cells[kind](record) for record in listed(kind)])


COLUMNS: dict[Listed, tuple[str, ...]] = {
    "models": (Phrase("model"), Phrase("parameters"), Phrase("hub id"), Phrase("also")),
    "gpus": (Phrase("card"), "GiB", "TFLOPS", Phrase("device name"), Phrase("also")),
    "recipes": (Phrase("recipe"), Phrase("method"), Phrase("learning rate"), Phrase("source")),
    "networks": (Phrase("network"), "GB/s", Phrase("adapters per node"), Phrase("source")),
    "optimizers": (Phrase("optimizer"), Phrase("states"), Phrase("kept in"), Phrase("library")),
    "measurements": (
        Phrase("device"),
        Phrase("measured on"),
        "torch",
        Phrase("ranks"),
        Phrase("rates"),
    ),
}
NUMBERS = {"parameters", "GiB", "TFLOPS", "learning rate", "GB/s", "states", "ranks"}
ROOM_FOR_THE_LAST = 16
"""Columns of a terminal that the last column of a table needs, which is folded."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """Rows of cells, of which no name and no number is ever cut."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = zip(map(spoken, self.columns), *self.rows, strict=True)
        widths = [max(map(cell_len, cells)) for cells in columns]
        needed = sum(widths[:-1]) + 3 * len(widths) + min(widths[-1], ROOM_FOR_THE_LAST)
        if needed <= options.max_width:
            yield self._table()
        else:
            yield from self._paragraphs()

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        *names, last = self.columns
        for name in names:
            table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
        table.add_column(last, overflow="fold")
        for *cells, folded in self.rows:
            table.add_row(*cells, Prose(folded))
        return table

    def _paragraphs(self) -> Iterator[RenderableType]:
        for name, *cells in self.rows:
            yield Text(name, style="bold")
            named = zip(self.columns[1:], cells, strict=True)
            parts = [_in_words(column, cell) for column, cell in named if cell]
            yield Padding(Prose(Joined(", ", parts)), (0, 0, 0, 2))


def _in_words(column: str, cell: str) -> str:
    """Return a cell as a sentence names it."""
    words = {
        "parameters": Phrase("{number} parameters", number=cell),
        "GiB": f"{cell} GiB",
        "TFLOPS": f"{cell} TFLOPS",
        "learning rate": Phrase("learning rate {rate}", rate=cell),
        "also": Phrase("also {names}", names=cell),
        "GB/s": f"{cell} GB/s",
        "adapters per node": Phrase("adapters per node: {number}", number=cell),
        "states": Phrase("{number} states", number=cell),
        "kept in": Phrase("kept in {dtype}", dtype=cell),
        "measured on": Phrase("measured on {day}", day=cell),
        "torch": f"torch {cell}",
        "ranks": Phrase("ranks: {number}", number=cell),
    }
    return words.get(column, cell)


def _model_cells(record: Record) -> tuple[str, ...]:
    return (
        record["name"],
        format_count(record["num_params"]),
        record["hub_id"],
        ", ".join(record["also"]),
    )


def _gpu_cells(record: Record) -> tuple[str, ...]:
    rate = record["dense_bf16_flops_per_s"]
    return (
        record["name"],
        format_gib(record["capacity_bytes"], 1),
        "-" if rate is None else f"{rate / 1e12:.0f}",
        record["device_name"],
        ", ".join(record["also"]),
    )


def _recipe_cells(record: Record) -> tuple[str, ...]:
    rate = f"{record['learning_rate']:g}"
    return record["name"], record["method"], rate, record["source"]


def _network_cells(record: Record) -> tuple[str, ...]:
    adapters = str(record["adapters"]).replace("_", " ")
    return record["name"], f"{record['bytes_per_s'] / 1e9:g}", adapters, record["source"]


def _optimizer_cells(record: Record) -> tuple[str, ...]:
    kept = record["kept_in"]
    if record["paged"]:
        kept = Phrase("{dtype}, paged", dtype=kept)
    return record["name"], str(record["states"]), kept, record["library"]


def _measurement_cells(record: Record) -> tuple[str, ...]:
    rates = ", ".join(f"{name.replace('_', ' ')} {rate}" for name, rate in record["rates"].items())
    return (
        record["device_name"],
        record["measured_on"],
        record["torch"],
        str(record["ranks"]),
        f"{rates}; {record['file']}",
    )


def _measurements() -> Iterator[Record]:
    for file, kept in kept_measurements():
        yield {
            "device_name": kept.device_name,
            "measured_on": kept.measured_on,
            "torch": kept.torch,
            "ranks": kept.ranks,
            "rates": measured_words(kept),
            "file": str(file),
        }


def _readable(
    kind: Kind, names: Iterable[str], load: Callable[[str], Loaded]
) -> Iterator[tuple[str, Loaded]]:
    """Yield what the names stand for; a file of the user's own that cannot be read is named on
    stderr and left out."""
    own = own_files(kind)
    for name in names:
        try:
            yield name, load(name)
        except InvalidFileError as error:
            if name not in own:
                raise
            print_text(Phrase("left out: {reason}", reason=error.message), file=sys.stderr)


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
    for name, card in _readable("gpus", preset_names("gpus"), load_gpu):
        yield {
            "name": name,
            "capacity_bytes": visible_bytes(card),
            "dense_bf16_flops_per_s": card.dense_bf16_flops_per_s,
            "device_name": card.device_name,
            "also": _short_names("gpus", name),
        }


def _recipes() -> Iterator[Record]:
    for name, recipe in _readable("recipes", recipe_names(), load_recipe):
        yield {
            "name": name,
            "method": recipe.method,
            "learning_rate": recipe.optimizer.learning_rate,
            "source": recipe.source.title,
        }


def _networks() -> Iterator[Record]:
    for name, network in networks().networks.items():
        yield {
            "name": name,
            "bytes_per_s": network.bytes_per_s,
            "adapters": network.adapters,
            "source": network.source,
        }


def _optimizers() -> Iterator[Record]:
    for name, optimizer in optimizers().items():
        yield {
            "name": name,
            "library": optimizer.library,
            "states": optimizer.states,
            "kept_in": optimizer.kept_in,
            "paged": optimizer.paged,
        }


def _short_names(kind: Kind, name: str) -> list[str]:
    return sorted(short for short, n in aliases(kind).items() if n == name and "/" not in short)
