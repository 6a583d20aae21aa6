"""What people type for a card, and what nvidia-smi prints, stands for the card that is meant."""

import pytest

from planner.base.errors import InvalidRequestError, UnknownNameError
from planner.base.preset_files import preset_names
from planner.hardware.card_names import card_named
from planner.hardware.cards import load_gpu
from planner.hardware.detect import parse_gpus


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090", 1),
        ("8x NVIDIA H100 80GB HBM3", "h100-sxm-80gb", 8),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb", 1),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb", 1),
        ("Tesla V100-SXM2-32GB", "v100-sxm2-32gb", 1),
        ("Tesla T4", "t4", 1),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada", 1),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000-workstation", 1),
        ("NVIDIA GeForce RTX 4090, 24564 MiB", "rtx-4090", 1),
        ("NVIDIA A10, 23028 MiB", "a10", 1),
        ("GPU 0: NVIDIA A10 (UUID: GPU-1f-2e)", "a10", 1),
        ("4090x2", "rtx-4090", 2),
        ("rtx4090x2", "rtx-4090", 2),
        ("2*4090", "rtx-4090", 2),
        ("2 x 4090", "rtx-4090", 2),
        ("4090 \u00d7 2", "rtx-4090", 2),
        ("8 H100", "h100-sxm-80gb", 8),
        ("8*A800", "a800-sxm-80gb", 8),
        ("2 RTX A6000", "rtx-a6000", 2),
        ("RTX4060Ti 16G", "rtx-4060-ti-16gb", 1),
        ("4070ti super", "rtx-4070-ti-super", 1),
        ("RTX 4090D", "rtx-4090-d", 1),
        ("4090 24GB", "rtx-4090", 1),
        ("3080 12GB", "rtx-3080-12gb", 1),
        ("12G RTX 3080", "rtx-3080-12gb", 1),
        ("RTX 2060 Super", "rtx-2060-super", 1),
        ("Super 2080 RTX", "rtx-2080-super", 1),
        ("4060 laptop", "rtx-4060-laptop", 1),
        ("laptop RTX 5090", "rtx-5090-laptop", 1),
        ("5070ti laptop", "rtx-5070-ti-laptop", 1),
        ("NVIDIA RTX PRO 5000 72GB Blackwell", "rtx-pro-5000-72gb", 1),
        ("RTX PRO 5000", "rtx-pro-5000-48gb", 1),
        ("Blackwell PRO 4500", "rtx-pro-4500", 1),
        ("RTX PRO 6000 Max-Q", "rtx-pro-6000-max-q", 1),
        ("4x GB300", "gb300", 4),
        ("H20 141G", "h20-141gb", 1),
        ("8xH20-141GB", "h20-141gb", 8),
        ("8xH20", "h20", 8),
        ("GH200 144GB", "gh200-144gb", 1),
        ("2xP40", "p40", 2),
        ("GTX 1080 Ti", "gtx-1080-ti", 1),
        ("Jetson AGX Orin", "jetson-agx-orin-64gb", 1),
        ("Orin", "jetson-agx-orin-64gb", 1),
        ("Jetson Thor", "jetson-thor", 1),
        ("A100 80GB", "a100-sxm-80gb", 1),
        ("a100-80", "a100-sxm-80gb", 1),
        ("80GB A100", "a100-sxm-80gb", 1),
        ("A100 SXM", "a100-sxm-80gb", 1),
        ("A100 PCIe 40GB", "a100-pcie-40gb", 1),
        ("H100 PCIe", "h100-pcie-80gb", 1),
        ("H100 NVL", "h100-nvl", 1),
        ("V100 32GB", "v100-sxm2-32gb", 1),
        ("Quadro RTX 8000", "quadro-rtx-8000", 1),
        ("Titan RTX", "titan-rtx", 1),
        ("DGX Spark", "gb10", 1),
        ("RTX 4080 Laptop", "rtx-4080-laptop", 1),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop", 1),
        ("4090 mobile", "rtx-4090-laptop", 1),
        ("3080 Laptop 16GB", "rtx-3080-laptop-16gb", 1),
        ("8x A800 PCIe", "a800-pcie-80gb", 8),
        ("RTX 5000 Ada", "rtx-5000-ada", 1),
        ("3060Ti", "rtx-3060-ti", 1),
    ],
)
def test_understood(text: str, name: str, count: int) -> None:
    cluster = parse_gpus(text)
    assert (cluster.accelerator.label, cluster.gpus_per_node) == (name, count)


