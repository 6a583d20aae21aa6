"""What ``--gpus`` means: names and sizes, and machines that pynvml reads from a stand-in.

The stand-in is a compiled libnvidia-ml.so.1 (tests/nvml): pynvml itself runs, in a process of
its own because the loader reads LD_LIBRARY_PATH at the start.
"""

import pickle
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path

import pytest

from planner.cards import (
    context_bytes,
    find_card,
    label_gib,
    named_cluster,
    reference_cards,
    visible_bytes,
)
from planner.detect import cluster_from, parse_gpus, read_host
from planner.errors import InvalidRequestError, UnknownNameError, UserError
from planner.gpu import Cluster, GpuSpec, Holder, pcie_bytes_per_s
from planner.host import PROCESS_BYTES
from planner.machine import DeviceReading, HostReading, MachineReading, enumerable, select
from planner.presets import load_gpu, preset_names
from planner.units import GIB, MIB
from tests.nvml.stand_in import build, environment

PROBE = """
import os, pickle, sys
from planner.detect import detect
pickle.dump(detect(os.environ), sys.stdout.buffer)
"""
CPU_HINT = "so this is a plan for the CPU; for a card, name it: --gpus rtx-4090."


def detected_in(environ: dict[str, str]) -> Cluster:
    """What a fresh process finds; warnings are errors there too."""
    probe = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE], env=environ, capture_output=True, timeout=60
    )
    assert probe.returncode == 0, probe.stderr.decode()
    cluster = pickle.loads(probe.stdout)
    assert isinstance(cluster, Cluster)
    return cluster


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def detected(library: Path, machine: str | Path, **environ: str) -> Cluster:
    return detected_in(environment(library, machine, **environ))


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
            ("0x24G", InvalidRequestError, "'0' is no number of cards"),
            ("-2x24G", InvalidRequestError, "'-2' is no number of cards"),
            ("rtx-4090:0", InvalidRequestError, "'0' is no number of cards"),
            ("rtx-4090:", InvalidRequestError, "'' is no number of cards"),
            ("rtx-4090:two", InvalidRequestError, "'two' is no number of cards"),
            ("9" * 5000 + "x24G", InvalidRequestError, "is no number of cards"),
            ("-1", InvalidRequestError, "'-1' is no card and no size"),
            ("2xrtx-4090:2", InvalidRequestError, "'rtx-4090:2' is no card and no size"),
            ("r" * 300, InvalidRequestError, "is no card and no size"),
            ("24", InvalidRequestError, "did you mean 24G?"),
            ("2x24", InvalidRequestError, "did you mean 24G?"),
            ("0G", InvalidRequestError, "sizes are whole GiB"),
            ("banana", UnknownNameError, "no card is named 'banana'"),
            ("rtx4090", UnknownNameError, "Did you mean 'rtx-4090'?"),
            ("8xh100-sxm-80", UnknownNameError, "Did you mean 'h100-sxm-80gb'?"),
            ("../models/yi-6b", InvalidRequestError, "is no card and no size"),
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
            "How much of this card the driver keeps was not seen: all of it is counted.",
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
        assert find_card(card.device_name, card.nvml_total_mib * MIB) == card

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
        bridged = soldered.model_copy(update={"nvlink_needs_bridge": True})
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
        card: GpuSpec = load_gpu("rtx-4090").model_copy(update={"pcie": text})
        assert card.pcie_bytes_per_s is None


