"""Every card's file: it reads, it is named after itself, and its figures are possible."""

import csv
import re
from pathlib import Path

import pytest

from planner.base.preset_files import ROOT, preset_names
from planner.hardware.cards import load_gpu
from planner.hardware.cluster import GpuSpec

NAMES = preset_names("gpus")
CARDS = [load_gpu(name) for name in NAMES]
PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published" / "gpu_specs.csv"
DIFFERENT = {
    ("v100-sxm2-16gb", "tdp_watts"): "NVIDIA's V100 datasheet: 300 W for SXM2, 250 W for PCIe",
    ("v100-sxm2-32gb", "tdp_watts"): "NVIDIA's V100 datasheet: 300 W for SXM2, 250 W for PCIe",
    ("a16", "tdp_watts"): "250 W is the board's, with four GPUs",
    ("t4", "torch_visible_mib"): "what newer drivers leave, as the row's own note says",
}
"""Figures that are not those of the published table, and why."""


@pytest.mark.parametrize("name", NAMES)
def test_gpu_file(name: str) -> None:
    gpu = load_gpu(name)
    assert gpu.name == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert re.fullmatch(r"\d+\.\d", gpu.compute_capability)
    assert gpu.source
    assert gpu.observed


@pytest.mark.parametrize("name", NAMES)
def test_capacity(name: str) -> None:
    """The driver leaves PyTorch less than NVML's total, and a label is rounded, not invented."""
    gpu = load_gpu(name)
    assert 0.9 < gpu.total_mib / (gpu.nominal_gib * 1024) < 1.03
    if gpu.torch_visible_mib is not None:
        assert 0.95 < gpu.torch_visible_mib / gpu.total_mib <= 1
    if gpu.context_mib is not None:
        assert 50 < gpu.context_mib < 2000


@pytest.mark.parametrize("name", NAMES)
def test_rates(name: str) -> None:
    """Between the slowest and the fastest card sold: a slip by 1,000 cannot hide."""
    gpu = load_gpu(name)
    if gpu.dense_bf16_flops_per_s is not None:
        assert 10e12 < gpu.dense_bf16_flops_per_s < 3e15
    if gpu.memory_bandwidth_bytes_per_s is not None:
        assert 150e9 < gpu.memory_bandwidth_bytes_per_s < 10e12
    assert 0 <= gpu.nvlink_bytes_per_s <= 900e9
    assert gpu.tdp_watts is None or 40 < gpu.tdp_watts <= 1500


def test_a_card_is_recognised_by_name_and_capacity() -> None:
    keys = [(gpu.device_name, gpu.total_mib) for gpu in map(load_gpu, NAMES)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("name", "flops_per_s", "bytes_per_s", "nvlink_bytes_per_s"),
    [
        ("a100-sxm-80gb", 312e12, 2039e9, 300e9),
        ("h100-sxm-80gb", 989.4e12, 3350e9, 450e9),
        ("h200", 989.4e12, 4800e9, 450e9),
        ("rtx-4090", 165.2e12, 1008e9, 0),
        ("t4", 65e12, 320e9, 0),
    ],
)
def test_datasheets(
    name: str, flops_per_s: float, bytes_per_s: float, nvlink_bytes_per_s: float
) -> None:
    """Dense, with fp32 accumulation, and one direction of NVLink: half of NVIDIA's figures."""
    gpu = load_gpu(name)
    assert gpu.dense_bf16_flops_per_s == flops_per_s
    assert gpu.memory_bandwidth_bytes_per_s == bytes_per_s
    assert gpu.nvlink_bytes_per_s == nvlink_bytes_per_s


@pytest.mark.parametrize(("name", "supported"), [("v100-sxm2-16gb", False), ("b200", True)])
def test_bf16(name: str, supported: bool) -> None:
    assert load_gpu(name).supports_bf16 is supported


def test_every_file_is_a_preset() -> None:
    assert {path.suffix for path in (ROOT / "gpus").iterdir()} == {".yaml"}


def rows() -> list[dict[str, str]]:
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def card_of(row: dict[str, str]) -> GpuSpec:
    """The same card goes by the same name and size."""
    name, size = row["nvml_name"], int(float(row["memory_gib_nominal"]))
    (card,) = [each for each in CARDS if (each.device_name, each.nominal_gib) == (name, size)]
    return card


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["nvml_name"].replace(" ", "-"))
def test_published_rows(row: dict[str, str]) -> None:
    """Every row has a preset, with the row's figures wherever it has one."""

    def number(column: str, unit: float = 1) -> float | None:
        return float(row[column]) * unit if row[column] else None

    card = card_of(row)
    published = {
        "nvml_total_mib": number("nvml_total_mib"),
        "torch_visible_mib": number("torch_visible_gib", 1024),
        "context_mib": number("nonpytorch_mib_high"),
        "dense_bf16_flops_per_s": number("bf16_fp16_dense_tflops", 1e12),
        "memory_bandwidth_bytes_per_s": number("memory_bw_gbs", 1e9),
        "nvlink_bytes_per_s": number("nvlink_gbs_bidir", 0.5e9),
        "tdp_watts": number("tdp_w"),
    }
    for key, figure in published.items():
        if figure is not None and (card.name, key) not in DIFFERENT:
            # GiB are printed with two digits.
            close = 0.001 if key == "torch_visible_mib" else 1e-9
            assert getattr(card, key) == pytest.approx(figure, rel=close), key
    assert card.compute_capability == row["compute_capability"]
    assert card.pcie == row["pcie"]
    assert card.supports_bf16 == (row["bf16_native"] == "yes")
    assert card.supports_bf16 == (row["flash_attn2"] == "yes")


@pytest.mark.parametrize(("name", "key"), DIFFERENT)
def test_differences_are_differences(name: str, key: str) -> None:
    """A reason is not kept for longer than the difference."""
    (row,) = [row for row in rows() if card_of(row).name == name]
    column = {"tdp_watts": "tdp_w", "torch_visible_mib": "torch_visible_gib"}[key]
    unit = 1024 if column.endswith("gib") else 1
    assert getattr(load_gpu(name), key) != pytest.approx(float(row[column]) * unit, rel=0.002)
