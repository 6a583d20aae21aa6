"""What PyTorch and NVML see of simulated cards."""

import sys
from typing import Any

import pytest

from planner.base.units import GIB, MIB
from planner.hardware.cards import load_gpu
from tests.simulated.conftest import facts, on_cards

EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
GRAIN = 2 * MIB


@pytest.fixture(scope="module", params=["segments", "expandable"])
def seen(request: pytest.FixtureRequest) -> Any:
    """What a process finds on one of two RTX 4090: PyTorch expands segments by 20 MiB."""
    expandable = request.param == "expandable"
    found = facts("rtx-4090:2", "child_memory", **(EXPANDABLE if expandable else {}))
    return {**found, "expected_taken": (520 if expandable else 512) * MIB}


def test_the_card_is_the_preset(seen: Any) -> None:
    card = load_gpu("rtx-4090")
    assert seen["name"] == seen["name_outside"] == card.device_name
    assert seen["capability"] == card.compute_capability
    assert seen["total_mib"] == card.torch_visible_mib
    assert (seen["multiprocessors"], seen["l2_bytes"]) == (128, 72 * MIB)
    assert seen["cards"] == 2
    assert seen["bus_matches"]


def test_memory_is_counted_as_on_a_card(seen: Any) -> None:
    card = load_gpu("rtx-4090")
    assert card.context_mib is not None
    context = seen["total_mib"] * MIB - seen["at_start"]
    assert 0 <= context - card.context_mib * MIB <= GRAIN
    assert seen["taken"] == seen["expected_taken"]
    assert seen["back"] == seen["at_start"]


def test_nvml_sees_the_same_from_another_process(seen: Any) -> None:
    assert seen["seen_outside"] == seen["at_start"] - seen["taken"]
    assert seen["held_by_process"] == [seen["total_mib"] * MIB - seen["at_start"] + seen["taken"]]


def test_a_full_card_refuses(seen: Any) -> None:
    assert seen["fit_gib"] == seen["at_start"] // GIB
    assert "CUDA out of memory. Tried to allocate 1024.00 MiB" in seen["message"]


def test_pinned_memory_streams_and_events(seen: Any) -> None:
    assert seen["pinned"]
    assert seen["elapsed_ms"] > 0


def test_a_mig_slice_is_a_card_of_its_size() -> None:
    seen = facts("a100-sxm-80gb/1g.10gb", "child_memory")
    assert seen["name"] == "NVIDIA A100-SXM4-80GB MIG 1g.10gb"
    assert (seen["total_mib"], seen["multiprocessors"]) == (9984, 13)
    assert seen["fit_gib"] == (9984 - (load_gpu("a100-sxm-80gb").context_mib or 0)) // 1024


def test_cards_are_chosen_by_number() -> None:
    """As CUDA counts: up to the first that is not there."""
    program = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_name(0))"
    done = on_cards("t4:3", sys.executable, "-c", program, CUDA_VISIBLE_DEVICES="2,0,9,1")
    assert done.stdout.split() == ["2", "Tesla", "T4"]


def test_a_card_too_old_for_the_build_has_no_kernels() -> None:
    program = "import torch; torch.zeros(1, device='cuda')"
    done = on_cards("v100-sxm2-16gb", sys.executable, "-c", program)
    assert "no kernel image is available for execution on the device" in done.stderr


def test_an_unknown_function_ends_the_run_with_its_name() -> None:
    program = "import torch; torch.fft.fft(torch.ones(8, device='cuda'))"
    done = on_cards("h100", sys.executable, "-c", program)
    assert done.returncode == 70
    last = done.stderr.splitlines()[-1]
    assert last.startswith("simulated GPU: cufft")
    assert last.endswith("is not simulated; the run ends here")
