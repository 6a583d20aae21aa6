"""What sources declare speaks of rows that there are, and of shapes that there are."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from msgspec import structs

from benchmarks.accuracy import predict
from benchmarks.accuracy.__main__ import PUBLISHED
from benchmarks.accuracy.predict import by_its_id, set_aside
from benchmarks.accuracy.sources import sources, whole_sources_set_aside
from benchmarks.accuracy.table import row_errors
from benchmarks.accuracy.verdicts import Verdict, verdicts
from benchmarks.rows import read_rows
from planner.hardware.cards import load_gpu

ROWS = read_rows(PUBLISHED)
SHAPES = {"qwen-1.8b": 1.837, "qwen-7b": 7.721, "qwen-14b": 14.167, "qwen-72b": 72.288}
"""Billions of parameters, as the rows' source prints them."""


@pytest.mark.parametrize("name", sources())
def test_rows_that_are_set_aside_exist(name: str) -> None:
    assert set(sources()[name].set_aside) <= {row.id for row in ROWS}


def test_a_source_is_declared_or_set_aside_as_a_whole() -> None:
    whole = set(whole_sources_set_aside())
    assert whole <= {row.source for row in ROWS}
    assert not whole & set(sources())


def test_every_declared_model_has_a_shape() -> None:
    for source in sources().values():
        assert all(source.shape(model) is not None for model in source.models)


@pytest.mark.parametrize(("name", "billions"), SHAPES.items())
def test_shapes_have_the_published_size(name: str, billions: float) -> None:
    source = next(s for s in sources().values() if name in s.models.values())
    model = next(m for m, shape in source.models.items() if shape == name)
    shape = source.shape(model)
    assert shape is not None
    assert shape.num_params / 1e9 == pytest.approx(billions, abs=5e-4)


def test_what_is_set_aside_has_a_reason() -> None:
    assert all(reason for row in ROWS if (reason := set_aside(row)) is not None)


@cache
def outcomes() -> list[Verdict]:
    return list(verdicts(several=False))


def test_an_outcome_is_told_or_set_aside_with_a_reason() -> None:
    found = outcomes()
    assert {verdict.completed for verdict in found} == {True, False}
    assert all((v.predicted is None) == (v.reason is not None) for v in found)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("optimizer", "sgd"),
        ("offload", "params CPU"),
        ("loss", "fused"),
        ("precision", "bf16-mixed"),
        ("parallel", "tensor"),
    ],
)
@pytest.mark.parametrize("name", ["fitcheck", "fsdpqlora", "litgpt-hub", "swiftdec"])
def test_a_row_with_another_setting_is_set_aside_by_its_word(
    name: str, setting: str, word: str
) -> None:
    row = next(row for row in ROWS if row.source == name and not set_aside(row))
    changed: Any = {setting: word}
    assert set_aside(replace(row, **changed)) == f"{setting} {word}"


def test_rows_that_are_set_aside_by_their_ids_would_be_predicted_too_low() -> None:
    """What they lack only adds memory: lengths, gradients and scores that are not published."""
    asked = [row for row in ROWS if by_its_id(row) and row.source == "litgpt-rt"]
    assert asked
    for row in asked[::4]:
        assert next(iter(row_errors(row).values())) < 0


def test_a_card_without_a_known_context_has_no_reading_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = next(row for row in ROWS if row.source == "fitcheck" and not set_aside(row))
    unknown = structs.replace(load_gpu("t4"), context_mib=None)
    monkeypatch.setattr(predict, "load_gpu", lambda _name: unknown)
    assert "device, replayed" not in predict.predicted(row)


def test_a_plan_lets_no_outcome_run_that_ran_out_of_memory() -> None:
    planned = [verdict for verdict in outcomes() if verdict.planned is not None]
    assert any(verdict.planned for verdict in planned)
    assert not any(verdict.planned and not verdict.completed for verdict in planned)
