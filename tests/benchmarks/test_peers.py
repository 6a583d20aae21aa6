"""Asking the peers, up to the point where they must be installed."""

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.peers.compare import NO_CONFIG, Comparison, Question, compare, questions
from benchmarks.peers.express import PEERS, NotExpressibleError, Peer, check_common
from benchmarks.peers.model_files import LocalModel, preset_for, write_model
from benchmarks.peers.table import tables
from benchmarks.rows import parse_row
from planner.base.units import GIB
from planner.cli.model_option import load_model_dir
from planner.models.model_presets import load_model
from tests.benchmarks.lines import LINE

ROW = parse_row(LINE)
FITCHECK, CANIFINETUNE, FITSCOUT = PEERS
MODELS = {ROW.model: LocalModel(hub_id="Qwen/Qwen2.5-1.5B", directory="there")}


def setting(peer: Peer, **changes: Any) -> dict[str, Any]:
    asked, reasons = questions(peer, [replace(ROW, **changes)], MODELS)
    assert not reasons
    return asked[0].setting


def test_fitcheck_is_asked_in_its_words() -> None:
    asked = setting(FITCHECK, quantization="nf4-double", attention="sdpa", gpu="RTX 4080")
    assert asked["model"] == "Qwen/Qwen2.5-1.5B"
    assert asked["vram_mib"] == 16_376
    assert asked["training"] == {
        "precision": "fp16",
        "quantization": "nf4",
        "double_quant": True,
        "optimizer": "adamw",
        "batch_size": 2,
        "seq_len": 1024,
        "lora_rank": 32,
        "grad_checkpoint": True,
        "flash_attn": True,
        "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj"],
    }


def test_canifinetune_is_asked_in_its_words() -> None:
    asked = setting(CANIFINETUNE, optimizer="adamw-8bit-paged", lora_targets="q,v")
    assert asked["model_id"] == "there"
    assert asked["optimizer"] == "paged_adamw_8bit"
    assert asked["lora_target_scope"] == "conservative"
    assert asked["gpu_vram_gb"] == 15


def test_fitscout_is_asked_in_its_words() -> None:
    asked = setting(FITSCOUT, checkpointing="no")
    assert asked["training"] == {
        "method": "qlora",
        "micro_batch": 2,
        "seq_len": 1024,
        "grad_ckpt": False,
        "opt_8bit": False,
        "lora_rank": 32,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"readings": {}, "read": "not stated"}, "reading: not stated"),
        ({"parallel": "fsdp"}, "more than one GPU"),
        ({"offload": "activations CPU"}, "offload to host memory"),
        ({"compiled": True}, "compiled model"),
        ({"method": "adapter"}, "method: adapter"),
        ({"loss": "chunked"}, "loss: chunked"),
        ({"quantization": "gptq-int4"}, "quantization: gptq-int4"),
        ({"method": "lora"}, "quantization: nf4"),
        ({"checkpointing": "selective"}, "checkpointing: selective"),
        ({"precision": "fp16 AMP"}, "precision: fp16 AMP"),
    ],
)
def test_what_no_peer_can_say(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotExpressibleError) as caught:
        check_common(replace(ROW, **change))
    assert str(caught.value) == reason


def test_reasons_are_counted_and_a_missing_model_comes_last() -> None:
    unknown = replace(ROW, model="some/model")
    both = replace(unknown, lora_targets="DEFAULT")
    asked, reasons = questions(FITCHECK, [ROW, unknown, unknown, both], MODELS)
    assert [question.row for question in asked] == [ROW]
    assert reasons == {NO_CONFIG: 2, "LoRA targets: DEFAULT": 1}
    assert len(asked) + reasons.total() == 4


def test_a_reading_that_a_peer_does_not_predict_is_a_reason() -> None:
    only_reserved = replace(ROW, readings={"reserved": GIB})
    _, reasons = questions(FITSCOUT, [only_reserved], MODELS)
    assert reasons == {"predicts nothing like the reading: reserved": 1}


def test_evidence_is_marked() -> None:
    held_out = replace(ROW, origin="data/measurements/final-t4-20260921.json")
    other = replace(ROW, source="canift")
    assert [FITCHECK.evidence(row) for row in (ROW, held_out, other)] == [
        "fitted",
        "held out",
        "independent",
    ]
    assert [CANIFINETUNE.evidence(row) for row in (ROW, other)] == ["independent", "fitted"]
    own = replace(ROW, lora_targets="q,v", quantization="none")
    assert [FITSCOUT.evidence(row) for row in (ROW, own)] == ["assumed", "independent"]


def comparison() -> Comparison:
    row = replace(ROW, readings={"allocated": 4 * GIB, "device_used": 5 * GIB})
    asked = [Question(row, {}), Question(row, {}), Question(row, {})]
    answers: list[dict[str, Any]] = [
        {"predicted": {"allocated": 3 * GIB, "device_used": 5 * GIB}},
        {"predicted": {"allocated": 5 * GIB, "reserved": 5 * GIB}},
        {"refused": "too large"},
    ]
    return compare(FITCHECK, asked, answers, Counter({"more than one GPU": 2}))


def test_only_like_is_compared_with_like() -> None:
    errors = {group.quantity: error for group, error in comparison().errors.items()}
    assert errors.keys() == {"allocated", "device_used"}
    assert errors["allocated"].count == 2
    assert errors["allocated"].median == 0.25
    assert errors["device_used"].worst == 0


def test_a_refusal_is_a_row_not_expressed() -> None:
    assert comparison().not_expressed == {"more than one GPU": 2, "refused: too large": 1}


def test_the_table_shows_errors_meanings_and_reasons() -> None:
    stream = io.StringIO()
    Console(file=stream, width=110).print(tables([comparison()]))
    text = stream.getvalue()
    assert "25.0%" in text
    assert "refused: too large" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("model", "params", "preset"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7.616e9, "qwen2.5-7b"),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct", 1.544e9, "qwen2.5-1.5b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7.248e9, "mistral-7b"),
        ("Llama-2-7b-hf", 6.738e9, "llama-2-7b"),
        ("yi-6b-chat", 6.061e9, "yi-6b"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8.29e9, None),
        ("mistral-7b-v0.2", 7.242e9, None),
        ("Llama-2-7B", 7.6e9, None),
        ("Llama-2-7B", None, None),
    ],
)
def test_a_model_is_known_by_name_and_size(
    model: str, params: float | None, preset: str | None
) -> None:
    found = preset_for(model, params)
    assert (found.name if found else None) == preset


def test_the_written_config_is_the_preset(tmp_path: Path) -> None:
    preset = load_model("qwen2.5-1.5b")
    local = write_model(preset, tmp_path)
    directory = Path(local.directory)
    assert load_model_dir(directory).spec == preset.spec
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * preset.expected_params
    main = directory.parent.parent / "refs" / "main"
    assert main.read_text() == directory.name
