"""The order of the packages and what each may touch, read from the source.

A package imports only packages that stand below it, no module takes part in an import circle,
and drawing, processes, files and the training stack stay where they are named here.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PLANNER = {
    "base": set(),
    "hardware": {"base"},
    "plan": {"base", "hardware"},
    "page": {"base", "plan"},
    "models": {"base", "plan"},
    "datasets": {"base", "plan"},
    "recipes": {"base", "plan", "datasets"},
    "workload": {"base", "hardware", "plan", "models", "recipes"},
    "tape": {"base", "hardware", "workload"},
    "forward": {"base", "hardware", "models", "workload", "tape"},
    "memory": {"base", "hardware", "plan", "models", "workload", "tape", "forward"},
    "allocator": {"base", "hardware", "plan", "models", "workload", "tape", "forward", "memory"},
    "speed": {"base", "hardware", "plan", "models", "workload", "tape", "forward"},
    "search": {
        *("base", "hardware", "plan", "models", "workload", "tape", "forward", "memory"),
        *("allocator", "speed"),
    },
    "decision": {
        *("base", "hardware", "plan", "models", "datasets", "recipes", "workload"),
        *("memory", "speed", "search"),
    },
    "training_stack": {"base", "plan", "models", "datasets", "workload"},
    "measurement": {
        *("base", "hardware", "plan", "models", "workload", "speed", "decision"),
        "training_stack",
    },
    "report": {
        *("base", "hardware", "plan", "page", "models", "datasets", "recipes", "workload"),
        *("tape", "forward", "memory", "speed", "search", "decision"),
    },
    "cli": {
        *("base", "hardware", "plan", "page", "models", "datasets", "recipes", "decision"),
        *("training_stack", "measurement", "report"),
    },
}
"""Packages of the planner, lowest first, and the packages that each may import."""

LAUNCHER = {
    "compat": set(),
    "storage": set(),
    "simulated_gpu": {"compat", "storage"},
    "run": {"compat", "storage"},
    "chatglm": {"compat", "storage"},
    "base_model": {"storage", "chatglm"},
    "data": {"storage", "run", "base_model"},
    "display": {"compat", "storage", "run", "data"},
    "run_page": {"storage", "run"},
    "doctor": {"compat", "display"},
    "faults": {"compat", "storage", "run", "display"},
    "adapters": {"storage"},
    "training": {"compat", "storage", "run", "data", "display", "faults", "adapters"},
    "rehearsal": {"compat", "storage", "simulated_gpu", "run", "display", "training"},
    "measurement": {"run", "rehearsal"},
    "merging": {"compat", "storage", "run", "data", "display", "adapters", "training"},
    "chat": {"storage", "run", "base_model", "data", "training"},
    "quiz": {"run", "data", "display", "chat"},
    "lifecycle": {
        "compat",
        "storage",
        "run",
        "base_model",
        "data",
        "display",
        "faults",
        "training",
    },
    "nodes": {"compat", "storage", "run", "data", "display", "faults", "lifecycle"},
    "engines": {"storage", "run", "data", "lifecycle"},
    "cli": {
        *("compat", "run", "run_page", "display", "doctor", "chatglm", "rehearsal", "merging"),
        *("chat", "lifecycle", "nodes"),
        "engines",
    },
}
"""Packages of the launcher, lowest first, and the packages that each may import."""

PLANNER_USED_BY_THE_LAUNCHER = {
    *("planner.base", "planner.plan", "planner.hardware", "planner.page"),
    "planner.workload.rules",
    "planner.models.hub_config",
    *("planner.search.repredict", "planner.search.setting_checks"),
    "planner.datasets.token_lengths",
}
"""A package, or one module of it."""

TRAINING_STACK = {
    *("accelerate", "bitsandbytes", "datasets", "deepspeed", "peft", "torch", "transformers"),
    "trl",
}
IMPORTS_THE_TRAINING_STACK = {
    *(
        "launcher/adapters",
        "launcher/chatglm",
        "launcher/compat",
        "launcher/merging",
        "launcher/rehearsal",
    ),
    *("launcher/measurement", "launcher/training"),
    *("launcher/chat/speaker.py", "launcher/chat/trained_model.py"),
    *("launcher/data/preparation.py", "launcher/data/tables.py", "launcher/data/readers.py"),
    *("launcher/doctor/probes.py", "launcher/lifecycle/preparation_process.py"),
    *("launcher/nodes/link_speed.py", "launcher/nodes/meeting.py", "launcher/quiz/answering.py"),
}
"""Where torch and its friends are imported with the module; elsewhere a function imports them."""

DRAWS = {
    *("planner/base/console.py", "planner/page/side_by_side.py", "planner/report", "planner/cli"),
    *("launcher/display", "launcher/doctor/examination.py"),
    *("launcher/nodes/table.py", "launcher/quiz/quiz_command.py", "launcher/rehearsal/table.py"),
}
STARTS_PROCESSES = {
    *("planner/training_stack", "launcher/run/process.py"),
    *("launcher/doctor/probe_runner.py", "launcher/doctor/probes.py", "launcher/doctor/system.py"),
    *("launcher/engines/client_command.py", "launcher/engines/hosts_run.py"),
    *("launcher/lifecycle/measured_run.py", "launcher/rehearsal/simulated.py"),
    "launcher/measurement/service.py",
    *("launcher/simulated_gpu/__main__.py", "launcher/simulated_gpu/compile.py"),
    "launcher/simulated_gpu/wanted_symbols.py",
}
READS_NVML = {"planner/hardware", "launcher/display/sensors.py"}
OPENS_FILES = {
    *("planner/base/command_line.py", "planner/base/output_file.py"),
    "planner/base/text_files.py",
    "planner/hardware/linux_host.py",
}
"""Modules of the planner that open files (one the null device); all others get values."""
ASKS_THE_NETWORK = {"planner/models/hub_config.py"}
"""Modules of the planner that talk to other machines; opening an address is no opening of files."""
FILE_CALLS = {"open", "read_bytes", "read_text", "write_bytes", "write_text"}

MOST_MODULES = 20
"""In one folder."""

Import = tuple[str, str, bool]
"""A module, the name taken from it ("" for the module itself), and whether a function does it."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    return place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(tree(path), inside=False))


