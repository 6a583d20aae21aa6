"""Engines' own libraries, each in an environment of its own, which ``make engines`` makes."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest

ROOT = Path(__file__).parents[3]
ENVIRONMENTS = ROOT / ".venv-engines"


def programs_of(library: Literal["skypilot", "kubeflow"]) -> Path:
    """Where its interpreter and its commands are."""
    folder = ENVIRONMENTS / library / "bin"
    if not (ENVIRONMENTS / ".installed").is_file():
        pytest.skip(f"{library} is not installed in {folder}: make engines does it")
    return folder


def told_by(
    library: Literal["skypilot", "kubeflow"],
    script: str,
    *files: Path,
    home: Path,
    **variables: str,
) -> Any:
    """What a script prints as JSON, in the library's environment and a home of its own."""
    done = subprocess.run(
        [programs_of(library) / "python", "-c", script, *files],
        env={**environment(home), **variables},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
