"""Adapters on routed experts: kept as peft keeps them, and multiplied row by row.

peft adapts a tensor that holds the matrices of all experts of a layer by a wrapper of the experts'
module, one inside of the other for each tensor. In every pass each makes the whole tensor anew with
all adapters added, in the tensor's dtype, in which bf16 rounds away what is small beside a weight;
autograd keeps these sums in every layer. To tensors that are unpacked as they are read it adds once
more in every pass: _remove_parametrizations looks for another class than _activate_lora has put
there. Here a grouped product with such a tensor is followed by two with the adapter's factors, as a
product with any other adapted matrix is.

read: peft/tuners/lora/layer.py at 0.21.2, ParamWrapper, _LoraFactorsProxy.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import ParamWrapper

from launcher.compat.packed_experts import codes_as_parameters


class Factors(NamedTuple):
    """Adapters of all experts' matrices, in the dtype that those are multiplied in."""

    down: torch.Tensor
    """A of each expert, of shape (experts, rank, in)."""
    up: torch.Tensor
    """B of each expert, of shape (experts, out, rank)."""
    scaling: float


class AdaptedStack:
    """All experts' matrices of one kind with their adapters, in the place of a tensor that torch
    reads."""

    requires_grad = False

    def __init__(self, whole: Any, factors: Factors, *, inward: bool) -> None:
        self.whole, self.factors, self.inward = whole, factors, inward

    @property
    def shape(self) -> torch.Size:
        shape: torch.Size = self.whole.shape
        return shape

    @property
    def ndim(self) -> int:
        return 3

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.whole.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.whole.device
        return device

    def transpose(self, first: int, second: int) -> "AdaptedStack":
        """Return the same with each expert's matrix transposed, which is all that is asked for."""
        turned = self.whole.transpose(first, second)
        return AdaptedStack(turned, self.factors, inward=not self.inward)

    def __getitem__(self, experts: torch.Tensor) -> torch.Tensor:
        """Return the sums of some experts: generation multiplies by them token by token."""
        down, up, scaling = self.factors
        lhs, rhs = up[experts], down[experts]
        if self.inward:
            lhs, rhs = rhs.transpose(1, 2), lhs.transpose(1, 2)
        return torch.baddbmm(self.whole[experts], lhs, rhs, alpha=scaling)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        """Multiply rows by their experts' matrices, then by A and by B."""
        x, stack = args
        offsets = (kwargs or {})["offs"]
        down, up, scaling = stack.factors
        output: torch.Tensor = function(x, stack.whole, offs=offsets)
        low = function(x, down.transpose(1, 2), offs=offsets) * scaling
        return output.add_(function(low, up.transpose(1, 2), offs=offsets))


class Beside(torch.nn.Module):
    """What puts the factors beside a stack that a module unpacks."""

    def __init__(self, adapted: Callable[[Any], AdaptedStack]) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, stack: Any) -> AdaptedStack:
        return self.adapted(stack)


class RowWise(ParamWrapper):  # type: ignore[misc]
    """peft's wrapper, which hands the experts their tensor and the factors beside it."""

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **options)  # type: ignore[no-any-return]
        with self._handed_out():
            output: torch.Tensor = self.base_layer(x, *args, **options)
        return output

    @contextmanager
    def _handed_out(self) -> Iterator[None]:
        """Have the experts read their tensor with its factors inside the block."""
        module, name = self.get_base_layer(), self.parameter_name
        inward, factors = module.is_transposed, self._factors(getattr(module, name))

        def adapted(whole: Any) -> AdaptedStack:
            return AdaptedStack(whole, factors, inward=inward)

        held = getattr(module, "parametrizations", {})
        if name in held:
            held[name].append(Beside(adapted))
        else:  # what stands here is found before a parameter
            vars(module)[name] = adapted(getattr(module, name))
        try:
            yield
        finally:
            if name in held:
                del held[name][-1]
            else:
                del vars(module)[name]

    def _factors(self, stack: Any) -> Factors:
        """Return the factors of the one adapter that there is; B's columns of one expert do not
        stand side by side, and are put so."""
        (adapter,) = (name for name in self.active_adapters if name in self.lora_A)
        a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        up = b.reshape(len(b), -1, self.num_experts).permute(2, 0, 1)
        return Factors(
            down=a.reshape(self.num_experts, -1, a.shape[-1]).to(stack.dtype),
            up=up.to(stack.dtype, memory_format=torch.contiguous_format).contiguous(),
            scaling=self.scaling[adapter],
        )


def adapted_by(attach: Callable[[Any], Any], model: Any) -> Any:
    """Return what ``attach``, a function of peft, makes of a model, with the adapters of its routed
    experts multiplied row by row."""
    with codes_as_parameters(model):
        adapted = attach(model)
    for module in adapted.modules():
        if type(module) is ParamWrapper:
            module.__class__ = RowWise
    return adapted
