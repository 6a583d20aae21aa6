"""Samples of a file, as a plan's data section would have them read."""

from pathlib import Path
from typing import Any

from msgspec import convert

from launcher.data.records import Sample
from launcher.data.samples import SourceReader
from launcher.data.sources import find_sources
from planner.plan.data_section import DataSection


def reader_of(path: Path | str | None, **settings: Any) -> SourceReader:
    """No path where ``sources`` is among the settings."""
    named = {} if path is None else {"source": str(path)}
    data = convert({**named, **settings}, DataSection)
    (source,) = find_sources(data)
    return SourceReader(source, loss_on=data.loss_on, errors=data.errors)


def samples_of(path: Path | str | None, **settings: Any) -> list[Sample]:
    return [placed.sample for placed in reader_of(path, **settings).samples()]
