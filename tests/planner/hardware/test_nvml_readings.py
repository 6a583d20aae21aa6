"""What is read of a machine beside memory, through pynvml and the stand-in for NVML."""

from pathlib import Path

import pytest

from planner.base.units import MIB
from planner.hardware.cluster import pcie_bytes_per_s
from planner.hardware.linux_host import read_host
from planner.hardware.machine_readings import PairReading, PcieReading
from tests.nvml.stand_in import Child, machine_text


class TestReadings:
    """What is read beside memory, on machines of their own."""

    def test_links_through_a_switch(self, nvml: Child) -> None:
        cluster = nvml.detect("eight-h100")
        assert cluster.machine is not None
        pairs = cluster.machine.nvml.pairs
        assert len(pairs) == 28
        assert set(pairs) == {
            PairReading(one=one, other=other, nvlinks=18, through_switch=True, p2p=True)
            for one in range(8)
            for other in range(one + 1, 8)
        }
        devices = cluster.machine.nvml.devices
        assert [device.numa_node for device in devices] == [0] * 4 + [1] * 4
        assert devices[0].nvlink_bytes_per_s == 26_562_000_000
        assert devices[0].memory_bandwidth_bytes_per_s == pytest.approx(3_350e9, rel=0.002)
        assert devices[0].ecc_enabled

    def test_a_broken_link_slows_all(self, nvml: Child) -> None:
        cluster = nvml.detect("missing-links")
        assert (cluster.link, cluster.link_bytes_per_s) == ("nvlink", 450_000_000_000 * 17 // 18)

    def test_two_of_six_links(self, nvml: Child) -> None:
        cluster = nvml.detect("v100")
        assert (cluster.link, cluster.link_bytes_per_s) == ("nvlink", 50_000_000_000)
        assert not cluster.accelerator.supports_bf16

    def test_direct_links_end_where_they_say(self, nvml: Child) -> None:
        cluster = nvml.detect("bridged")
        assert cluster.machine is not None
        links = {(pair.one, pair.other): pair.nvlinks for pair in cluster.machine.nvml.pairs}
        assert links == {(0, 1): 3, (0, 2): 0, (0, 3): 0, (1, 2): 0, (1, 3): 0, (2, 3): 4}

    def test_ends_that_are_hidden(self, nvml: Child, tmp_path: Path) -> None:
        """As in a virtual machine: the P2P status says whether NVLink joins the two."""
        text = machine_text("v100").replace("nvlink 0 1", "nvlink all")
        (tmp_path / "machine").write_text("refuse nvmlDeviceGetNvLinkRemotePciInfo_v2 3\n" + text)
        cluster = nvml.detect(tmp_path / "machine")
        assert (cluster.link, cluster.link_bytes_per_s) == ("nvlink", 50_000_000_000)

    def test_a_slot(self, nvml: Child) -> None:
        cluster = nvml.detect("degraded-slot")
        assert cluster.machine is not None
        slot = PcieReading(
            generation=3, card_generation=4, generation_now=1, lanes=4, card_lanes=16
        )
        assert cluster.machine.nvml.devices[1].pcie == slot
        assert cluster.link_bytes_per_s == pcie_bytes_per_s(3, 4)

    def test_condition(self, nvml: Child) -> None:
        cluster = nvml.detect("throttled")
        assert cluster.machine is not None
        (device,) = cluster.machine.nvml.devices
        assert (device.power_limit_watts, device.default_power_limit_watts) == (250, 400)
        assert device.throttling == ("power cap", "heat (driver)", "heat (hardware)")
        assert device.uncorrected_errors == 3

    def test_programs_without_paths_and_arguments(self, nvml: Child) -> None:
        holders = nvml.detect("busy").accelerator.holders
        assert {holder.name for holder in holders} == {"python3"}

    def test_memory_of_the_host(self, nvml: Child) -> None:
        accelerator = nvml.detect("unified").accelerator
        assert accelerator.label == "gb10"
        assert accelerator.capacity_bytes == min(124_549 * MIB, read_host().total_bytes)
        assert accelerator.free_bytes < accelerator.capacity_bytes

    def test_a_rebuilt_card(self, nvml: Child) -> None:
        accelerator = nvml.detect("rebuilt-card").accelerator
        assert accelerator.label == "geforce-rtx-4090"
        assert (accelerator.nominal_gib, accelerator.capacity_bytes) == (48, 48_784 * MIB)
        assert accelerator.speed is not None
        assert accelerator.speed.dense_bf16_flops_per_s == 165_200_000_000_000

    @pytest.mark.parametrize("after", range(0, 90, 3))
    def test_broken_off_anywhere(self, nvml: Child, tmp_path: Path, after: int) -> None:
        """Whatever was told until then is used; at the least the reason is."""
        text = machine_text("degraded-slot")
        (tmp_path / "machine").write_text(f"break_after {after} 999\n{text}")
        cluster = nvml.detect(tmp_path / "machine")
        assert cluster.machine is not None
        if cluster.device == "cpu":
            assert "so this is a plan for the CPU" in cluster.notes[0]
        elif cluster.machine.nvml.failed:
            assert any(note.startswith("NVML failed at") for note in cluster.notes)
        elif cluster.machine.nvml.lost:
            assert cluster.gpus_per_node == 1

    def test_a_card_lost_while_it_is_read(self, nvml: Child) -> None:
        cluster = nvml.detect("lost-while-reading")
        assert cluster.gpus_per_node == 1
        assert cluster.notes == ("GPU 1 does not answer (GPU is lost).",)


class TestTorch:
    @pytest.mark.parametrize(
        ("machine", "torch", "note"),
        [
            ("old-driver", "2.11.0+cu126", "CUDA 12 needs 525 or newer."),
            ("two-rtx-4090", "2.13.0+cu130", "CUDA 13 needs 580 or newer."),
            ("v100", "2.13.0+cu130", "no code for compute capability 7.0: CUDA 13.0 starts at 7.5"),
            ("unified", "2.11.0+cu126", "it needs a torch built with CUDA 12.8 or newer."),
            ("t4", "2.13.0+cpu", "is built without CUDA: a launch would not see the GPUs."),
            ("unified", "2.13.0+cu130", None),
            ("two-rtx-4090", "2.11.0+cu126", None),
        ],
    )
    def test_driver_and_card(self, nvml: Child, machine: str, torch: str, note: str | None) -> None:
        notes = [each for each in nvml.detect(machine, torch=torch).notes if "torch" in each]
        assert len(notes) == (note is not None)
        assert note is None or note in notes[0]
