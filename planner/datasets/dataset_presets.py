"""Data sets by name: ``presets/datasets.yaml``."""

from functools import cache

from msgspec import convert, structs

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import parse_yaml
from planner.base.text_files import read_text
from planner.plan.data_section import DataSource


class NamedData(DataSource):
    """One entry of ``presets/datasets.yaml``."""

    xtuner: str | None = None
    """The function that reads such records in XTuner; None without one."""

    @property
    def plain(self) -> DataSource:
        """The entry as a source of a plan."""
        return convert(self, DataSource, from_attributes=True)


@cache
def data_sets() -> dict[str, NamedData]:
    """Return every data set, by name."""
    path = ROOT / "datasets.yaml"
    found: dict[str, object] = parse_yaml(read_text(path), path)
    return {name: convert(each, NamedData) for name, each in found.items()}


def named_data(name: str) -> DataSource:
    """Return the source of a data set by name."""
    return data_sets()[name].plain


def read_as_xtuner(function: str, source: str) -> DataSource:
    """Return ``source`` with its records read as XTuner's function reads them; by their own fields
    where that function is unknown."""
    for each in data_sets().values():
        if each.xtuner == function:
            return structs.replace(each.plain, source=source, subset=None)
    return DataSource(source=source)
