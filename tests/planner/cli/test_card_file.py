"""``--gpus card.yaml``: a card that no preset has."""

import os
import re
from pathlib import Path

import pytest

from planner.base.errors import InvalidFileError
from planner.base.preset_files import ROOT
from planner.cli.machine_options import find_cluster
from planner.hardware.cluster import PLAUSIBLE_RATES, Cluster
from planner.speed.card_rates import rates


def found(spec: str) -> Cluster:
    return find_cluster(spec, "plan", None, force=False)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "gpus" / "rtx-4090.yaml").read_text(encoding="utf-8")
    file = tmp_path / "card.yaml"
    file.write_text(text.replace("name: rtx-4090", "name: my-card", 1), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("spec", "count"), [("card.yaml", 1), ("4xcard.yaml", 4), ("2 x card.yaml", 2)]
)
def test_so_many_cards_of_a_file(spec: str, count: int, card: Path) -> None:
    cluster = found(spec)
    assert cluster.gpus_per_node == count
    assert cluster.accelerator.label == "my-card"


def test_it_is_planned_as_a_card_by_name_is(card: Path) -> None:
    own, named = found("4xcard.yaml"), found("4xrtx-4090")
    assert own.accelerator.capacity_bytes == named.accelerator.capacity_bytes
    assert own.accelerator.speed is not None
    assert named.accelerator.speed is not None
    rate = named.accelerator.speed.dense_bf16_flops_per_s
    assert own.accelerator.speed.dense_bf16_flops_per_s == rate
    assert own.link_bytes_per_s == named.link_bytes_per_s


def test_a_file_may_have_a_number_in_its_name(card: Path) -> None:
    card.rename("2xcard.yaml")
    assert found("2xcard.yaml").gpus_per_node == 1


def test_a_whole_path(card: Path) -> None:
    os.chdir("/")
    assert found(f"3x{card}").gpus_per_node == 3


def test_a_file_that_is_not_there_or_no_card(card: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"other\.yaml"):
        found("2xother.yaml")
    card.write_text("name: my-card\n", encoding="utf-8")
    with pytest.raises(InvalidFileError, match=r"card\.yaml.*missing"):
        found("card.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nvml_total_mib", "3", "3 MiB are not the memory of a card with 24 GiB on its label"),
        ("torch_visible_mib", "240_000", "240,000 MiB are not the memory of a card with 24 GiB"),
        ("memory_bandwidth_bytes_per_s", "1_000", "1,000 bytes per second is no rate of a GPU"),
        ("dense_bf16_flops_per_s", "165", "165 operations per second is no rate of a GPU"),
        ("compute_capability", '"99.0"', "'99.0' is not one of CUDA"),
        ("compute_capability", '"89"', 'write "8.9" for sm_89'),
    ],
)
def test_what_no_card_has_is_refused(key: str, value: str, message: str, card: Path) -> None:
    """A slip of the unit, mostly."""
    with_value(card, key, value)
    with pytest.raises(InvalidFileError, match=re.escape(message)) as raised:
        found("card.yaml")
    assert f"card.yaml: {key}: " in str(raised.value)


@pytest.mark.parametrize("key", PLAUSIBLE_RATES)
def test_a_rate_that_is_not_stated_is_not_made_up(key: str, card: Path) -> None:
    with_value(card, key, "null")
    cluster = found("card.yaml")
    assert f"The speed of this card is unknown: {key} is not stated." in cluster.notes
    assert rates(cluster) is None


def with_value(card: Path, key: str, value: str) -> None:
    """Set a key of a card's file."""
    text = card.read_text(encoding="utf-8")
    card.write_text(re.sub(rf"(?m)^{key}: .*$", f"{key}: {value}", text), encoding="utf-8")


def test_a_file_of_another_kind_is_told_as_such(card: Path) -> None:
    card.write_text((ROOT / "recipes" / "qlora.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(
        InvalidFileError, match=r"card\.yaml: this file is not a card: it lacks dev"
    ):
        found("card.yaml")