class TestMachines:
    def test_two_rtx_4090(self, library: Path) -> None:
        cluster = detected(library, "two-rtx-4090")
        host = read_host()
        accelerator = cluster.accelerator
        assert (cluster.device, cluster.gpus_per_node, cluster.num_nodes) == ("cuda", 2, 1)
        assert accelerator.label == "rtx-4090"
        assert accelerator.device_name == "NVIDIA GeForce RTX 4090"
        assert accelerator.nominal_gib == 24
        assert accelerator.capacity_bytes == 24_207 * MIB
        assert accelerator.in_use_bytes == 0
        assert accelerator.context_bytes == 560 * MIB
        assert accelerator.power_limit_watts == 450
        assert accelerator.supports_bf16
        assert accelerator.speed == load_gpu("rtx-4090")
        assert cluster.link == "pcie"
        assert cluster.link_bytes_per_s == pcie_bytes_per_s(4, 8), "the narrower slot decides"
        assert (cluster.driver_version, cluster.cuda_version) == ("550.54.15", "12.4")
        assert (cluster.host_ram_bytes, cluster.cores) == (host.total_bytes, host.cores)
        assert cluster.notes == ()

    def test_eight_h100(self, library: Path) -> None:
        cluster = detected(library, "eight-h100")
        assert cluster.gpus_per_node == 8
        assert cluster.accelerator.label == "h100-sxm-80gb"
        assert cluster.accelerator.free_bytes == 80_998 * MIB
        assert (cluster.link, cluster.link_bytes_per_s) == ("nvlink", 450_000_000_000)
        assert cluster.nominal_bytes == 640 * GIB
        assert cluster.notes == ()

    def test_half_used(self, library: Path) -> None:
        """Free memory is what a plan may use, and the report says who holds the rest."""
        cluster = detected(library, "half-used")
        accelerator = cluster.accelerator
        assert cluster.gpus_per_node == 1
        assert cluster.link == "none"
        assert accelerator.capacity_bytes == 24_207 * MIB
        assert accelerator.free_bytes == 11_920 * MIB
        assert set(accelerator.holders) == {
            Holder(pid=4242, used_bytes=11_900 * MIB),
            Holder(pid=1001, used_bytes=388 * MIB),
        }
        assert cluster.notes == (
            "12.00 GiB of GPU 0 is in use by process 4242 (11.62 GiB), process 1001 (0.38 GiB).",
        )

    def test_mixed(self, library: Path) -> None:
        """The fuller card decides on memory, the slower one on speed."""
        cluster = detected(library, "mixed")
        accelerator = cluster.accelerator
        assert cluster.gpus_per_node == 2
        assert accelerator.label == "rtx-4090"
        assert accelerator.free_bytes == 23_184 * MIB
        assert accelerator.context_bytes == 560 * MIB
        assert accelerator.speed == load_gpu("rtx-3090")
        assert cluster.notes == (
            "The GPUs differ (1 x NVIDIA GeForce RTX 3090, 1 x NVIDIA GeForce RTX 4090): each is "
            "planned as GPU 1, which has the least free memory, and 1.04 GiB of the others is "
            "not used.",
            "Every step waits for the slowest GPU: all count as rtx-3090.",
            "1.00 GiB of GPU 1 is in use by process 900 (1.00 GiB).",
            "Power is limited to 300 of 450 W on GPU 1: the speed shown does not count with that.",
        )

    def test_bridged_pairs(self, library: Path) -> None:
        cluster = detected(library, "bridged")
        assert (cluster.link, cluster.link_bytes_per_s) == ("pcie", pcie_bytes_per_s(4, 8))
        assert cluster.notes == (
            "NVLink does not join all the GPUs: the slowest pair decides, and that is on PCIe.",
        )

    def test_one_bridged_pair(self, library: Path) -> None:
        cluster = detected(library, "bridged", CUDA_VISIBLE_DEVICES="0,1")
        assert (cluster.link, cluster.link_bytes_per_s) == ("nvlink", 56_250_000_000)
        assert cluster.notes == (
            "GPU 0 has 3 active NVLinks and GPU 1 has 4: expect slower communication "
            "(see nvidia-smi nvlink --status).",
        )

    def test_mig_slice(self, library: Path) -> None:
        """One slice, its own memory, and no more than one: CUDA shows no second."""
        cluster = detected(library, "mig")
        accelerator = cluster.accelerator
        assert (cluster.gpus_per_node, cluster.link) == (1, "none")
        assert accelerator.label == "h100-80gb-hbm3-mig-3g.40gb"
        assert accelerator.device_name == "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
        assert accelerator.nominal_gib == 40
        assert accelerator.capacity_bytes == 40_448 * MIB
        assert accelerator.free_bytes == 38_400 * MIB
        assert accelerator.context_bytes == 670 * MIB, "that of the whole card"
        assert accelerator.supports_bf16
        assert accelerator.speed is None
        assert cluster.notes == (
            "CUDA shows a process one MIG slice and nothing beside it, so the plan is for the "
            "first one; not used: 1 more MIG slice.",
            "2.00 GiB of the MIG slice is in use by process 77 (1.95 GiB).",
            "No preset is for NVIDIA H100 80GB HBM3 MIG 3g.40gb with 39.50 GiB: "
            "its speed is unknown.",
        )

    def test_named_mig_slice(self, library: Path) -> None:
        cluster = detected(library, "mig", CUDA_VISIBLE_DEVICES="MIG-bbbb")
        assert cluster.accelerator.nominal_gib == 10
        assert cluster.accelerator.in_use_bytes == 14 * MIB
        assert len(cluster.notes) == 1

    def test_unknown_card(self, library: Path) -> None:
        cluster = detected(library, "unknown-card")
        accelerator = cluster.accelerator
        assert accelerator.label == "geforce-rtx-9090-ti"
        assert accelerator.nominal_gib == 48
        assert accelerator.capacity_bytes == accelerator.free_bytes == 48_500 * MIB
        assert accelerator.context_bytes == context_bytes(None, 48)
        assert accelerator.supports_bf16
        assert accelerator.speed is None
        assert cluster.notes == (
            "No preset is for NVIDIA GeForce RTX 9090 Ti with 47.36 GiB: its speed is unknown.",
        )

    def test_refusing_driver(self, library: Path) -> None:
        """Every call that can be done without is refused, and the plan is still for the GPUs."""
        cluster = detected(library, "refusing")
        accelerator = cluster.accelerator
        assert cluster.gpus_per_node == 2
        assert accelerator.label == "a100-sxm-80gb"
        assert accelerator.supports_bf16, "as the preset says"
        assert accelerator.capacity_bytes == 81_152 * MIB
        assert accelerator.free_bytes == 71_000 * MIB
        assert accelerator.holders == ()
        assert (cluster.link, cluster.link_bytes_per_s) == ("pcie", pcie_bytes_per_s(4, 16))
        assert (cluster.driver_version, cluster.cuda_version) == (None, None)
        assert cluster.notes == (
            "The GPUs differ in free memory: each is planned as GPU 0, which has the least free "
            "memory, and 9.77 GiB of the others is not used.",
            "9.91 GiB of GPU 0 is in use; NVML does not tell by whom.",
            "NVML does not tell which GPUs NVLink joins: PCIe is assumed.",
        )

    @pytest.mark.parametrize("call", ["nvmlDeviceGetUUID", "nvmlDeviceGetNvLinkState"])
    def test_one_call_not_supported(self, library: Path, tmp_path: Path, call: str) -> None:
        """Not even a sentence: nothing is lost."""
        machine = edited(library, "two-rtx-4090", f"refuse {call} 3", tmp_path)
        assert detected(library, machine) == detected(library, "two-rtx-4090")

    def test_no_memory_reading(self, library: Path, tmp_path: Path) -> None:
        """The name alone tells the size where only one card has it."""
        refused = "refuse nvmlDeviceGetMemoryInfo 3\nrefuse nvmlDeviceGetMemoryInfo_v2 3"
        cluster = detected(library, edited(library, "half-used", refused, tmp_path))
        assert cluster.accelerator.free_bytes == 24_207 * MIB
        assert cluster.notes == (
            "NVML does not tell how much memory is free: all of it is counted as free.",
        )
        cluster = detected(library, edited(library, "unknown-card", refused, tmp_path))
        assert cluster.device == "cpu"
        assert cluster.notes == (
            f"NVML does not tell the memory of NVIDIA GeForce RTX 9090 Ti, {CPU_HINT}",
        )

    def test_hidden_holders(self, library: Path, tmp_path: Path) -> None:
        """In a container other processes have no size, or are not listed at all."""
        text = machine_text("half-used").replace("4242 11900", "4242 -1")
        (tmp_path / "machine").write_text(text.replace("graphics 1001 388", "graphics 1001 -1"))
        cluster = detected(library, tmp_path / "machine")
        assert cluster.notes == ("12.00 GiB of GPU 0 is in use by process 1001, process 4242.",)
        refused = "refuse nvmlDeviceGetComputeRunningProcesses_v3 3"
        (tmp_path / "machine").write_text(f"{refused}\n{text.replace('graphics', '#')}")
        cluster = detected(library, tmp_path / "machine")
        assert cluster.notes == (
            "12.00 GiB of GPU 0 is in use by processes that cannot be seen from here.",
        )

    def test_lost_gpu(self, library: Path) -> None:
        cluster = detected(library, "lost-gpu")
        assert (cluster.gpus_per_node, cluster.accelerator.label) == (1, "rtx-4090")
        assert cluster.notes == ("GPU 1 does not answer (GPU is lost).",)
        cluster = detected(library, "lost-gpu", CUDA_VISIBLE_DEVICES="1")
        assert cluster.device == "cpu"


