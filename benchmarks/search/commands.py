"""Commands that are timed from a cold start: ours, and those that other estimators' READMEs show,
each in its environment and offline."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers.environments import interpreter

MODEL = "qwen2.5-7b"
WRITE = """
import sys
from pathlib import Path
from benchmarks.peers.model_files import write_model
from planner.models.model_presets import load_model
local = write_model(load_model(sys.argv[1]), Path(sys.argv[2]))
print(local.hub_id, local.directory, sep="\\n", end="")
"""
"""Program that writes the files in a separate process: until a child starts, the kernel counts what
this process holds as the child's."""


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


def ours() -> Iterator[Command]:
    environment = {**os.environ, "COLUMNS": "88"}
    # Installed packages have their bytecode; a run that writes none would compile it each time.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    plan = (sys.executable, "-m", "planner", "-o", "plan.yaml", "--force", "--model")
    yield Command("python -c pass", (sys.executable, "-c", "pass"), environment)
    for name, arguments in {
        "plan, one card": (MODEL, "--gpus", "rtx-4090"),
        "plan, eight cards": (MODEL, "--gpus", "8x24G"),
        "plan, machine read": ("smollm2-135m", "--gpus", "auto"),
    }.items():
        yield Command(name, (*plan, *arguments), environment)


def peers(hub: Path) -> Iterator[Command]:
    """Return the peers' commands, each about one model on one 24 GiB card, from files in the hub's
    layout."""
    written = subprocess.run(
        [sys.executable, "-c", WRITE, MODEL, str(hub)], check=True, capture_output=True, text=True
    )
    hub_id, directory = written.stdout.split("\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(hub),
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
    }
    asked = {
        "fitcheck-llm==0.3.1": ("fitcheck", hub_id, "--qlora", "--gpu", "4090"),
        "canifinetune==0.4.1": (
            *("canifinetune", "estimate", "--model", directory),
            *("--gpu-vram-gb", "24", "--offline"),
        ),
        "fitscout==0.1.1": ("fitscout", directory, "--vram", "24", "--bf16"),
    }
    for requirement, (script, *rest) in asked.items():
        program = interpreter(requirement).parent / script
        yield Command(requirement, (str(program), *rest), environment)
    if find_spec("accelerate") is not None:
        program = Path(sys.executable).parent / "accelerate"
        arguments = (str(program), "estimate-memory", hub_id, "--library_name")
        name = f"accelerate=={version('accelerate')} estimate-memory"
        yield Command(name, (*arguments, "transformers"), environment)
