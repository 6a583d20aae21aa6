"""Families of recipes that differ in few settings: what they share, and the runs, in one file."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import convert, to_builtins

from planner.base.preset_files import ROOT, Source
from planner.base.strict_yaml import Spec, read_spec
from planner.datasets.dataset_presets import named_data
from planner.plan.data_section import DataSection
from planner.recipes.recipe import Recipe


class Run(Spec):
    """The settings of one run of a family; the last two replace shared ones."""

    data: tuple[str, ...]
    """Names of data sets in ``presets/datasets.yaml``."""
    epochs: float
    sequence_length: int | None = None
    packing: bool | None = None


class RecipeFamily(Spec):
    """Every model of a family with every run, under the names that their author gave them."""

    source: Source
    models: dict[str, str]
    """The model's part of a name, and the preset it stands for."""
    name: str
    """The names, as a pattern of ``{model}`` and ``{run}``."""
    settings: dict[str, Any]
    """Keys of a recipe that all runs share."""
    runs: dict[str, Run]

    def recipes(self) -> Iterator[Recipe]:
        """Yield every recipe of the family."""
        for short, model in self.models.items():
            for run, own in self.runs.items():
                keys = {
                    "name": self.name.format(model=short, run=run),
                    "source": to_builtins(self.source),
                    "model": model,
                    "data": DataSection(sources=tuple(named_data(name) for name in own.data)),
                }
                given = {key: value for key, value in to_builtins(own).items() if value is not None}
                yield convert({**self.settings, **given, **keys}, Recipe)


@cache
def family_recipes() -> dict[str, Recipe]:
    """Return the recipes of all families, by name."""
    files = sorted((ROOT / "recipe_families").glob("*.yaml"))
    families = [read_spec(RecipeFamily, path) for path in files]
    return {recipe.name: recipe for family in families for recipe in family.recipes()}
