"""What ``--gpus`` means where it names cards or sizes, and what is known of a card."""

import subprocess
import sys

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError, UnknownNameError, UserError
from planner.base.preset_files import preset_names
from planner.base.units import GIB, MIB
from planner.hardware.cards import (
    context_bytes,
    find_card,
    label_gib,
    load_gpu,
    named_cluster,
    reference_cards,
    resized_card,
    visible_bytes,
)
from planner.hardware.cluster import GpuSpec, pcie_bytes_per_s
from planner.hardware.detect import parse_gpus


class TestNames:
    @pytest.mark.parametrize(
        ("text", "label", "count"),
        [
            ("rtx-4090", "rtx-4090", 1),
            ("RTX-4090", "rtx-4090", 1),
            (" 4090 ", "rtx-4090", 1),
            ("rtx-4090:2", "rtx-4090", 2),
            ("2xrtx-4090", "rtx-4090", 2),
            ("8xh100-sxm-80gb", "h100-sxm-80gb", 8),
            ("8XH100", "h100-sxm-80gb", 8),
            ("h100:8", "h100-sxm-80gb", 8),
            ("24G", "24G", 1),
            ("24g", "24G", 1),
            ("24GB", "24G", 1),
            ("24 GiB", "24G", 1),
            ("2x24G", "24G", 2),
            ("24G:2", "24G", 2),
            ("4096xh100", "h100-sxm-80gb", 4096),
        ],
    )
    def test_understood(self, text: str, label: str, count: int) -> None:
        cluster = parse_gpus(text)
        assert (cluster.device, cluster.accelerator.label, cluster.gpus_per_node) == (
            "cuda",
            label,
            count,
        )
        assert cluster.world_size == count
        assert cluster.accelerator.in_use_bytes == 0
        assert cluster.host_ram_bytes is None

    @pytest.mark.parametrize(
        ("text", "kind", "message"),
        [
            ("", InvalidRequestError, "it names no card"),
            ("2x", InvalidRequestError, "it names no card"),
            (":2", InvalidRequestError, "it names no card"),
            ("0x24G", InvalidRequestError, "'0' is not a number of cards"),
            ("-2x24G", InvalidRequestError, "'-2' is not a number of cards"),
            ("rtx-4090:0", InvalidRequestError, "'0' is not a number of cards"),
            ("rtx-4090:", InvalidRequestError, "'' is not a number of cards"),
            ("rtx-4090:two", InvalidRequestError, "'two' is not a number of cards"),
            ("9" * 5000 + "x24G", InvalidRequestError, "is not a number of cards"),
            ("-1", InvalidRequestError, "'-1' is neither a card nor a size"),
            ("2xrtx-4090:2", InvalidRequestError, "'rtx-4090:2' is neither a card nor a size"),
            ("r" * 300, InvalidRequestError, "is neither a card nor a size"),
            ("24", InvalidRequestError, "did you mean 24G?"),
            ("2x24", InvalidRequestError, "did you mean 24G?"),
            ("0G", InvalidRequestError, "sizes are whole GiB"),
            ("banana", UnknownNameError, "no card is named 'banana'"),
            ("4090x24G", InvalidRequestError, "4090 is a card, not a number of cards: write rtx-"),
            ("4090x4090", InvalidRequestError, "4090 is a card, not a number of cards"),
            ("24G+16G", InvalidRequestError, "sizes are not mixed"),
            ("4090+", InvalidRequestError, "it names no card"),
            ("../models/yi-6b", InvalidRequestError, "is neither a card nor a size"),
            ("a/../a10", UnknownNameError, "no card is named 'a/../a10'"),
            ("2xcpu", InvalidRequestError, "the CPU takes no count"),
        ],
    )
    def test_refused(self, text: str, kind: type[UserError], message: str) -> None:
        with pytest.raises(kind) as caught:
            parse_gpus(text)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", preset_names("gpus"))
    def test_every_card(self, name: str) -> None:
        card = load_gpu(name)
        accelerator = parse_gpus(f"2x{name}").accelerator
        assert accelerator.speed == card
        assert accelerator.device_name == card.device_name
        assert accelerator.supports_bf16 == card.supports_bf16
        assert accelerator.capacity_bytes == visible_bytes(card)
        assert 0 < accelerator.context_bytes < 2 * GIB

    def test_a_card_as_observed(self) -> None:
        accelerator = parse_gpus("rtx-4090").accelerator
        assert accelerator.capacity_bytes == 24_207 * MIB
        assert accelerator.context_bytes == 560 * MIB
        assert accelerator.free_bytes == accelerator.capacity_bytes

    def test_a_card_of_which_less_is_known(self) -> None:
        cluster = parse_gpus("rtx-3070")
        assert cluster.accelerator.capacity_bytes == 8192 * MIB
        assert cluster.notes == (
            "How much of this card the driver keeps is not known: all of it is counted.",
        )

    @pytest.mark.parametrize(
        ("text", "link", "bytes_per_s"),
        [
            ("h100", "none", None),
            ("8xh100", "nvlink", 450_000_000_000),
            ("2xrtx-4090", "pcie", 31_507_692_304),
            ("2xt4", "pcie", 15_753_846_144),
            ("2x24G", "pcie", 31_507_692_304),
            ("2x80G", "pcie", 31_507_692_304),
            ("2x17G", "pcie", None),
        ],
    )
    def test_links(self, text: str, link: str, bytes_per_s: int | None) -> None:
        cluster = parse_gpus(text)
        assert (cluster.link, cluster.link_bytes_per_s) == (link, bytes_per_s)

    def test_mixed_cards_are_planned_as_the_weakest(self) -> None:
        """As on this machine: the least memory, and the rates of the slowest."""
        for text in ("3090+4090", "rtx-3090,rtx-4090", "RTX 4090 + NVIDIA GeForce RTX 3090"):
            cluster = parse_gpus(text)
            weakest = load_gpu("rtx-3090")
            assert (cluster.accelerator.label, cluster.gpus_per_node) == ("rtx-3090", 2)
            assert cluster.accelerator.capacity_bytes == visible_bytes(load_gpu("rtx-4090"))
            assert cluster.accelerator.speed == weakest
            assert (cluster.link, cluster.link_bytes_per_s) == ("pcie", weakest.pcie_bytes_per_s)
            assert cluster.notes == (
                "Mixed cards: all 2 are planned as rtx-3090, which has the least memory, at the "
                "speed of rtx-3090: the ranks wait for the slowest.",
            )

    def test_mixed_cards_that_are_weak_in_different_ways(self) -> None:
        cluster = parse_gpus("2xt4+rtx-3080")
        assert (cluster.accelerator.label, cluster.gpus_per_node) == ("rtx-3080", 3)
        assert cluster.accelerator.speed == load_gpu("rtx-3080")
        assert not cluster.accelerator.supports_bf16, "a T4 has none"

    def test_equal_cards_are_not_mixed(self) -> None:
        assert parse_gpus("4090,RTX 4090") == parse_gpus("2x4090")

    def test_cpu(self) -> None:
        for text in ("cpu", "CPU"):
            cluster = parse_gpus(text)
            assert (cluster.device, cluster.accelerator.label) == ("cpu", "cpu")
            assert cluster.notes == ()