@pytest.mark.parametrize("text", ["24Gx2", "2 x 24 GB", "2*24G", "24G x 2"])
def test_sizes_are_counted_in_the_same_ways(text: str) -> None:
    assert parse_gpus(text) == parse_gpus("2x24G")


@pytest.mark.parametrize("name", preset_names("gpus"))
def test_every_name_that_nvml_prints_is_the_card_or_its_smaller_twin(name: str) -> None:
    card = load_gpu(name)
    named = card_named(card.device_name)
    assert named.card.device_name == card.device_name
    assert named.card.nominal_gib <= card.nominal_gib
    names = preset_names("gpus")
    twins = [each for each in names if load_gpu(each).device_name == card.device_name]
    is_usual = any(not each.endswith("gb") for each in twins)
    assert (named.note is None) == (len(twins) == 1 or is_usual)


def test_of_a_name_in_two_sizes_the_smaller_is_planned_and_the_other_named() -> None:
    cluster = parse_gpus("2x NVIDIA GeForce RTX 4060 Ti")
    assert cluster.accelerator.label == "rtx-4060-ti-8gb"
    assert cluster.notes[-1] == (
        "nvidia geforce rtx 4060 ti is the name of several cards: rtx-4060-ti-8gb is assumed, the "
        "others are rtx-4060-ti-16gb."
    )
    assert parse_gpus("4060 Ti 16GB").accelerator.label == "rtx-4060-ti-16gb"


@pytest.mark.parametrize(
    ("text", "suggested"),
    [
        ("rtx-4099", "Did you mean 'rtx-4090', 'rtx-4090-d' or 'rtx-4060'?"),
        ("rtx-4009", "Did you mean 'rtx-4090', 'rtx-4060' or 'rtx-4070'?"),
        ("rtx 9040", "Did you mean 'rtx-4090'?"),
        ("a100-60gb", "Did you mean 'a100-sxm-40gb', 'a100-sxm-80gb' or 'a100-pcie-40gb'?"),
        ("8xh100-sxm-90", "Did you mean 'h100-sxm-80gb' or 'h100-pcie-80gb'?"),
        ("4090 48GB", "Did you mean 'rtx-4090'?"),
        ("b100", "Did you mean 'b200' or 'b300'?"),
        ("l42", "Did you mean 'l4', 'l20' or 'l40'?"),
        ("titan", "Did you mean 'titan-rtx'?"),
        ("banana", "plan --list gpus shows all."),
        ("nvidia", "plan --list gpus shows all."),
    ],
)
def test_the_same_card_in_another_size_is_suggested_and_never_another_generation(
    text: str, suggested: str
) -> None:
    with pytest.raises(UnknownNameError) as refused:
        parse_gpus(text)
    assert str(refused.value).endswith(suggested)


@pytest.mark.parametrize(
    ("text", "maker"),
    [
        ("MI300X", "AMD"),
        ("8xMI300X", "AMD"),
        ("RX 7900 XTX", "AMD"),
        ("Radeon Pro W7900", "AMD"),
        ("Gaudi", "Intel"),
        ("gaudi-3", "Intel"),
        ("Arc A770", "Intel"),
        ("Ascend 910B", "Huawei"),
        ("8x910b", "Huawei"),
        ("M3 Max", "Apple"),
        ("Apple M2 Ultra", "Apple"),
        ("TPU", "Google"),
        ("TPU v5e", "Google"),
        ("Trainium2", "Amazon"),
    ],
)
def test_other_makers_are_named(text: str, maker: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse_gpus(text)
    assert f"an accelerator of {maker}, and plans are made for NVIDIA GPUs" in str(refused.value)


@pytest.mark.parametrize("name", preset_names("gpus"))
def test_no_card_of_ours_is_another_makers(name: str) -> None:
    for text in (name, load_gpu(name).device_name):
        assert parse_gpus(text).device == "cuda"
