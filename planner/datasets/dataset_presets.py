"""Data sets by the names that recipes have for them: ``presets/datasets.yaml``."""

from functools import cache

from msgspec import convert, structs

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import parse_yaml, read_text
from planner.plan.data_section import DataSource


class NamedData(DataSource):
    xtuner: str | None = None
    """The function that reads such records in XTuner."""

    @property
    def plain(self) -> DataSource:
        return convert(self, DataSource, from_attributes=True)


@cache
def data_sets() -> dict[str, NamedData]:
    path = ROOT / "datasets.yaml"
    found: dict[str, object] = parse_yaml(read_text(path), path)
    return {name: convert(each, NamedData) for name, each in found.items()}


def named_data(name: str) -> DataSource:
    return data_sets()[name].plain


def read_as_xtuner(function: str, source: str) -> DataSource:
    """The records of ``source`` as that function reads them; recognised where it is unknown."""
    for each in data_sets().values():
        if each.xtuner == function:
            return structs.replace(each.plain, source=source, subset=None)
    return DataSource(source=source)
