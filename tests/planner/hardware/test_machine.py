"""Which GPUs count, and what a machine of unequal ones counts as: functions of readings."""

import pytest
from msgspec import structs

from planner.base.units import GIB, MIB
from planner.hardware.cards import load_gpu
from planner.hardware.cluster import Cluster
from planner.hardware.detect import cluster_from
from planner.hardware.gpu_subsets import Subset, better_subset, subsets
from planner.hardware.machine import selection
from planner.hardware.machine_readings import (
    CudaEnvironment,
    DeviceReading,
    HostReading,
    Machine,
    NvmlReading,
)
from planner.hardware.visible_devices import enumerable, select

HOST = HostReading(cpu_name="A CPU", cores=4, total_bytes=64 * GIB, available_bytes=60 * GIB)


def gpu(
    index: int, name: str = "NVIDIA GeForce RTX 4090", mib: int = 24_564, **more: object
) -> DeviceReading:
    reading = DeviceReading(
        index=index,
        uuid=f"GPU-{index}{index}",
        name=name,
        card_name=name,
        total_bytes=mib * MIB,
        free_bytes=mib * MIB,
        compute_capability="8.9",
    )
    return structs.replace(reading, **more)


def mig_slice(index: int, number: int) -> DeviceReading:
    return gpu(index, uuid=f"MIG-{index}{number}", is_slice=True)


def machine(*devices: DeviceReading, environment: CudaEnvironment | None = None) -> Machine:
    return Machine(
        nvml=NvmlReading(devices=devices), host=HOST, environment=dict(environment or {})
    )


def cluster(*devices: DeviceReading) -> Cluster:
    return cluster_from(machine(*devices))


class TestVisibleDevices:
    """Which devices CUDA_VISIBLE_DEVICES leaves, and in what order."""

    GPUS = tuple(gpu(index) for index in range(3))
    CUT = gpu(3, mig_enabled=True, slices=(mig_slice(3, 0), mig_slice(3, 1)))

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
        found = cluster(*self.GPUS, self.CUT)
        assert found.gpus_per_node == 1
        assert "not used: 1 more MIG slice and 3 whole GPUs." in found.notes[0]

    @pytest.mark.parametrize(
        ("environ", "indices", "notes"),
        [
            ({}, [1, 0, 2], 0),
            ({"CUDA_VISIBLE_DEVICES": "0"}, [1], 1),
            ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 1], 1),
            ({"CUDA_VISIBLE_DEVICES": "3,0"}, [], 0),
            ({"CUDA_VISIBLE_DEVICES": "GPU-11"}, [1], 0),
            ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [0, 1, 2], 0),
            ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [1], 0),
            ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, [0], 1),
        ],
    )
    def test_fastest_first(self, environ: CudaEnvironment, indices: list[int], notes: int) -> None:
        """NVML numbers by bus and CUDA by speed: it matters for indices of cards that differ."""
        slow = [gpu(n, "NVIDIA GeForce RTX 3060", fp32_flops_per_s=15) for n in (0, 2)]
        those = machine(slow[0], gpu(1, fp32_flops_per_s=102), slow[1], environment=environ)
        assert [each.index for each in selection(those).shown] == indices
        found = cluster_from(those)
        assert sum("CUDA_DEVICE_ORDER=PCI_BUS_ID." in note for note in found.notes) == notes

    def test_unknown_rates_leave_the_order_of_the_bus(self) -> None:
        those = machine(gpu(0, fp32_flops_per_s=1), gpu(1), gpu(2, fp32_flops_per_s=2))
        assert [each.index for each in selection(those).shown] == [0, 1, 2]


class TestWeakest:
    def test_a_device_without_memory_is_left_out(self) -> None:
        blind = gpu(1, "NVIDIA Nobody", total_bytes=None, free_bytes=None)
        found = cluster(gpu(0), blind)
        assert found.gpus_per_node == 1
        assert found.notes == ("GPU 1 is left out: NVML does not report its memory.",)

    def test_the_smallest_label_counts(self) -> None:
        """A large card that is nearly full decides on memory, and does not raise the tier."""
        full = gpu(0, "NVIDIA H100 80GB HBM3", 81_559, free_bytes=8 * GIB)
        found = cluster(full, gpu(1)).accelerator
        assert found.free_bytes == 8 * GIB
        assert found.capacity_bytes == 80_998 * MIB
        assert found.nominal_gib == 24
        assert found.speed == load_gpu("rtx-4090")

    def test_unknown_speed_and_capability(self) -> None:
        found = cluster(gpu(0), gpu(1, "NVIDIA Nobody", compute_capability=None))
        assert found.accelerator.speed is None
        assert not found.accelerator.supports_bf16
        assert found.notes[-1].startswith("NVML does not report the compute capability")

    def test_free_memory_is_never_more_than_capacity(self) -> None:
        assert cluster(gpu(0, free_bytes=24_564 * MIB)).accelerator.in_use_bytes == 0

    def test_what_this_driver_leaves(self) -> None:
        """Less than was seen on such a card elsewhere: with ECC on, or a greedier driver."""
        greedy = gpu(0, reserved_bytes=2 * GIB, free_bytes=22 * GIB)
        assert cluster(greedy).accelerator.capacity_bytes == 24_564 * MIB - 2 * GIB


class TestSubsets:
    """A 4090 has 165.2 TFLOPS, a 3060 25.6, a 3090 71.2."""

    SMALL = "NVIDIA GeForce RTX 3060"

    def better(self, *devices: DeviceReading) -> tuple[int, ...] | None:
        subset = better_subset(selection(machine(*devices)).gpus)
        return None if subset is None else subset.indices

    def test_more_of_both(self) -> None:
        assert self.better(gpu(0), gpu(1), gpu(2, self.SMALL, 12_288)) == (0, 1)

    def test_as_it_was_before(self) -> None:
        assert self.better(gpu(0), gpu(1)) is None
        assert self.better(*(gpu(n, self.SMALL, 12_288) for n in range(3)), gpu(3)) == (3,)

    def test_faster_with_less_memory_is_said_with_both_figures(self) -> None:
        slow = gpu(0, "NVIDIA GeForce RTX 3090", 24_576)
        assert self.better(slow, gpu(1)) == (1,)
        notes = " ".join(cluster(slow, gpu(1)).notes)
        assert "GPU 1 alone counts as 23.64 GiB at 165 TFLOPS, all as 47.28 GiB at 142" in notes
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1 plan ..." in notes

    def test_a_busy_card(self) -> None:
        """Without rates of their own, memory alone decides."""
        idle = [gpu(n, "NVIDIA Nobody", 24_000) for n in range(3)]
        busy = gpu(3, "NVIDIA Nobody", 24_000, free_bytes=2 * GIB)
        assert self.better(*idle, busy) == (0, 1, 2)
        assert self.better(*idle) is None

    def test_no_subset_of_any_kind_has_more(self) -> None:
        """Against every subset there is."""
        cards = [gpu(0), gpu(1, self.SMALL, 12_288), gpu(2, free_bytes=9 * GIB), gpu(3)]
        found = selection(machine(*cards)).gpus
        every = [
            Subset(members=tuple(each for n, each in enumerate(found) if mask >> n & 1))
            for mask in range(1, 2 ** len(found))
        ]
        candidates = [(each.num_bytes, each.flops_per_s or 0) for each in subsets(found)]
        for each in every:
            worth = each.num_bytes, each.flops_per_s or 0
            assert any(a >= worth[0] and b >= worth[1] for a, b in candidates)