def _imports(node: ast.AST, *, inside: bool) -> Iterator[Import]:
    """Imports for type checkers alone are not counted: they run nowhere."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from ((alias.name, "", inside) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        yield from ((node.module, alias.name, inside) for alias in node.names)
    inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, inside=inside)


def top_level(name: str) -> str:
    return name.partition(".")[0]


def is_within(path: Path, places: set[str]) -> bool:
    return any(place(path) == each or place(path).startswith(f"{each}/") for each in places)


def imported_packages(path: Path, top: str) -> set[str]:
    """Packages of ``top`` that a module imports, its own among them."""
    names = {f"{module}.{name}" for module, name, _ in imports(path) if top_level(module) == top}
    return {name.split(".")[1] for name in names}


def test_every_package_stands_in_the_order() -> None:
    for top, order in (("planner", PLANNER), ("launcher", LAUNCHER)):
        packages = {path.parent.relative_to(ROOT / top).parts[:1] for path in modules(top)}
        assert {parts[0] for parts in packages if parts} == set(order)


@pytest.mark.parametrize("order", [PLANNER, LAUNCHER], ids=["planner", "launcher"])
def test_arrows_lead_down(order: dict[str, set[str]]) -> None:
    names = list(order)
    for number, name in enumerate(names):
        assert order[name] <= set(names[:number]), name


@pytest.mark.parametrize("top", ["planner", "launcher"])
def test_a_package_imports_what_the_order_allows_and_nothing_is_allowed_in_vain(top: str) -> None:
    order = {"planner": PLANNER, "launcher": LAUNCHER}[top]
    used: dict[str, set[str]] = {name: set() for name in order}
    for path in modules(top):
        parts = path.relative_to(ROOT / top).parts
        if len(parts) > 1:
            used[parts[0]] |= imported_packages(path, top) - {parts[0]}
    assert used == order


@pytest.mark.parametrize("path", modules("tuneplan"), ids=place)
def test_the_common_command_imports_a_command_when_it_is_chosen(path: Path) -> None:
    """At its start it knows the grammar alone."""
    early = {module for module, _, inside in imports(path) if not inside}
    own = ("planner.base.", "tuneplan.", "msgspec")
    others = {module for module in early if top_level(module) not in sys.stdlib_module_names}
    assert all(module.startswith(own) for module in others)


@pytest.mark.parametrize("path", [*modules("planner"), *modules("launcher")], ids=place)
def test_no_command_knows_the_common_one(path: Path) -> None:
    assert "tuneplan" not in {top_level(module) for module, _, _ in imports(path)}


def test_memory_and_speed_do_not_know_each_other() -> None:
    assert "speed" not in PLANNER["memory"]
    assert "memory" not in PLANNER["speed"]


@pytest.mark.parametrize("path", modules("planner"), ids=place)
def test_the_planner_knows_no_launcher_and_no_training_stack(path: Path) -> None:
    used = {top_level(module) for module, _, _ in imports(path)}
    assert used.isdisjoint(TRAINING_STACK | {"launcher"})


@pytest.mark.parametrize("path", modules("launcher"), ids=place)
def test_the_launcher_knows_the_plan_and_not_how_it_was_made(path: Path) -> None:
    for module, _, _ in imports(path):
        if top_level(module) == "planner":
            package = ".".join(module.split(".")[:2])
            assert {package, module} & PLANNER_USED_BY_THE_LAUNCHER, module
    assert "presets" not in {top_level(module) for module, _, _ in imports(path)}


@pytest.mark.parametrize("path", modules("presets"), ids=place)
def test_presets_import_nothing(path: Path) -> None:
    assert not imports(path)


def test_no_module_takes_part_in_an_import_circle() -> None:
    paths = {dotted(path): path for top in ("planner", "launcher") for path in modules(top)}
    waiting = {
        name: {
            target
            for module, member, _ in imports(path)
            for target in (f"{module}.{member}", module)
            if target in paths and target != name
        }
        for name, path in paths.items()
    }
    while ready := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        for name in ready:
            del waiting[name]
    assert not waiting


def test_no_folder_has_more_modules_than_a_listing_shows() -> None:
    for top in ("planner", "launcher"):
        for folder in {path.parent for path in modules(top)}:
            count = len(list(folder.glob("*.py")))
            assert count <= MOST_MODULES, f"{place(folder)} has {count} modules"


@pytest.mark.parametrize("top", ["planner", "launcher"])
def test_a_package_says_what_lives_there_and_imports_nothing(top: str) -> None:
    for path in modules(top):
        if path.name == "__init__.py":
            assert ast.get_docstring(tree(path)), place(path)
            assert not imports(path), place(path)


PRODUCT = [*modules("planner"), *modules("launcher"), *modules("tuneplan")]


@pytest.mark.parametrize("path", PRODUCT, ids=place)
def test_the_training_stack_is_imported_where_it_is_named(path: Path) -> None:
    early = {top_level(module) for module, _, inside in imports(path) if not inside}
    if early & TRAINING_STACK:
        assert is_within(path, IMPORTS_THE_TRAINING_STACK)


@pytest.mark.parametrize("path", PRODUCT, ids=place)
def test_drawing_processes_and_nvml_stay_where_they_are_named(path: Path) -> None:
    used = {top_level(module) for module, _, _ in imports(path)}
    for libraries, places in (
        ({"rich"}, DRAWS),
        ({"subprocess", "multiprocessing"}, STARTS_PROCESSES),
        ({"pynvml"}, READS_NVML),
    ):
        assert is_within(path, places) or not used & libraries, libraries


@pytest.mark.parametrize("path", modules("planner"), ids=place)
def test_the_planner_opens_files_where_they_are_named(path: Path) -> None:
    called = {node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    methods = {call.attr for call in called if isinstance(call, ast.Attribute)}
    opened = any(isinstance(call, ast.Name) and call.id == "open" for call in called)
    addresses = {"open"} if is_within(path, ASKS_THE_NETWORK) else set()
    assert is_within(path, OPENS_FILES) or not (opened or methods & FILE_CALLS - addresses)


@pytest.mark.parametrize("path", modules("planner"), ids=place)
def test_the_planner_asks_the_network_where_it_is_named(path: Path) -> None:
    used = {top_level(module) for module, _, _ in imports(path)}
    assert is_within(path, ASKS_THE_NETWORK) or not used & {"urllib", "http", "socket", "ssl"}


def test_every_exception_is_needed() -> None:
    """A place that is named above exists."""
    named = (IMPORTS_THE_TRAINING_STACK, DRAWS, STARTS_PROCESSES, READS_NVML, OPENS_FILES)
    for name in set().union(*named, ASKS_THE_NETWORK):
        assert (ROOT / name).exists(), name
