"""CUDA_VISIBLE_DEVICES as torch itself reads it, on random text."""

import os
from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.hardware.visible_devices import select
from tests.planner.hardware.test_machine import gpu

UUIDS = ["GPU-0a1b", "GPU-0a2c", "GPU-1d00", "GPU-22ff"]
GPUS = [gpu(index, uuid=uuid) for index, uuid in enumerate(UUIDS)]
NUMBERS = st.sampled_from(["0", "1", "2", "3", "4", "17", "+1", "-1", "2x", " 3 ", "", "x", "1e3"])
NAMES = st.sampled_from(
    [*UUIDS, "GPU-0a", "GPU-0a1", "GPU-1", "GPU-2", "GPU-", "GPU-9", "0", "gpu-1"]
)
TEXTS = st.one_of(st.lists(NUMBERS, max_size=5), st.lists(NAMES, max_size=5)).map(",".join)


def as_torch_counts(text: str) -> list[int]:
    """read: torch/cuda/__init__.py of torch 2.13, ``_device_count_nvml``."""
    with patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": text}):
        visible = torch.cuda._parse_visible_devices()
    if visible and isinstance(visible[0], str):
        ordinals: list[int] = torch.cuda._transform_uuid_to_ordinals(visible, UUIDS)
        return ordinals
    known = [n for n in visible if isinstance(n, int)]
    beyond = next((at for at, n in enumerate(known) if n >= len(UUIDS)), len(known))
    return known[:beyond]


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_select(text: str) -> None:
    chosen = select(GPUS, {"CUDA_VISIBLE_DEVICES": text})
    assert [device.index for device in chosen] == as_torch_counts(text)