class TestNoGpu:
    @pytest.mark.parametrize(
        ("machine", "reason"),
        [
            ("no-gpu", "No NVIDIA GPU was found"),
            (
                "driver-mismatch",
                "The NVIDIA driver's library and kernel module are of different versions (after "
                "an update, restart the machine)",
            ),
            ("driver-not-loaded", "The NVIDIA driver is installed but not loaded"),
            ("mig-without-slices", "MIG mode is on and no slice has been made"),
        ],
    )
    def test_machine(self, library: Path, machine: str, reason: str) -> None:
        self.check(detected(library, machine), reason)

    def test_unexpected_error(self, library: Path, tmp_path: Path) -> None:
        (tmp_path / "machine").write_text("init_error 54")
        reason = "The NVIDIA driver does not answer (an error that pynvml has no text for)"
        self.check(detected(library, tmp_path / "machine"), reason)

    def test_every_gpu_lost(self, library: Path, tmp_path: Path) -> None:
        (tmp_path / "machine").write_text("gpu\n  handle_error 15")
        self.check(detected(library, tmp_path / "machine"), "GPU 0 does not answer (GPU is lost)")

    def test_hidden(self, library: Path) -> None:
        cluster = detected(library, "two-rtx-4090", CUDA_VISIBLE_DEVICES="-1")
        self.check(cluster, "CUDA_VISIBLE_DEVICES=-1 leaves no GPU of this machine")

    @pytest.mark.skipif(
        find_library("nvidia-ml") is not None, reason="this machine has an NVIDIA driver"
    )
    def test_no_library(self, tmp_path: Path) -> None:
        """No driver at all: nothing is loaded in the place of libnvidia-ml.so.1."""
        cluster = detected_in(environment(tmp_path / "libnvidia-ml.so.1", "no-gpu"))
        self.check(cluster, "There is no NVIDIA driver (libnvidia-ml.so.1) here")

    def test_broken_library(self, tmp_path: Path) -> None:
        (tmp_path / "libnvidia-ml.so.1").touch()
        cluster = detected_in(environment(tmp_path / "libnvidia-ml.so.1", "no-gpu"))
        self.check(cluster, "There is no NVIDIA driver (libnvidia-ml.so.1) here")

    def check(self, cluster: Cluster, reason: str) -> None:
        host = read_host()
        accelerator = cluster.accelerator
        assert (cluster.device, cluster.world_size, accelerator.label) == ("cpu", 1, "cpu")
        assert cluster.notes == (f"{reason}, {CPU_HINT}",)
        assert accelerator.capacity_bytes == cluster.host_ram_bytes == host.total_bytes
        assert 0 <= accelerator.in_use_bytes <= accelerator.capacity_bytes
        assert accelerator.context_bytes == PROCESS_BYTES


