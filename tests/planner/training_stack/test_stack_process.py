"""Processes of the training stack: their answers, and what is said when they end without one."""

import configparser
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from launcher.lifecycle.preflight import MODULES
from planner.base.errors import InvalidRequestError, UntraceableError
from planner.models.traced_model import traced_spec
from planner.recipes.load_recipe import load_recipe
from planner.training_stack import trace_client
from planner.training_stack.stack_process import (
    INSTALL,
    STACK_MODULES,
    StackProcess,
    StackProcessError,
)
from planner.training_stack.trace_client import TracingService
from planner.workload.layout import Layout
from planner.workload.settings import settings_of
from planner.workload.workload import Workload

ROOT = Path(__file__).parents[3]

CRASHES = {
    "import torch.nowhere": f"the training stack is not installed, torch is missing: {INSTALL}",
    "import no_such_module": "asked failed with ModuleNotFoundError: No module named "
    "'no_such_module'",
    "raise ValueError('line 3\\nof 4')": "asked failed with ValueError: line 3",
    "import sys; sys.exit('error: bad')": "asked failed with error: bad",
    "import os; os._exit(3)": "asked failed with exit code 3",
    "import os; os.kill(os.getpid(), 9)": "asked was killed by SIGKILL",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules in it stand before those that are installed."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return tmp_path


def failure_of(folder: Path, source: str) -> str:
    (folder / "asked.py").write_text(source)
    with closing(StackProcess("asked")) as process, pytest.raises(StackProcessError) as raised:
        process.ask({"question": "x" * 100_000})
    return str(raised.value)


@pytest.mark.parametrize(("source", "expected"), CRASHES.items())
def test_what_ended_it_is_said(source: str, expected: str, folder: Path) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").touch()
    assert failure_of(folder, source) == expected
    assert failure_of(folder, f"import sys; sys.stdin.readline(); {source}") == expected


def test_much_chatter_before_the_error_is_passed_over(folder: Path) -> None:
    source = "import sys\nsys.stderr.write('hub: 99 %\\n' * 100_000)\nraise KeyError('weight')"
    assert failure_of(folder, source) == "asked failed with KeyError: 'weight'"


def test_every_line_is_answered_and_notes_are_shown(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "asked.py").write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'note': 'reading'}), flush=True)\n"
        "    print(json.dumps({'twice': 2 * json.loads(line)['number']}), flush=True)\n"
    )
    with closing(StackProcess("asked")) as process:
        assert [process.ask({"number": number}) for number in (1, 2)] == [
            {"twice": 2},
            {"twice": 4},
        ]
    assert capfd.readouterr().err == "reading\nreading\n"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("OSError('libcudart.so is missing')", "libcudart.so is missing"),
        ("ImportError('libcudart.so is missing')", "libcudart.so is missing"),
        (
            "ModuleNotFoundError(\"No module named 'torch'\")",
            f"the training stack is not installed, torch is missing: {INSTALL}",
        ),
    ],
)
def test_a_trace_that_crashes_says_what_failed(raised: str, said: str, folder: Path) -> None:
    (folder / "transformers.py").write_text(f"raise {raised}")
    service = TracingService()
    for _ in range(2):
        with pytest.raises(InvalidRequestError) as error:
            service.shape({"model_type": "helium"}, "no formulas for 'helium'")
        assert str(error.value) == (
            f"no formulas for 'helium', and the model cannot be traced: {said}"
        )


def test_what_cannot_be_traced_is_asked_once(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "asked.py").write_text(
        "import json, sys\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    print(json.dumps({'error': f'reason {number}'}), flush=True)\n"
    )
    monkeypatch.setattr(trace_client, "MODULE", "asked")
    service = TracingService()
    matrix = {"name": "up", "in_features": 8, "out_features": 8, "bias": False, "whole": False}
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    counts = ("head_dim", "vocab_size", "max_position_embeddings", "stacked_params")
    params = ("active_weights", "num_params", "untrained_params", "embedding_params", "head_params")
    names = ("outside", "in_towers", "towers", "left_out", "unadaptable")
    answer: dict[str, Any] = {
        **dict.fromkeys((*sizes, *counts, *params), 8),
        **dict.fromkeys(names, ()),
        "layers": [{"num_params": 64, "linears": [matrix]}],
        "native_class": "Plain",
        "attention": "sdpa",
        "loss": "standard",
        "recomputable": True,
    }
    spec = traced_spec(answer, "plain", "{}").traced_by(service.trace)
    work = Workload(model=spec, settings=settings_of(load_recipe("lora")), compute="bf16")
    layout = Layout(
        strategy="single",
        world_size=1,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        activation_checkpointing=False,
    )
    for _ in range(2):
        with pytest.raises(UntraceableError, match="cannot be traced: reason 0"):
            service.trace(work, layout)
    assert capfd.readouterr().err.count("trace 1") == 1


def test_every_package_of_the_stack_is_known() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options.extras_require"]["train"].split()
    names = {line.partition(">=")[0] for line in lines}
    assert {MODULES.get(name, name) for name in names} <= STACK_MODULES
