"""Every machine of the stand-in as ``plan --gpus auto`` shows it: report, document and plan."""

import json
from typing import Any

import pytest

from planner.report.machine_report import ranges
from tests.nvml.stand_in import HERE, Answer, Child

MODEL = ("--model", "smollm2-135m", "-o", "-")
ON_CPU = "so this is a plan for the CPU"
CARD = "capability 8.9: bf16, flash attention"
OLD_CARD = "fp16 with scaled losses; bf16 and flash attention from 8.0"

MACHINES: dict[str, tuple[str, int, list[str]]] = {
    "eight-h100": ("h100-sxm-80gb", 8, ["18 per pair through a switch, 450.0 GB/s each way, P2P"]),
    "two-rtx-4090": ("rtx-4090", 2, ["PCIe 4.0 x8, 450 W", "no P2P: through the host's memory"]),
    "half-used": ("rtx-4090", 1, ["23.64 GiB, 11.64 GiB free", "in use by process 4242"]),
    "busy": ("rtx-4090", 1, ["2.16 GiB free", "python3 (process 31337, 19.53 GiB)"]),
    "mig": ("h100-80gb-hbm3-mig-3g.40gb", 1, ["not used: 1 more MIG slice."]),
    "four-slices": ("a100-sxm4-40gb-mig-2g.10gb", 1, ["not used: 3 more MIG slices."]),
    "no-gpu": ("cpu", 1, ["No NVIDIA GPU was found", ON_CPU]),
    "driver-mismatch": ("cpu", 1, ["are of different versions", ON_CPU]),
    "driver-not-loaded": ("cpu", 1, ["is installed but not loaded", ON_CPU]),
    "mig-without-slices": ("cpu", 1, ["no slice has been made", ON_CPU]),
    "refusing": ("a100-sxm-80gb", 2, ["driver unknown", "NVML does not report by whom"]),
    "unknown-card": ("geforce-rtx-9090-ti", 1, ["No preset describes", "its speed is unknown"]),
    "mixed": (
        "rtx-4090",
        2,
        ["each counted as one with 22.64 GiB", "94 TFLOPS of the others stay"],
    ),
    "three-unequal": ("rtx-3060", 3, ["PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,2 plan --model smollm"]),
    "fastest-first": ("rtx-3060", 2, ["capability 8.6, 8.9", "CUDA_VISIBLE_DEVICES=1 plan"]),
    "old-driver": ("rtx-3090", 1, ["Driver 470.57.02 is too old for the installed torch"]),
    "v100": ("v100-sxm2-32gb", 2, [OLD_CARD, "NVLink, 2 per pair, 50.0 GB/s", "GPU 1 at node 1"]),
    "t4": ("t4", 1, [OLD_CARD, "PCIe 3.0 x16, 70 W, ECC on"]),
    "breaks-off": ("rtx-4090", 2, ["NVML failed at nvmlDeviceGetMaxClockInfo (Unknown Error)"]),
    "lost-gpu": ("rtx-4090", 1, ["GPU 1 does not answer (GPU is lost).", CARD]),
    "lost-while-reading": ("rtx-4090", 1, ["GPU 1 does not answer (GPU is lost).", CARD]),
    "throttled": ("a100-sxm-80gb", 1, ["250 of 400 W", "heat (driver)", "3 uncorrected memory"]),
    "degraded-slot": (
        "rtx-4090",
        2,
        ["PCIe 3.0 x4 of 4.0 x16, 3.9 of 31.5 GB/s", "PCIe, 3.9 GB/s"],
    ),
    "rebuilt-card": ("geforce-rtx-4090", 1, ["has 47.64 GiB here instead of the preset's 24"]),
    "unified": ("gb10", 1, ["GPU and host share one memory"]),
    "missing-links": (
        "h100-sxm-80gb",
        8,
        ["slowest pair 425.0 GB/s", "smaller number decides"],
    ),
    "bridged": ("rtx-3090", 4, ["NVLink does not join all the GPUs"]),
}


def words(answer: Answer) -> str:
    """What was printed as one line: where a terminal breaks it says nothing."""
    return " ".join(answer.out.split())


def test_every_machine_has_a_row() -> None:
    assert {path.stem for path in (HERE / "machines").iterdir()} == set(MACHINES)


@pytest.mark.parametrize("machine", MACHINES)
def test_report(nvml: Child, machine: str) -> None:
    """At 80 columns, and nothing runs over."""
    _, _, said = MACHINES[machine]
    answer = nvml.plan(machine, *MODEL[:2], "-o", "plan.yaml", "--force")
    assert answer.code == 0, answer.err + answer.out
    assert answer.err == ""
    report = words(answer).replace(" -o plan.yaml --force", "")
    for text in said:
        assert text in report
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize("machine", MACHINES)
def test_document(nvml: Child, machine: str) -> None:
    label, count, _ = MACHINES[machine]
    answer = nvml.plan(machine, *MODEL[:2], "--json")
    assert answer.code == 0, answer.err
    document: dict[str, Any] = json.loads(answer.out)
    hardware, found = document["hardware"], document["machine"]
    assert (hardware["gpu"], hardware["gpus_per_node"]) == (label, count)
    assert document["plan"]["precision"]["compute"] == ("bf16" if found["bf16"] else "fp16")
    assert found["schema_version"] == 1
    assert found["notes"] == hardware["notes"]
    if label != "cpu":
        assert len(found["visible"]) == count
        assert found["flash_attention"] == found["bf16"]
        rates = [link["bytes_per_s"] for link in found["links"]]
        assert min(rates, default=None) == hardware["link_bytes_per_s"]


@pytest.mark.parametrize("columns", [80, 140])
def test_the_section_alone(nvml: Child, columns: int) -> None:
    answer = nvml.plan("eight-h100", "--save-machine", "eight.json", columns=columns)
    lines = [line.rstrip() for line in answer.out.splitlines()]
    assert lines[:6] == [
        "Machine        8 x NVIDIA H100 80GB HBM3, 79.10 GiB each, NVLink",
        "  compute      capability 9.0: bf16, flash attention",
        "  each GPU     PCIe 5.0 x16, 700 W, ECC on",
        "  links        NVLink, 18 per pair through a switch, 450.0 GB/s each way, P2P",
        "  NUMA         GPU 0-3 at node 0, GPU 4-7 at node 1",
        "  driver       535.183.01, CUDA up to 12.2, torch 2.11.0+cu126 for CUDA 12.6",
    ]
    assert lines[6].startswith("  host ")
    assert lines[7:] == ["", "Next           plan --model MODEL --gpus eight.json"]


@pytest.mark.parametrize(
    ("numbers", "text"), [([0], "0"), ([0, 1], "0-1"), ([3, 0, 1, 7, 6], "0-1, 3, 6-7"), ([], "")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
