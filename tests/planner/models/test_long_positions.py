"""Which models' positions are scaled, by how much, and what that makes of a ``config.json``."""

from typing import Any

import pytest

from planner.base.errors import InvalidRequestError
from planner.models.long_positions import with_positions_for
from planner.models.model_presets import load_model
from planner.plan.rope_scaling import rope_type_of, scaled_config
from planner.plan.schema import RopeScaling

TWICE = RopeScaling(rope_type="yarn", factor=2, original_max_position_embeddings=2048)
OLD = {"rope_scaling": None, "rope_theta": 5e5}
NEW = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


@pytest.mark.parametrize(("length", "factor"), [(8193, 2), (16384, 2), (16385, 3)])
def test_the_smallest_whole_factor_is_taken(length: int, factor: int) -> None:
    found = with_positions_for(load_model("smollm2-135m"), length)
    assert found.spec.max_position_embeddings == factor * 8192
    assert found.rope_scaling == RopeScaling(
        rope_type="yarn", factor=factor, original_max_position_embeddings=8192
    )


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",  # learned
        "bloom-560m",  # none
        "llama-3.1-8b",  # scaled already
        "gemma-3-1b-it",  # layers differ
        "deepseek-v2-lite",  # scaled, and of latent attention
        "chatglm3-6b-base",  # its original files cannot say it
        "granite-4.0-h-tiny",  # layers without any
    ],
)
def test_other_models_keep_their_positions(name: str) -> None:
    model = load_model(name)
    assert with_positions_for(model, 10**6) is model


def test_samples_within_the_positions_change_nothing() -> None:
    model = load_model("smollm2-135m")
    assert with_positions_for(model, 8192) is with_positions_for(model, None) is model


@pytest.mark.parametrize("own", [OLD, NEW])
def test_keys_of_older_files_and_of_newer_ones(own: dict[str, Any]) -> None:
    found = scaled_config({**own, "max_position_embeddings": 2048}, TWICE, "tiny")
    assert found["max_position_embeddings"] == 4096
    assert rope_type_of(found) == "yarn"
    assert {**found, **found.get("rope_parameters", {})}["rope_theta"] == 5e5
    assert scaled_config(found, TWICE, "tiny") == found


@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_a_scaling_of_another_kind_is_not_replaced(key: str) -> None:
    config = {"rope_scaling": {key: "llama3"}, "max_position_embeddings": 131072}
    with pytest.raises(InvalidRequestError, match=r"scaled by llama3 already: .* 131072 at most"):
        scaled_config(config, TWICE, "tiny")
    assert scaled_config(config, None, "tiny") == config


@pytest.mark.parametrize("stated", ["linear", [], {"full_attention": {"rope_type": "default"}}])
def test_what_states_no_kind_is_unscaled(stated: Any) -> None:
    assert rope_type_of({"rope_scaling": stated}) == "default"
