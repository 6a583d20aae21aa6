"""A model card says what was trained on what, can be used as it says, and tells no secrets."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

pytest.importorskip("peft")

from transformers import AutoModelForCausalLM

from launcher.display.model_card import model_card
from tests.launcher.display.test_closing_summary import REPORT
from tests.launcher.merging.test_merge_run import write_adapter
from tests.launcher.plans import full, plan
from tests.launcher.tiny_model import byte_tokenizer

INPUTS: dict[str, Any] = {"inputs": {"data": {"num_samples": 1200, "new_stops": {}}}}
VERSIONS = {"torch": "2.13.0", "deepspeed": None}
HUB = {"model__source": "org/base", "data__source": "org/records"}


def card(changes: dict[str, Any], *, merged: bool = False, **report: Any) -> ModelCard:
    return model_card(plan(**changes), {**REPORT, **INPUTS, **report}, VERSIONS, merged=merged)


@pytest.mark.parametrize(
    ("changes", "merged", "library", "tags"),
    [
        ({}, False, "peft", ["tuneplan", "lora"]),
        ({}, True, "transformers", ["tuneplan", "lora"]),
        (full(), False, "transformers", ["tuneplan", "full"]),
        (
            {"method": "qlora", "quantization": {"quant_type": "nf4"}},
            False,
            "peft",
            ["tuneplan", "qlora", "lora"],
        ),
    ],
)
def test_the_metadata_is_what_the_hub_reads(
    changes: dict[str, Any], merged: bool, library: str, tags: list[str]
) -> None:
    data = ModelCard(str(card({**HUB, **changes}, merged=merged))).data
    read = data.to_dict()  # type: ignore[no-untyped-call]
    assert read["base_model"] == "org/base"
    assert read["datasets"] == ["org/records"]
    assert read["library_name"] == library
    assert read["tags"] == tags


def test_paths_of_this_machine_are_not_told() -> None:
    told = str(card({"model__source": "/home/me/secret", "data__source": "/home/me/private.jsonl"}))
    assert "/home" not in told
    assert "private" not in told
    assert "| data | 1 local source |" in told
    assert "base_model:" not in told


def test_settings_measurements_and_versions() -> None:
    told = str(card(HUB))
    assert "| adapter | rank 4, alpha 8 |" in told
    assert "| learning rate | 0.002, cosine |" in told
    assert "| tokens per second | - | 1,234 |" in told
    assert "| loss |  | 5.5000 to 0.2500 |" in told
    assert "| torch | 2.13.0 |" in told
    assert "deepspeed" not in told


def test_text_of_a_model_stays_in_its_cell() -> None:
    assert r"| a \| b c |" in str(card({"model__source": "./x", "model__name": "a | b\nc"}))


def test_the_code_works_and_stops_at_new_end_marks(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    inputs = {"data": {"num_samples": 1, "new_stops": {"a": 7}}}
    [code] = re.findall(r"```python\n(.*?)```", str(card(HUB, inputs=inputs)), re.DOTALL)
    assert "eos_token_id=[7]" in code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["answer"].shape[1] > names["prompt"]["input_ids"].shape[1]
