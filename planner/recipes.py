"""A recipe by its name, or from a file: one of ours, or an XTuner configuration."""

from pathlib import Path

from planner.errors import UnknownNameError
from planner.presets import ROOT, aliases, preset_names
from planner.recipe import Recipe
from planner.recipe_families import family_recipes
from planner.spec import read_spec


def recipe_names() -> list[str]:
    return sorted([*preset_names("recipes"), *family_recipes()])


def load_recipe(name: str) -> Recipe:
    """Raises UnknownNameError, or InvalidFileError where the file is no recipe."""
    path = Path(name)
    if path.suffix == ".py":
        from planner.xtuner import read_xtuner  # only who has such a file waits for it

        return read_xtuner(path)
    if path.suffix in (".yaml", ".yml"):
        return read_spec(Recipe, path)
    wanted = aliases("recipes").get(name.lower(), name.lower())
    if wanted in preset_names("recipes"):
        return read_spec(Recipe, ROOT / "recipes" / f"{wanted}.yaml")
    if wanted in family_recipes():
        return family_recipes()[wanted]
    raise UnknownNameError("recipe", name, recipe_names(), see="plan --list recipes")
