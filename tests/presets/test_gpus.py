"""Every card's file: it reads, it is named after itself, and its figures are possible."""

import re

import pytest

from planner.presets import ROOT, load_gpu, preset_names

NAMES = preset_names("gpus")


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
    assert 0.9 < gpu.nvml_total_mib / (gpu.nominal_gib * 1024) < 1.03
    if gpu.torch_visible_mib is not None:
        assert 0.95 < gpu.torch_visible_mib / gpu.nvml_total_mib <= 1
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
    assert gpu.tdp_watts is None or 50 < gpu.tdp_watts <= 1500


def test_a_card_is_recognised_by_name_and_capacity() -> None:
    keys = [(gpu.device_name, gpu.nvml_total_mib) for gpu in map(load_gpu, NAMES)]
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
