"""A recipe by its name or from a file: one of ours, or an XTuner configuration."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from msgspec import structs

from planner.base.errors import InvalidFileError, InvalidRequestError, UnknownNameError
from planner.base.phrases import Phrase
from planner.base.preset_files import (
    aliases,
    check_own_name,
    own_files,
    preset_file,
    preset_names,
)
from planner.base.strict_yaml import parse_spec, parse_yaml, read_spec
from planner.base.text_files import read_text
from planner.plan.schema import QuantizationSection
from planner.plan.vocabulary import Method
from planner.recipes.recipe import Recipe


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted."""
    from planner.recipes.families import family_recipes

    return sorted([*preset_names("recipes"), *family_recipes()])


def load_recipe(name: str, typed: Sequence[str] = (), devices: int = 1) -> Recipe:
    """Return the recipe of a name, an alias or a file (``.yaml``, or ``.py`` of XTuner).

    A file of LLaMA-Factory is answered with the command for it, which repeats the options that were
    ``typed`` and counts the batch of so many devices. Raises UnknownNameError, or InvalidFileError
    where the file is not a recipe.
    """
    path = Path(name)
    if path.suffix == ".py":
        from planner.recipes.xtuner import read_xtuner  # for who has such a file

        return read_xtuner(path)
    if path.suffix in (".yaml", ".yml"):
        return _in_file(path, typed, devices)
    return _preset(name.lower())


def _in_file(path: Path, typed: Sequence[str], devices: int) -> Recipe:
    # For who has such a file.
    from planner.recipes.llama_factory import is_llama_factory, refusal, translate

    text = read_text(path)
    content = parse_yaml(text, path)
    if is_llama_factory(content):
        told = refusal(content) or Phrase(
            "this is a file of LLaMA-Factory and not a recipe; what it asks for is: {command}",
            command=translate(content, typed, devices).sentence,
        )
        raise InvalidFileError(path, None, told)
    return parse_spec(Recipe, text, path)


@cache
def _preset(name: str) -> Recipe:
    file = preset_file("recipes", name)
    if file is not None:
        recipe = read_spec(Recipe, file)
        if name in own_files("recipes"):
            check_own_name(file, recipe.name)
        return recipe
    from planner.recipes.families import family_recipes

    found = family_recipes().get(aliases("recipes").get(name, name))
    if found is None:
        raise UnknownNameError(Phrase("recipe"), name, recipe_names(), see="plan --list recipes")
    return found


def trained_by(recipe: Recipe, method: Method | None) -> Recipe:
    """Return the recipe with or without quantization of its base; its other settings hold for both.

    Raises InvalidRequestError for full fine-tuning instead of adapters, or the reverse.
    """
    if method in (None, recipe.method):
        return recipe
    if recipe.adapter is None or method == "full":
        raise InvalidRequestError(
            Phrase(
                "--recipe {name} cannot be combined with --method {method}: its learning "
                "rate is for {its_method}. Leave one of the two out",
                name=recipe.name,
                method=method,
                its_method=recipe.method,
            )
        )
    base = QuantizationSection(quant_type="nf4", double_quant=True)
    quantization = base if method == "qlora" else None
    return structs.replace(recipe, method=method, quantization=quantization)