def machine_text(name: str) -> str:
    return (Path(__file__).parents[1] / "nvml" / "machines" / f"{name}.txt").read_text()


def edited(library: Path, name: str, lines: str, directory: Path) -> Path:
    """A machine of the tests with more lines before its own."""
    path = directory / f"{name}-edited"
    path.write_text(f"{lines}\n{machine_text(name)}")
    return path


HOST = HostReading(cpu_name="A CPU", cores=4, total_bytes=64 * GIB, available_bytes=60 * GIB)


def gpu(index: int, name: str = "NVIDIA GeForce RTX 4090") -> DeviceReading:
    return DeviceReading(
        index=index,
        uuid=f"GPU-{index}{index}",
        name=name,
        card_name=name,
        total_bytes=24_564 * MIB,
        free_bytes=24_207 * MIB,
    )


def mig_slice(index: int, number: int) -> DeviceReading:
    return replace(gpu(index), uuid=f"MIG-{index}{number}", is_slice=True)


class TestVisibleDevices:
    """Which devices CUDA_VISIBLE_DEVICES leaves, and in what order."""

    GPUS = tuple(gpu(index) for index in range(3))
    CUT = replace(gpu(3), mig_enabled=True, slices=(mig_slice(3, 0), mig_slice(3, 1)))

    @pytest.mark.parametrize(
        ("text", "indices"),
        [
            (None, [0, 1, 2]),
            ("0,1,2", [0, 1, 2]),
            ("2,0", [2, 0]),
            (" 1 , 0 ", [1, 0]),
            ("+1", [1]),
            ("1gpu,2", [1, 2]),
            ("0,9,1", [0]),
            ("0,-1,1", [0]),
            ("0,,1", [0]),
            ("0,0", []),
            ("", []),
            (" ", []),
            ("-1", []),
            ("none", []),
            ("9" * 30, []),
            ("GPU-11", [1]),
            ("GPU-2,GPU-0", [2, 0]),
            ("GPU-", []),
            ("GPU-1,1,GPU-2", [1]),
            ("GPU-11,GPU-1", []),
            ("gpu-11", []),
            ("1,GPU-22", [1]),
            ("MIG-30", []),
        ],
    )
    def test_select(self, text: str | None, indices: list[int]) -> None:
        environ = {} if text is None else {"CUDA_VISIBLE_DEVICES": text}
        assert [each.index for each in select(self.GPUS, environ)] == indices

    @pytest.mark.parametrize(
        ("text", "uuids"),
        [
            (None, ["MIG-30"]),
            ("0,1", ["GPU-00", "GPU-11"]),
            ("0,3", ["MIG-30"]),
            ("3", ["MIG-30"]),
            ("GPU-33", ["MIG-30"]),
            ("MIG-31", ["MIG-31"]),
            ("MIG-31,MIG-30", ["MIG-31"]),
            ("MIG-3", []),
            ("MIG-31,MIG-31", []),
        ],
    )
    def test_mig(self, text: str | None, uuids: list[str]) -> None:
        environ = {} if text is None else {"CUDA_VISIBLE_DEVICES": text}
        shown = enumerable(select([*self.GPUS, self.CUT], environ))
        assert [each.uuid for each in shown] == uuids

    def test_whole_gpus_beside_a_slice(self) -> None:
        cluster = cluster_from(MachineReading(devices=(*self.GPUS, self.CUT)), HOST, {})
        assert cluster.gpus_per_node == 1
        assert "not used: 1 more MIG slice and 3 whole GPUs." in cluster.notes[0]

    @pytest.mark.parametrize(
        ("environ", "notes"),
        [
            ({}, 0),
            ({"CUDA_VISIBLE_DEVICES": "1"}, 1),
            ({"CUDA_VISIBLE_DEVICES": "GPU-11"}, 0),
            ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 0),
            ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, 1),
        ],
    )
    def test_order(self, environ: dict[str, str], notes: int) -> None:
        """NVML numbers by bus and CUDA by speed: it matters for indices of cards that differ."""
        other = replace(gpu(1, "NVIDIA GeForce RTX 3090"), total_bytes=24_576 * MIB)
        different = cluster_from(MachineReading(devices=(gpu(0), other)), HOST, environ)
        assert sum("CUDA_DEVICE_ORDER" in note for note in different.notes) == notes
        equal = cluster_from(MachineReading(devices=self.GPUS), HOST, environ)
        assert equal.notes == ()


