"""Short names lead somewhere, to one place, and never hide a preset."""

from typing import get_args

import pytest

from planner.base.errors import UnknownNameError
from planner.base.preset_files import Kind, aliases, preset_names
from planner.hardware.cards import load_gpu
from planner.models.model_presets import load_model

ALIASES = [(kind, alias) for kind in get_args(Kind) for alias in aliases(kind)]


@pytest.mark.parametrize(("kind", "alias"), ALIASES)
def test_alias(kind: Kind, alias: str) -> None:
    assert isinstance(alias, str), "quote an alias made of digits"
    assert alias == alias.lower()
    assert alias not in preset_names(kind)
    assert aliases(kind)[alias] in preset_names(kind)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("h200", "h200"),
        ("h100", "h100-sxm-80gb"),
        ("a100-80g", "a100-sxm-80gb"),
        ("a100-40g", "a100-sxm-40gb"),
        ("RTX-4090", "rtx-4090"),
        ("4090", "rtx-4090"),
    ],
)
def test_card_names(alias: str, name: str) -> None:
    assert load_gpu(alias).name == name


@pytest.mark.parametrize("name", preset_names("models"))
def test_a_model_is_found_by_its_hub_id(name: str) -> None:
    assert load_model(load_model(name).hub_id.lower()).name == name


@pytest.mark.parametrize("old_owner", ["THUDM/chatglm3-6b-base", "thudm/chatglm3-6b-base"])
def test_a_model_is_found_by_its_former_owner(old_owner: str) -> None:
    assert load_model(old_owner).name == "chatglm3-6b-base"


def test_a_hub_id_that_is_spelt_wrong_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'qwen/qwen2\.5-7b'"):
        load_model("Qwen/Qwen2.5_7B")


def test_no_alias_repeats_a_hub_id() -> None:
    assert not {load_model(name).hub_id.lower() for name in preset_names("models")} & set(
        aliases("models")
    )


@pytest.mark.parametrize("name", ["../tiers", "qwen2.5-7b-1m", "aliases"])
def test_other_names_are_unknown(name: str) -> None:
    """Other weights have no alias: the plan would name a repository that was not asked for."""
    with pytest.raises(UnknownNameError, match="no model is named"):
        load_model(name)
