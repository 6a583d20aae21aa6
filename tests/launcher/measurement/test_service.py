"""The rates that a process measures here, in as little time as there is."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs, to_builtins

pytest.importorskip("torch")
pytest.importorskip("trl")

import torch

from launcher.measurement import kernels, rank, stopwatch
from launcher.measurement.question import Question
from planner.hardware.detect import read_cpu
from planner.hardware.measured.measurement import KernelRates
from planner.measurement.measure import _measurement, measured
from planner.measurement.tiny_steps import tiny_steps
from tests.launcher.launching import environment

PRODUCTS = ("wide", "thin", "wide_gradient", "thin_gradient")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No time: one size of every curve, two calls each."""
    monkeypatch.setattr(rank, "MEASURING_SECONDS", 0.0)
    monkeypatch.setattr(stopwatch, "POINT_SECONDS", 0.0)
    monkeypatch.setattr(stopwatch, "FEWEST", 2)
    monkeypatch.setattr(kernels, "TURNED_BYTES", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_every_rate_of_a_processor_is_measured_even_without_time(
    hurried: None, tmp_path: Path
) -> None:
    cluster, said = read_cpu(), list[str]()
    question = Question(
        name="CPU",
        device="cpu",
        ranks=1,
        tiny_steps=to_builtins(tiny_steps(cluster)),
        folder=str(tmp_path),
        has_bf16=True,
    )
    measurement = _measurement(cluster, rank.measured(question, 0, said.append))
    for of_width in (measurement.kernels.bits_16, measurement.kernels.bits_32):
        assert all(getattr(of_width, name) for name in PRODUCTS)
    for number in numbers(to_builtins(measurement.kernels)):
        assert 0 < number < math.inf
    assert measurement.kernels.fresh_bytes_per_s is not None
    assert measurement.host.disk_bytes_per_s is not None
    assert measurement.links is None
    assert len(said) >= 4
    assert list(tmp_path.iterdir()) == []


def numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list | tuple):
        for each in content:
            yield from numbers(each)
    elif content is not None:
        yield content


@pytest.mark.long
def test_two_ranks_measure_their_collectives(tmp_path: Path) -> None:
    found = measured(structs.replace(read_cpu(), gpus_per_node=2), tmp_path)
    assert found.links is not None
    assert found.links.ranks == 2
    assert isinstance(found.kernels, KernelRates)


@pytest.mark.long
def test_a_measurement_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-m", "planner", "--measure", "--gpus", "cpu"],
        env=environment(TUNEPLAN_DATA=str(data)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "matrix products" in line:
            break
    process.send_signal(2)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not data.exists()
