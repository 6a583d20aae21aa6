"""Layers that are cut over ranks: the widths and first values of peft's adapters on them, and
dropout, which drops what it would on one device.

Ranks begin with one seed, so that they drop the same elements of what they all have. What each has
a part of is dropped by numbers of its own.

read: peft 0.21.2, tuners/lora/model.py, add_lora_tp_hooks_dtensor and _create_and_replace, and
tuners/lora/layer.py, update_layer and reset_lora_parameters; transformers at 5.23.0,
modeling_utils.py, AttentionInterface.get_interface, which every attention module asks for what
attends.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from launcher.compat.peft import ADAPTER
from launcher.compat.replacement import Replacement, replaced

IN_PARTS = ("colwise", "rowwise")
"""How transformers cuts matrices of which a rank has a part of the output or of the input, which
are those that peft cuts adapters for. Where both are whole, so is an adapter."""
SEEDS = 2**62


def cut_by(attach: Callable[[Any], Any], model: Any) -> Any:
    """Return the model as ``attach`` has put adapters on its cut matrices, each adapter what it
    would be on one device: a part where a rank has a part of the matrix's input or output, all of
    it elsewhere.

    peft makes an adapter as wide as a rank's part of its matrix. transformers' forward of a matrix
    that is cut along its inputs reads the whole width of it (RowwiseParallel), and the first values
    of A depend on that, too.
    """
    before = torch.get_rng_state()
    in_parts = {name: style for name, style in model.tp_plan.items() if style in IN_PARTS}
    with replaced([Replacement(model, "_tp_plan", in_parts)]):
        model = attach(model)
    torch.set_rng_state(before)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            _begin(layer)
            _drop_by_rank(layer)
    return model


def drop_heads_by_rank(model: Any) -> None:
    """Let each rank drop weights of its own heads, if attention of the model drops any and its
    heads are cut over ranks."""
    of_attention = {style for name, style in model.tp_plan.items() if ".self_attn." in name}
    if getattr(model.config, "attention_dropout", 0) and "colwise" in of_attention:
        _drop_heads(torch.distributed.get_rank())


class DropoutOfAPart(torch.nn.Dropout):
    """Dropout of a rank's part of an input: a mask that the other ranks' parts do not share."""

    def __init__(self, p: float, rank: int) -> None:
        super().__init__(p)
        self.rank = rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        with _own_numbers(self.rank, x.device):
            return super().forward(x)


@contextmanager
def _own_numbers(rank: int, device: torch.device) -> Iterator[None]:
    """Let the device draw random numbers of this rank's own inside the block.

    Their seed comes from the host's generator, which a layer that is computed again finds as it was
    (torch.utils.checkpoint at 2.13, preserve_rng_state). No value is read from the device.
    """
    seed = int(torch.randint(SEEDS, ()))
    generator = torch.default_generator
    if device.type == "cuda":
        generator = torch.cuda.default_generators[device.index]
    before = generator.get_state()
    generator.manual_seed(seed + rank)
    try:
        yield
    finally:
        generator.set_state(before)


def _drop_heads(rank: int) -> None:
    find = ALL_ATTENTION_FUNCTIONS.get_interface

    def found(*names: Any) -> Any:
        attend = find(*names)

        def attending(module: Any, query: torch.Tensor, *inputs: Any, **options: Any) -> Any:
            if not options.get("dropout"):
                return attend(module, query, *inputs, **options)
            with _own_numbers(rank, query.device):
                return attend(module, query, *inputs, **options)

        return attending

    ALL_ATTENTION_FUNCTIONS.get_interface = found


def _drop_by_rank(layer: Any) -> None:
    """Let each rank draw a mask of its own where the input of an adapter is a part."""
    weight, dropout = layer.lora_A[ADAPTER].weight, layer.lora_dropout[ADAPTER]
    if isinstance(weight, DTensor) and isinstance(dropout, torch.nn.Dropout):
        rank = weight.device_mesh.get_local_rank()
        layer.lora_dropout[ADAPTER] = DropoutOfAPart(dropout.p, rank)


def _begin(layer: Any) -> None:
    base = layer.get_base_layer()
    a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    a.in_features, b.out_features = base.in_features, base.out_features
    whole_a = torch.nn.Linear(a.in_features, a.out_features, bias=False)
    whole_b = torch.nn.Linear(b.in_features, b.out_features, bias=False)  # draws as peft's does
    torch.nn.init.kaiming_uniform_(whole_a.weight, a=math.sqrt(5))
    torch.nn.init.zeros_(whole_b.weight)
    for adapter, whole in ((a, whole_a.weight), (b, whole_b.weight)):
        _take(adapter, whole.detach())


def _take(adapter: Any, whole: torch.Tensor) -> None:
    """Give a matrix of an adapter this rank's part of a whole tensor that every rank has."""
    weight = adapter.weight
    if not isinstance(weight, DTensor):
        adapter.weight = torch.nn.Parameter(whole.to(weight), requires_grad=weight.requires_grad)
        return
    on_device = whole.to(weight.device)
    cut = distribute_tensor(on_device, weight.device_mesh, weight.placements, src_data_rank=None)
    with torch.no_grad():
        weight.to_local().copy_(cut.to_local())