class TestWeakest:
    def test_a_device_without_memory_is_left_out(self) -> None:
        blind = replace(gpu(1, "NVIDIA Nobody"), total_bytes=None, free_bytes=None)
        cluster = cluster_from(MachineReading(devices=(gpu(0), blind)), HOST, {})
        assert cluster.gpus_per_node == 1
        assert cluster.notes == ("GPU 1 is left out: NVML does not tell its memory.",)

    def test_the_smallest_label_counts(self) -> None:
        """A large card that is nearly full decides on memory, and does not raise the tier."""
        full = replace(
            gpu(0, "NVIDIA H100 80GB HBM3"), total_bytes=81_559 * MIB, free_bytes=8 * GIB
        )
        cluster = cluster_from(MachineReading(devices=(full, gpu(1))), HOST, {})
        assert cluster.accelerator.free_bytes == 8 * GIB
        assert cluster.accelerator.capacity_bytes == 80_998 * MIB
        assert cluster.accelerator.nominal_gib == 24
        assert cluster.accelerator.speed == load_gpu("rtx-4090")

    def test_unknown_speed_and_capability(self) -> None:
        machine = MachineReading(devices=(gpu(0), gpu(1, "NVIDIA Nobody")))
        accelerator = cluster_from(machine, HOST, {}).accelerator
        assert accelerator.speed is None
        assert not accelerator.supports_bf16

    def test_free_memory_is_never_more_than_capacity(self) -> None:
        roomy = replace(gpu(0), free_bytes=24_564 * MIB)
        accelerator = cluster_from(MachineReading(devices=(roomy,)), HOST, {}).accelerator
        assert accelerator.in_use_bytes == 0

    def test_what_this_driver_leaves(self) -> None:
        """Less than was seen on such a card elsewhere: with ECC on, or a greedier driver."""
        greedy = replace(gpu(0), reserved_bytes=2 * GIB, free_bytes=22 * GIB)
        accelerator = cluster_from(MachineReading(devices=(greedy,)), HOST, {}).accelerator
        assert accelerator.capacity_bytes == 24_564 * MIB - 2 * GIB


