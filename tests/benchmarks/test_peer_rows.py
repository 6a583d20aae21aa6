"""Published measurements as rows: which lines count, and what their words become."""

import csv
from pathlib import Path

import pytest

from benchmarks.rows import ALL_LINEAR, is_usable, parse_row, read_rows, readings
from planner.base.units import GIB, MIB
from tests.benchmarks.lines import LINE


def test_a_line_becomes_our_words() -> None:
    row = parse_row(LINE)
    assert row.source == "fitcheck"
    assert row.quantization == "nf4"
    assert row.optimizer == "adamw"
    assert row.params == 1_544_000_000
    assert (row.micro_batch_size, row.sequence_length, row.lora_rank) == (2, 1024, 32)


def test_one_run_has_several_readings() -> None:
    found = readings(LINE)
    assert found == {
        "allocated": round(6.678 * GIB),
        "reserved": 7548 * MIB,
        "device_used": 7689 * MIB,
    }


def test_a_reading_after_loading_is_not_the_peak() -> None:
    notes = "reserved=3.5 GiB; after_load alloc/reserved=0.9279/0.9688; after_load_alloc=1644"
    found = readings(LINE | {"notes": notes})
    assert found["reserved"] == round(3.5 * GIB)
    assert "device_used" not in found


def test_an_unknown_reading_is_none_of_ours() -> None:
    row = parse_row(LINE | {"mem_kind": "active", "notes": ""})
    assert row.readings == {}
    assert row.read == "active"


@pytest.mark.parametrize(
    ("column", "word", "field", "ours"),
    [
        ("quant", "", "quantization", "none"),
        ("quant", "bnb.nf4-dq", "quantization", "nf4-double"),
        ("quant", "gptq-int4", "quantization", "gptq-int4"),
        ("lora_targets", "q,k,v,o,mlp", "lora_targets", ALL_LINEAR),
        ("precision", "bf16-true", "precision", "bf16"),
        ("method", "full(pretrain)", "method", "full"),
        ("attention", "sdpa(flash2)", "attention", "flash"),
        ("lora_rank", "", "lora_rank", None),
        ("params_b", "", "params", None),
        ("mem_kind", "unknown", "read", "not stated"),
        ("notes", "torch.compile on", "compiled", True),
    ],
)
def test_words(column: str, word: str, field: str, ours: object) -> None:
    assert getattr(parse_row(LINE | {column: word}), field) == ours


@pytest.mark.parametrize(
    "change",
    [{"tier": "B"}, {"seq_kind": "cap"}, {"kind": "estimated"}, {"peak_gib_per_gpu": ""}],
)
def test_what_is_not_fully_known_is_left_out(change: dict[str, str]) -> None:
    assert is_usable(LINE)
    assert not is_usable(LINE | change)


def test_a_file_gives_its_usable_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(LINE))
        writer.writeheader()
        writer.writerows([LINE, LINE | {"id": "other-2", "tier": "C"}])
    assert [row.id for row in read_rows(path)] == ["fitcheck-001"]
