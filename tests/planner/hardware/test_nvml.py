"""Machines that pynvml reads from a stand-in (tests/nvml), as clusters.

The stand-in is a compiled libnvidia-ml.so.1: pynvml itself runs, in a process of its own because
the loader reads LD_LIBRARY_PATH at the start.
"""

import pickle
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest
from msgspec import structs

from planner.base.units import GIB, MIB
from planner.hardware.cards import context_bytes, load_gpu
from planner.hardware.cluster import PROCESS_BYTES, Cluster, pcie_bytes_per_s
from planner.hardware.linux_host import read_host
from planner.hardware.machine_readings import Holder
from tests.nvml.stand_in import Child, edited, environment, machine_text

PROBE = """
import os, pickle, sys
from planner.hardware.detect import detect
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


class TestMachines:
    def test_two_rtx_4090(self, nvml: Child) -> None:
        cluster = nvml.detect("two-rtx-4090")
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
        assert cluster.notes == (
            "The slot of GPU 1 is slow: PCIe 4.0 x8 of 4.0 x16, 15.8 of 31.5 GB/s.",
        )

    def test_eight_h100(self, nvml: Child) -> None:
        cluster = nvml.detect("eight-h100")
        assert cluster.gpus_per_node == 8
        assert cluster.accelerator.label == "h100-sxm-80gb"
        assert cluster.accelerator.free_bytes == 80_998 * MIB
        assert (cluster.link, cluster.link_bytes_per_s) == ("nvlink", 450_000_000_000)
        assert cluster.nominal_bytes == 640 * GIB
        assert cluster.notes == ()

    def test_half_used(self, nvml: Child) -> None:
        """Free memory is what a plan may use, and the report says who holds the rest."""
        cluster = nvml.detect("half-used")
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

    def test_mixed(self, nvml: Child) -> None:
        """The fuller card decides on memory, the slower one on speed."""
        cluster = nvml.detect("mixed")
        accelerator = cluster.accelerator
        assert cluster.gpus_per_node == 2
        assert accelerator.label == "rtx-4090"
        assert accelerator.free_bytes == 23_184 * MIB
        assert accelerator.context_bytes == 560 * MIB
        assert accelerator.speed == load_gpu("rtx-3090")
        assert cluster.notes == (
            "The GPUs differ: all are planned as the weakest. GPU 1 has the least free memory and "
            "rtx-3090 is the slowest; 1.04 GiB and 94 TFLOPS of the others stay idle.",
            "GPU 1 alone counts as 22.64 GiB at 165 TFLOPS, all as 45.28 GiB at 142 TFLOPS. To "
            "use it alone, for plan and launch: CUDA_DEVICE_ORDER=PCI_BUS_ID "
            "CUDA_VISIBLE_DEVICES=1 plan ...",
            "1.00 GiB of GPU 1 is in use by process 900 (1.00 GiB).",
            "Power is limited to 300 of 450 W on GPU 1: the speed shown does not account for that.",
        )

    def test_bridged_pairs(self, nvml: Child) -> None:
        cluster = nvml.detect("bridged")
        assert (cluster.link, cluster.link_bytes_per_s) == ("pcie", pcie_bytes_per_s(4, 8))
        assert cluster.notes == (
            "The slot of GPUs 0, 1, 2, 3 is slow: PCIe 4.0 x8 of 4.0 x16, 15.8 of 31.5 GB/s.",
            "NVLink does not join all the GPUs: the slowest pair decides, and that is on PCIe.",
        )

    def test_one_bridged_pair(self, nvml: Child) -> None:
        cluster = nvml.detect("bridged", CUDA_VISIBLE_DEVICES="0,1")
        assert (cluster.link, cluster.link_bytes_per_s) == ("nvlink", 3 * 56_250_000_000 // 4)
        assert cluster.notes == (
            "The slot of GPUs 0, 1 is slow: PCIe 4.0 x8 of 4.0 x16, 15.8 of 31.5 GB/s.",
            "GPU 0 has 3 active NVLinks and GPU 1 has 4: the smaller number decides "
            "(see nvidia-smi nvlink --status).",
        )

    def test_mig_slice(self, nvml: Child) -> None:
        """One slice, its own memory, and no more than one: CUDA shows no second."""
        cluster = nvml.detect("mig")
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
            "CUDA shows a process one MIG slice and no other device, so the plan is for the "
            "first one; not used: 1 more MIG slice.",
            "2.00 GiB of the MIG slice is in use by process 77 (1.95 GiB).",
            "No preset describes NVIDIA H100 80GB HBM3 MIG 3g.40gb with 39.50 GiB: "
            "its speed is unknown.",
        )

    def test_named_mig_slice(self, nvml: Child) -> None:
        cluster = nvml.detect("mig", CUDA_VISIBLE_DEVICES="MIG-bbbb")
        assert cluster.accelerator.nominal_gib == 10
        assert cluster.accelerator.in_use_bytes == 14 * MIB
        assert len(cluster.notes) == 1

    def test_unknown_card(self, nvml: Child) -> None:
        cluster = nvml.detect("unknown-card")
        accelerator = cluster.accelerator
        assert accelerator.label == "geforce-rtx-9090-ti"
        assert accelerator.nominal_gib == 48
        assert accelerator.capacity_bytes == accelerator.free_bytes == 48_500 * MIB
        assert accelerator.context_bytes == context_bytes(None, 48)
        assert accelerator.supports_bf16
        assert accelerator.speed is None
        assert cluster.notes == (
            "No preset describes NVIDIA GeForce RTX 9090 Ti with 47.36 GiB: its speed is unknown.",
        )

    def test_refusing_driver(self, nvml: Child) -> None:
        """Every call that can be done without is refused, and the plan is still for the GPUs."""
        cluster = nvml.detect("refusing")
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
            "The GPUs differ in free memory: all are planned as GPU 0, which has the least; "
            "9.77 GiB of the others stay idle.",
            "9.91 GiB of GPU 0 is in use; NVML does not report by whom.",
            "NVML does not report which GPUs NVLink joins: PCIe is assumed.",
        )

    @pytest.mark.parametrize("call", ["nvmlDeviceGetUUID", "nvmlDeviceGetNvLinkState"])
    def test_one_call_not_supported(self, nvml: Child, tmp_path: Path, call: str) -> None:
        """Not even a sentence: nothing is lost."""
        machine = edited("two-rtx-4090", f"refuse {call} 3", tmp_path)
        one, other = nvml.detect(machine), nvml.detect("two-rtx-4090")
        assert structs.replace(one, machine=None) == structs.replace(other, machine=None)
        assert one.machine is not None
        assert call in one.machine.nvml.unsupported

    def test_no_memory_reading(self, nvml: Child, tmp_path: Path) -> None:
        """The name alone tells the size where only one card has it."""
        refused = "refuse nvmlDeviceGetMemoryInfo 3\nrefuse nvmlDeviceGetMemoryInfo_v2 3"
        cluster = nvml.detect(edited("half-used", refused, tmp_path))
        assert cluster.accelerator.free_bytes == 24_207 * MIB
        assert cluster.notes == (
            "NVML does not report how much memory is free: all of it counts as free.",
        )
        cluster = nvml.detect(edited("unknown-card", refused, tmp_path))
        assert cluster.device == "cpu"
        assert cluster.notes == (
            f"NVML does not report the memory of NVIDIA GeForce RTX 9090 Ti, {CPU_HINT}",
        )

    def test_hidden_holders(self, nvml: Child, tmp_path: Path) -> None:
        """In a container other processes have no size, or are not listed at all."""
        text = machine_text("half-used").replace("4242 11900", "4242 -1")
        (tmp_path / "machine").write_text(text.replace("graphics 1001 388", "graphics 1001 -1"))
        cluster = nvml.detect(tmp_path / "machine")
        assert cluster.notes == ("12.00 GiB of GPU 0 is in use by process 1001, process 4242.",)
        refused = "refuse nvmlDeviceGetComputeRunningProcesses_v3 3"
        (tmp_path / "machine").write_text(f"{refused}\n{text.replace('graphics', '#')}")
        cluster = nvml.detect(tmp_path / "machine")
        assert cluster.notes == (
            "12.00 GiB of GPU 0 is in use by processes that cannot be seen from here.",
        )

    def test_lost_gpu(self, nvml: Child) -> None:
        cluster = nvml.detect("lost-gpu")
        assert (cluster.gpus_per_node, cluster.accelerator.label) == (1, "rtx-4090")
        assert cluster.notes == ("GPU 1 does not answer (GPU is lost).",)
        cluster = nvml.detect("lost-gpu", CUDA_VISIBLE_DEVICES="1")
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
    def test_machine(self, nvml: Child, machine: str, reason: str) -> None:
        self.check(nvml.detect(machine), reason)

    def test_unexpected_error(self, nvml: Child, tmp_path: Path) -> None:
        (tmp_path / "machine").write_text("init_error 54")
        reason = "The NVIDIA driver does not answer (an error that pynvml has no text for)"
        self.check(nvml.detect(tmp_path / "machine"), reason)

    def test_every_gpu_lost(self, nvml: Child, tmp_path: Path) -> None:
        (tmp_path / "machine").write_text("gpu\n  handle_error 15")
        self.check(nvml.detect(tmp_path / "machine"), "GPU 0 does not answer (GPU is lost)")

    def test_hidden(self, nvml: Child) -> None:
        cluster = nvml.detect("two-rtx-4090", CUDA_VISIBLE_DEVICES="-1")
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
