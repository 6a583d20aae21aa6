"""Recipes that differ in few settings, written as one file: what they share, and the runs."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from planner.presets import ROOT, Source
from planner.recipe import Recipe
from planner.spec import Spec, read_spec


class RecipeFamily(Spec):
    """Every model with every run, under the names that their author gave them."""

    source: Source
    models: dict[str, str]
    """The part of a name that says the model, and the preset it stands for."""
    name: str
    """A pattern of ``{model}`` and ``{run}``."""
    settings: dict[str, Any]
    """Keys of a recipe that every run shares."""
    runs: dict[str, dict[str, Any]]
    """Keys of a recipe that are a run's own; they win over the shared ones."""

    def recipes(self) -> Iterator[Recipe]:
        for short, model in self.models.items():
            for run, own in self.runs.items():
                name = self.name.format(model=short, run=run)
                keys = {"name": name, "source": self.source.model_dump(), "model": model}
                yield Recipe.model_validate({**self.settings, **own, **keys})


@cache
def family_recipes() -> dict[str, Recipe]:
    """Of all families, by name."""
    files = sorted((ROOT / "recipe_families").glob("*.yaml"))
    families = [read_spec(RecipeFamily, path) for path in files]
    return {recipe.name: recipe for family in families for recipe in family.recipes()}
