"""A recipe has the sections that its method needs, and no others."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.base.errors import InvalidFileError
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import read_spec
from planner.recipes.recipe import Recipe

ADAPTER = {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear"}
NF4 = {"quant_type": "nf4"}


def _recipe(method: str) -> dict[str, Any]:
    text = (ROOT / "recipes" / f"{method}.yaml").read_text(encoding="utf-8")
    return copy.deepcopy(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("qlora", {"adapter": None}, "method qlora requires an adapter section"),
        ("qlora", {"quantization": None}, "method qlora requires a quantization section"),
        ("lora", {"adapter": None}, "method lora requires an adapter section"),
        ("lora", {"quantization": NF4}, "method lora must not have a quantization section"),
        ("full", {"adapter": ADAPTER}, "method full must not have an adapter section"),
    ],
)
def test_sections_are_those_of_the_method(
    method: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    content = {**_recipe(method), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    file.write_text(yaml.safe_dump(kept), encoding="utf-8")
    with pytest.raises(InvalidFileError, match=message):
        read_spec(Recipe, file)