class TestSizes:
    @pytest.mark.parametrize("size", sorted(reference_cards().cards))
    def test_reference_cards(self, size: int) -> None:
        """Each really has that size, runs bf16 and has a known speed."""
        card = load_gpu(reference_cards().cards[size])
        assert card.nominal_gib == size
        assert card.supports_bf16
        assert card.dense_bf16_flops_per_s is not None
        assert card.memory_bandwidth_bytes_per_s is not None

    def test_with_a_reference(self) -> None:
        cluster = parse_gpus("24G")
        accelerator = cluster.accelerator
        assert accelerator.capacity_bytes == accelerator.nominal_gib * GIB == 24 * GIB
        assert accelerator.speed == load_gpu("rtx-3090")
        assert accelerator.context_bytes == 560 * MIB, "an RTX 4090's, the largest of its size"
        assert cluster.notes == ("24G names no card: the speed is taken from rtx-3090.",)

    def test_without_one(self) -> None:
        cluster = parse_gpus("17G")
        assert cluster.accelerator.speed is None
        assert cluster.accelerator.context_bytes == 942 * MIB
        assert cluster.notes == (
            "17G names no card: its speed is unknown, and bf16 is assumed to run on it.",
        )


class TestCards:
    @pytest.mark.parametrize(
        ("device_name", "total_mib", "name"),
        [
            ("NVIDIA GeForce RTX 4090", 24_564, "rtx-4090"),
            ("NVIDIA GeForce RTX 4090", None, "rtx-4090"),
            ("NVIDIA GeForce RTX 4090", 49_140, None),  # rebuilt with twice the memory
            ("NVIDIA GeForce RTX 3060", 8_192, None),  # sold with 8 and with 12 GiB
            ("NVIDIA RTX A6000", 46_068, "rtx-a6000"),  # with ECC on
            ("NVIDIA A10", 23_028, "a10"),
            ("NVIDIA A100", 40_960, None),
            ("nvidia geforce rtx 4090", 24_564, None),
            ("", 24_564, None),
        ],
    )
    def test_find(self, device_name: str, total_mib: int | None, name: str | None) -> None:
        card = find_card(device_name, None if total_mib is None else total_mib * MIB)
        assert (card.name if card is not None else None) == name

    @pytest.mark.parametrize("name", preset_names("gpus"))
    def test_every_card_is_found_as_itself(self, name: str) -> None:
        card = load_gpu(name)
        assert find_card(card.device_name, card.total_mib * MIB) == card

    def test_a_known_name_with_another_size(self) -> None:
        """The processor is the same, the memory is what the machine says."""
        card = resized_card("NVIDIA GeForce RTX 3060", 8_192 * MIB, 240_000_000_000)
        usual = load_gpu("rtx-3060")
        assert card is not None
        assert (card.name, card.nominal_gib, visible_bytes(card)) == ("rtx-3060", 8, 8_192 * MIB)
        assert card.memory_bandwidth_bytes_per_s == 240_000_000_000
        assert card.dense_bf16_flops_per_s == usual.dense_bf16_flops_per_s
        unread = resized_card("NVIDIA GeForce RTX 3060", 8_192 * MIB, None)
        assert unread is not None
        assert unread.memory_bandwidth_bytes_per_s == usual.memory_bandwidth_bytes_per_s
        assert resized_card("NVIDIA Nobody", 8_192 * MIB, None) is None

    @pytest.mark.parametrize(
        ("mib", "gib"), [(24_564, 24), (23_028, 24), (40_448, 40), (9_984, 10), (65_000, 63)]
    )
    def test_label(self, mib: int, gib: int) -> None:
        assert label_gib(mib * MIB) == gib

    def test_context(self) -> None:
        assert context_bytes(load_gpu("l4"), 24) == 390 * MIB
        assert context_bytes(load_gpu("rtx-5080"), 16) == context_bytes(None, 16)

    def test_a_bridge_is_not_assumed(self) -> None:
        soldered = load_gpu("a100-sxm-80gb")
        bridged = structs.replace(soldered, nvlink_needs_bridge=True)
        assert named_cluster(soldered, 2).link == "nvlink"
        assert named_cluster(bridged, 2).link == "pcie"

    @pytest.mark.parametrize(
        ("generation", "lanes", "gb_per_s"), [(1, 16, 4.0), (3, 16, 15.75), (5, 8, 31.51)]
    )
    def test_pcie(self, generation: int, lanes: int, gb_per_s: float) -> None:
        """Wikipedia's table of PCI Express throughput, one direction."""
        rate = pcie_bytes_per_s(generation, lanes)
        assert rate is not None
        assert rate / 1e9 == pytest.approx(gb_per_s, abs=0.01)

    def test_a_generation_to_come(self) -> None:
        assert pcie_bytes_per_s(9, 16) is None

    @pytest.mark.parametrize("text", ["NVLink-C2C 900 GB/s", None])
    def test_no_slot(self, text: str | None) -> None:
        card: GpuSpec = structs.replace(load_gpu("rtx-4090"), pcie=text)
        assert card.pcie_bytes_per_s is None


def test_a_named_card_does_without_pynvml() -> None:
    probe = (
        "import sys, planner.hardware.detect as d; d.parse_gpus('2x24G'); "
        "print('pynvml' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "False"
