"""What sources declare speaks of rows that there are, and of shapes that there are."""

import pytest

from benchmarks.accuracy.__main__ import PUBLISHED
from benchmarks.accuracy.predict import set_aside
from benchmarks.accuracy.sources import sources, whole_sources_set_aside
from benchmarks.accuracy.verdicts import verdicts
from benchmarks.rows import read_rows

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


def test_an_outcome_is_told_or_set_aside_with_a_reason() -> None:
    found = list(verdicts())
    assert {verdict.completed for verdict in found} == {True, False}
    assert all((v.predicted is None) == (v.reason is not None) for v in found)
