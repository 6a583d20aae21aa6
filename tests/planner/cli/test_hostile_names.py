"""Names with control sequences, through every output of ``plan``."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.base.printable import shown
from planner.base.units import GIB
from planner.models.config_json import config_from_spec
from planner.models.model_presets import load_model
from tests.planner.cli.test_plan_command import error_of, plan

NAME = "bad\x1b[31mname\u202e"
SHOWN = r"bad\x1b[31mname\u202e"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds a model of that name."""
    (tmp_path / NAME).mkdir()
    content = config_from_spec(load_model("llama-3.2-1b").spec)
    (tmp_path / NAME / "config.json").write_text(json.dumps(content))
    return tmp_path


def output_of(*options: str, folder: Path) -> str:
    """All that a successful ``plan`` of the model prints."""
    made = plan("--model", NAME, *options, cwd=folder)
    assert made.returncode == 0, made.stderr
    return made.stdout + made.stderr


def test_the_models_name(folder: Path) -> None:
    output = output_of("--gpus", "24G", "--explain", "--html", "page.html", folder=folder)
    assert SHOWN in output
    assert output == shown(output)
    text, page = (folder / "plan.yaml").read_text(), (folder / "page.html").read_text()
    assert page == shown(page)
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header == [shown(line) for line in header]
    content = yaml.safe_load(text)
    assert content["model"]["name"] == NAME, "the plan holds the name itself"
    assert content["output"]["directory"].startswith("runs/bad-31mname-")


def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    error = error_of("--model", NAME, "--gpus", "24G", cwd=tmp_path)
    assert SHOWN in error
    assert error == shown(error)


def test_the_name_of_a_gpu(folder: Path) -> None:
    device: dict[str, Any] = {
        "index": 0,
        "uuid": "GPU-0",
        "name": NAME,
        "card_name": NAME,
        "total_bytes": 24 * GIB,
        "free_bytes": 20 * GIB,
        "compute_capability": "8.6",
        "holders": [{"name": NAME, "used_bytes": GIB}],
    }
    host = {
        "cpu_name": NAME,
        "cores": 16,
        "total_bytes": 64 * GIB,
        "available_bytes": 60 * GIB,
    }
    machine = {
        "schema_version": 1,
        "nvml": {
            "devices": [device],
            "pairs": [],
            "driver_version": "580.65.06",
            "cuda_version": "13.0",
        },
        "host": host,
        "environment": {},
    }
    (folder / "machine.json").write_text(json.dumps(machine))
    output = output_of("--gpus", "machine.json", folder=folder)
    assert output.count(SHOWN) > 1
    assert output == shown(output)
