"""Machines made of the presets' cards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.simulated_gpu.machine_file import machine_text, parse_cards, processors
from planner.base.errors import UserError
from planner.base.preset_files import preset_names
from tests.nvml.stand_in import Child, build


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A process that sees the machine of the file it is given."""
    child = Child(build(tmp_path_factory.mktemp("nvml")), tmp_path_factory.mktemp("machines"))
    yield child
    child.close()


def test_every_card_can_be_simulated() -> None:
    assert set(processors().cards) == set(preset_names("gpus"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not a simulated card: write CARD[/SLICE][:N]"),
        ("h100:", "'h100:' is not a simulated card"),
        ("h100:two", "'h100:two' is not a simulated card"),
        ("h100:0", "0 simulated cards: 1 to 16 can be simulated"),
        ("h100:17", "17 simulated cards: 1 to 16 can be simulated"),
        ("h1000", "no card is named 'h1000'. Did you mean 'h100'?"),
        ("h100/1g.11gb", "no MIG slice is named '1g.11gb'. Did you mean '1g.10gb'?"),
    ],
)
def test_what_names_no_cards_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        parse_cards(text)
    assert str(error.value).startswith(reason)
    assert "\n" not in str(error.value)


def test_a_small_card_is_the_preset_with_less_memory() -> None:
    cards = parse_cards("h100:2")
    assert (cards.card.name, cards.count, cards.visible_mib) == ("h100-sxm-80gb", 2, 80_998)
    assert parse_cards("h100/3g.40gb").visible_mib == 40_448


@pytest.mark.parametrize("text", ["h100:2", "rtx-4090", "a100-sxm-40gb/2g.10gb"])
def test_the_planner_finds_the_cards(nvml: Child, text: str, tmp_path: Path) -> None:
    cards = parse_cards(text)
    machine = tmp_path / "machine.txt"
    machine.write_text(machine_text(cards))
    found = nvml.detect(machine)
    assert found.gpus_per_node == cards.count
    assert found.accelerator.device_name.startswith(cards.card.device_name)
