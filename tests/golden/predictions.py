"""Predictions over a fixed grid: ``python -m tests.golden.predictions`` accepts a change.

The file is not the truth: it shows in a diff which predictions a change has moved.
"""

import csv
import io
from pathlib import Path

from planner.base.preset_files import preset_names
from planner.decision.method_search import search_method
from planner.models.model_presets import load_model
from planner.plan.vocabulary import METHODS, Method
from tests.planner.builders import cards, request

FILE = Path(__file__).with_name("predictions.csv")
MACHINES = ((1, 24), (2, 24), (8, 80))
LEFT_OUT = {
    "falcon-h1-tiny-90m-instruct",
    "granite-4.0-1b",
    "granite-4.0-350m",
    "granite-4.0-h-1b",
    "granite-4.0-h-micro",
    "lfm2-1.2b",
    "lfm2-2.6b",
    "nemotron-h-56b-base-8k",
}
"""Presets without rows: a recurrence takes a second of the tests, and others hold the same one."""
COLUMNS = (
    "model",
    "gpus",
    "method",
    "strategy",
    "micro_batch_size",
    "checkpointing",
    "peak_phase",
    "peak_allocated_bytes",
    "high_bytes",
)


def predictions() -> str:
    """One row a model, machine and method; what does not fit says so."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model in shapes():
        for count, gib in MACHINES:
            for method in METHODS:
                writer.writerow(
                    [model, f"{count}x{gib}G", method, *_row(model, count, gib, method)]
                )
    return text.getvalue()


def shapes() -> list[str]:
    """One preset of each shape: an instruct model has its base model's."""
    first = {load_model(name).spec: name for name in reversed(preset_names("models"))}
    return sorted(set(first.values()) - LEFT_OUT)


def _row(model: str, count: int, gib: int, method: Method) -> list[object]:
    chosen = search_method(request(cards(count, gib), model=model, method=method), method).best
    if chosen is None:
        return ["does not fit"]
    layout = chosen.layout
    return [
        layout.strategy,
        layout.micro_batch_size,
        layout.checkpointing,
        chosen.footprint.peak_phase,
        chosen.memory.peak_allocated_bytes,
        chosen.memory.high_bytes,
    ]


if __name__ == "__main__":
    FILE.write_text(predictions(), encoding="utf-8")