class TestHost:
    """Trees of ``/proc`` and ``/sys`` as the kernel writes them."""

    MEMINFO = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n"

    def tree(self, root: Path, cgroup: str, files: dict[str, str]) -> HostReading:
        files = {
            "proc/meminfo": self.MEMINFO,
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: A CPU @ 3 GHz\n",
            "proc/self/cgroup": cgroup,
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        }
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_host(root)

    def test_no_control_group(self, tmp_path: Path) -> None:
        host = self.tree(tmp_path, "", {})
        assert host.cpu_name == "A CPU @ 3 GHz"
        assert (host.total_bytes, host.available_bytes) == (16 * GIB, 8 * GIB)
        assert host.cores >= 1

    def test_second_version(self, tmp_path: Path) -> None:
        """A limit of a group above counts; a page cache that can be dropped is free."""
        host = self.tree(
            tmp_path,
            "0::/job/step\n",
            {
                "job/memory.max": f"{4 * GIB}\n",
                "job/memory.current": f"{3 * GIB}\n",
                "job/memory.stat": f"anon 5\ninactive_file {1 * GIB}\nactive_file 7\n",
                "job/step/memory.max": "max\n",
                "job/step/memory.current": f"{3 * GIB}\n",
                "job/step/memory.stat": "inactive_file 0\n",
            },
        )
        assert (host.total_bytes, host.available_bytes) == (4 * GIB, 2 * GIB)

    def test_first_version(self, tmp_path: Path) -> None:
        """In a container the path is the host's, and its files are those of the root."""
        host = self.tree(
            tmp_path,
            "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/\n0::/\n",
            {
                "memory/memory.limit_in_bytes": f"{2 * GIB}\n",
                "memory/memory.usage_in_bytes": f"{1 * GIB}\n",
                "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}\n",
            },
        )
        assert (host.total_bytes, host.available_bytes) == (2 * GIB, 3 * GIB // 2)

    def test_no_limit(self, tmp_path: Path) -> None:
        """The first version writes a huge number for none."""
        host = self.tree(
            tmp_path,
            "4:memory:/\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": f"{1 * GIB}\n",
                "memory/memory.stat": "total_inactive_file 0\n",
            },
        )
        assert (host.total_bytes, host.available_bytes) == (16 * GIB, 8 * GIB)

    def test_over_the_limit(self, tmp_path: Path) -> None:
        host = self.tree(
            tmp_path,
            "0::/\n",
            {"memory.max": "1000", "memory.current": "2000", "memory.stat": ""},
        )
        assert (host.total_bytes, host.available_bytes) == (1000, 0)

    def test_this_machine(self) -> None:
        host = read_host()
        assert 0 < host.available_bytes <= host.total_bytes
        assert host.cpu_name


def test_a_named_card_does_without_pynvml() -> None:
    probe = "import sys, planner.detect as d; d.parse_gpus('2x24G'); print('pynvml' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "False"
