"""Virtual environments of the peers, apart from ours."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".venv-peers"


def interpreter(requirement: str) -> Path:
    """Return the Python of the environment that holds ``requirement``, and make it if it is
    missing."""
    directory = ENVIRONMENTS / requirement.replace("==", "-")
    python = directory / "bin" / "python"
    done = directory / ".installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        install = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", requirement]
        subprocess.run([str(python), *install], check=True)
        done.touch()
    return python


def installed(python: Path) -> dict[str, str]:
    """Return the version of every package of an environment."""
    command = [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {package["name"]: package["version"] for package in json.loads(listing)}


def ask(
    python: Path, script: str, settings: list[dict[str, Any]], hub: Path
) -> list[dict[str, Any]]:
    """Return one answer per setting, from a peer that sees only ``hub``: no network, no state of
    ours."""
    finished = subprocess.run(
        [str(python), "-I", str(HERE / script)],
        input=json.dumps(settings),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(hub),
            "HF_HOME": str(hub),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise RuntimeError(f"{script} failed:\n{finished.stderr}")
    answers: list[dict[str, Any]] = json.loads(finished.stdout.replace(str(hub), "hub"))
    return answers
