"""The arrows of the architecture, read from the source: who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAINING_STACK = {"torch", "transformers", "peft", "trl", "accelerate", "deepspeed", "datasets"}
LAUNCHER_MAY_USE = {
    "planner.base.command_line",
    "planner.hardware.cuda_toolkits",
    "planner.plan.data_section",
    "planner.hardware.detect",
    "planner.base.errors",
    "planner.hardware.cluster",
    "planner.hardware.machine",
    "planner.datasets.token_lengths",
    "planner.hardware.network",
    "planner.hardware.nvml",
    "planner.hardware.machine_readings",
    "planner.workload.optimizers",
    "planner.plan.schema",
    "planner.base.validation_messages",
    "planner.plan.prediction_section",
    "planner.base.preset_files",
    "planner.search.repredict",
    "planner.workload.rules",
    "planner.base.strict_yaml",
    "planner.plan.training_sections",
    "planner.base.units",
    "planner.base.whole_file",
}
AT_THE_EDGE = {
    "__main__",
    "cli",
    "command_line",
    "explanation",
    "host_reading",
    "html_report",
    "what_if_report",
    "listing",
    "machine_options",
    "machine_report",
    "nvml",
    "nvml_calls",
    "nvml_links",
    "options",
    "planned_data",
    "report",
    "tables",
    "tracing",
}
"""Modules of the planner that read the machine, start processes or draw; all others are pure."""
EDGES = {"argparse", "os", "subprocess", "pynvml", "rich", "typer", "sys"}
NO_EDGE = {"sys.getrefcount", "sys.modules"}
"""Reads this process's own objects, nothing outside."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    yield from (module for module, _ in members(path))


def members(path: Path) -> Iterator[tuple[str, str]]:
    """Modules and the names taken from them; a module imported whole gives all of its names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "*") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("path", modules("planner"), ids=lambda path: path.stem)
def test_the_planner_knows_no_launcher_and_no_training_stack(path: Path) -> None:
    assert {top(name) for name in imports(path)}.isdisjoint(TRAINING_STACK | {"launcher"})


@pytest.mark.parametrize("path", modules("launcher"), ids=lambda path: path.stem)
def test_the_launcher_knows_the_plan_and_not_how_it_was_made(path: Path) -> None:
    used = {name for name in imports(path) if top(name) == "planner"}
    assert used <= LAUNCHER_MAY_USE
    assert "presets" not in {top(name) for name in imports(path)}


@pytest.mark.parametrize("path", modules("presets"), ids=lambda path: path.stem)
def test_presets_import_nothing(path: Path) -> None:
    assert not list(imports(path))


@pytest.mark.parametrize("path", modules("planner"), ids=lambda path: path.stem)
def test_only_the_edge_touches_what_is_outside(path: Path) -> None:
    used = {f"{module}.{member}" for module, member in members(path)} - NO_EDGE
    touched = EDGES & {top(member) for member in used}
    assert bool(touched) == (path.stem in AT_THE_EDGE), touched
