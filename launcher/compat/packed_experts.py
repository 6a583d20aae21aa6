"""Routed experts in 4 bit: each matrix of all experts of a layer, packed as one tensor.

transformers holds such a matrix as one parameter of three dimensions, which bitsandbytes' layers do
not hold. Here its codes take its place, and whoever reads the parameter gets :class:`PackedStack`:
a grouped product with it unpacks the whole stack, forward and backward, and keeps none of it in
between. With bitsandbytes' own parametrization (nn/parametrize.py at 0.50.2) autograd would keep
every stack in 16 bit from forward to backward, since the product saves the matrix that it is given.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from math import prod
from typing import Any

import torch
from bitsandbytes import functional
from torch.nn.utils import parametrize

from launcher.compat.bitsandbytes import constants, scales_of
from launcher.compat.replacement import replaced
from launcher.compat.transformers import expert_stacks, packing_on_load


class PackedStack:
    """All experts' matrices of one kind in 4 bit, in the place of a tensor that torch reads."""

    requires_grad = False

    def __init__(self, packed: torch.Tensor, state: Any, *, turned: bool = False) -> None:
        self.packed, self.state, self.turned = packed, state, turned

    @property
    def shape(self) -> torch.Size:
        count, rows, columns = self.state.shape
        return torch.Size((count, columns, rows) if self.turned else (count, rows, columns))

    @property
    def ndim(self) -> int:
        return 3

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.state.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        return self.packed.device

    def transpose(self, first: int, second: int) -> "PackedStack":
        """Return the same with each expert's matrix transposed, which is all that is asked for."""
        if {first % 3, second % 3} != {1, 2}:
            raise ValueError(f"a stack of experts has no transpose({first}, {second})")
        return PackedStack(self.packed, self.state, turned=not self.turned)

    def __getitem__(self, experts: torch.Tensor) -> torch.Tensor:
        """Return the matrices of some experts, which alone are unpacked if their scales are their
        own: generation multiplies by them token by token."""
        _count, rows, columns = self.state.shape
        blocks, rest = divmod(rows * columns, self.state.blocksize)
        if rest or self.turned:
            return self.unpacked()[experts]
        codes = self.packed.view(torch.uint8).view(len(self), -1, 1)
        scales = scales_of(self.state).view(len(self), blocks)
        state = copy(self.state)
        state.nested = False

        def unpacked(expert: int) -> torch.Tensor:
            state.absmax = scales[expert]
            return _unpacked(codes[expert], state, (rows, columns))

        return torch.stack([unpacked(expert) for expert in experts.tolist()])

    def __len__(self) -> int:
        return int(self.state.shape[0])

    def unpacked(self) -> torch.Tensor:
        """Return the whole stack in the dtype that it was packed from."""
        whole = _unpacked(self.packed, self.state, self.state.shape)
        return whole.transpose(1, 2) if self.turned else whole

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Multiply with a stack that is unpacked for the product alone; hand any other function
        the whole stack."""
        given = {name: value for name, value in (kwargs or {}).items() if value is not None}
        if set(given) == {"offs"}:
            x, stack = args
            product: Any = _Product.apply
            return product(function, x, stack.packed, stack, given["offs"])
        whole = [each.unpacked() if isinstance(each, PackedStack) else each for each in args]
        return function(*whole, **(kwargs or {}))


def _unpacked(codes: torch.Tensor, state: Any, shape: Sequence[int]) -> torch.Tensor:
    """Return a tensor of that shape as one row: on the CPU bitsandbytes takes blocks to end with
    rows (backends/cpu/ops.py at 0.50.2), which are shorter in small models."""
    flat = copy(state)
    flat.shape = torch.Size((1, prod(shape)))
    whole: torch.Tensor = functional.dequantize_4bit(codes, flat)
    return whole.view(*shape)


class _Product(torch.autograd.Function):
    """A grouped product whose matrices are unpacked again for the gradient of its input.

    read: tools/autograd/derivatives.yaml at torch 2.13, _grouped_mm, and
    transformers/integrations/moe.py at 5.23.0, _grouped_mm_fallback_bwd: the gradient is the same
    product with each matrix transposed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        product: Callable[..., torch.Tensor],
        x: torch.Tensor,
        packed: torch.Tensor,
        stack: PackedStack,
        offsets: torch.Tensor,
    ) -> torch.Tensor:
        ctx.product, ctx.state, ctx.turned = product, stack.state, stack.turned
        ctx.save_for_backward(packed, offsets)
        return product(x, stack.unpacked(), offs=offsets)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        packed, offsets = ctx.saved_tensors
        turned = PackedStack(packed, ctx.state, turned=not ctx.turned)
        return None, ctx.product(gradients[0], turned.unpacked(), offs=offsets), None, None, None


class Unpacking(torch.nn.Module):
    """What stands between the codes of a stack and whoever reads the parameter."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.quant_state = state

    def forward(self, packed: torch.Tensor) -> PackedStack:
        return PackedStack(packed, self.quant_state)


def packed_stack(whole: torch.Tensor, settings: Any) -> torch.nn.Parameter:
    """Return a stack's codes, with the constants that they are unpacked by as ``quant_state``;
    ``settings`` are transformers' for all 4-bit weights."""
    codes, state = functional.quantize_4bit(
        whole,
        compress_statistics=settings.bnb_4bit_use_double_quant,
        quant_type=settings.bnb_4bit_quant_type,
        quant_storage=settings.bnb_4bit_quant_storage,
    )
    parameter = torch.nn.Parameter(codes, requires_grad=False)
    parameter.quant_state = state  # type: ignore[attr-defined]
    return parameter


def hold(module: torch.nn.Module, name: str, packed: Any) -> None:
    """Have a module hold the codes in the place of its parameter of that name."""
    setattr(module, name, packed)
    parametrize.register_parametrization(module, name, Unpacking(packed.quant_state), unsafe=True)


@contextmanager
def codes_as_parameters(model: Any) -> Iterator[None]:
    """Have modules hold their codes as parameters of the stacks' shape inside the block.

    peft takes that for the shape of what it adapts, and comes to parameters in their order, which
    it does not to those that are unpacked as they are read; read: peft/tuners/lora/layer.py at
    0.21.2, ParamWrapper._get_in_out_features, and peft/tuners/tuners_utils.py, _inject_parameters.
    """
    released = []
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
            codes = getattr(module, name)
            codes.ds_shape = codes.quant_state.shape
            released.append((module, name, codes))
    yield
    for module, name, codes in released:
        del codes.ds_shape
        hold(module, name, codes)


def held(module: Any, name: str) -> tuple[torch.Tensor, ...]:
    """Return the tensors that a module keeps of the packed parameter of that name."""
    unpacking = module.parametrizations[name]
    return unpacking.original, *constants(unpacking[0].quant_state)


def packed_on_load(settings: Any) -> AbstractContextManager[None]:
    """Have a load inside the block pack each stack of experts when it is whole, before the next one
    is read; what is loaded goes to :func:`hold_packed`."""
    return replaced(packing_on_load(lambda whole: packed_stack(whole, settings)))


def hold_packed(model: Any) -> None:
    """Have the modules of a model that was loaded so hand out their packed stacks."""
    for module, name in list(expert_stacks(model)):
        hold(module, name, getattr(module, name))
