"""peft's adapters on matrices that are cut over ranks: their widths, and their first values.

read: peft 0.21.2, tuners/lora/model.py, add_lora_tp_hooks_dtensor, and tuners/lora/layer.py,
update_layer and reset_lora_parameters.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch.distributed.tensor import DTensor, distribute_tensor

from launcher.compat.peft import ADAPTER


def cut_by(attach: Callable[[Any], Any], model: Any) -> Any:
    """Return the model as ``attach`` has put adapters on its cut matrices, each adapter a part of
    what it would be on one device.

    peft makes an adapter as wide as a rank's part of its matrix. transformers' forward of a matrix
    that is cut along its inputs reads the whole width of it (RowwiseParallel), and the first values
    of A depend on that, too.
    """
    before = torch.get_rng_state()
    model = attach(model)
    torch.set_rng_state(before)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            _begin(layer)
    return model


def _begin(layer: Any) -> None:
    base = layer.get_base_layer()
    a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    a.in_features, b.out_features = base.in_features, base.out_features
    whole_a = torch.nn.Linear(a.in_features, a.out_features, bias=False)
    torch.nn.Linear(b.in_features, b.out_features, bias=False)  # draws what peft's B draws
    torch.nn.init.kaiming_uniform_(whole_a.weight, a=math.sqrt(5))
    with torch.no_grad():
        _part(a.weight).copy_(_cut_like(a.weight, whole_a.weight))


def _part(weight: torch.Tensor) -> torch.Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _cut_like(weight: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a whole tensor that every rank has."""
    if not isinstance(weight, DTensor):
        return whole
    on_device = whole.detach().to(weight.device)
    cut = distribute_tensor(on_device, weight.device_mesh, weight.placements, src_data_rank=None)
    return _part(cut)
