"""Parameters of a model as LitGPT keeps them on one device, and which of them train."""

from dataclasses import dataclass, field
from typing import Literal

from planner.plan.optimizer_presets import OptimizerSpec, optimizers
from planner.tape.tensors import Parameter, Tensor
from planner.workload.quantization import nf4_bytes

Method = Literal["full", "lora", "qlora", "adapter", "adapter_v2"]
Attention = Literal["flash", "efficient"]
COMPUTE = 2
"""Bytes per element under precision ``bf16-true``: every parameter, gradient and moment has 16
bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Weights that train, their number of bits, and conventions of the libraries of that time."""

    method: Method
    double_quant: bool | None = None
    """Whether scales are quantized too; None if the matrices are not quantized."""
    rank: int = 0
    targets: frozenset[str] = frozenset()
    """Adapted matrices, among ``q``, ``k``, ``v``, ``proj``, ``mlp``, ``head``."""
    attention: Attention = "flash"
    norm_scaled_in_fp32: bool = False
    """Whether RMSNorm multiplies with its weight before it casts to 16 bit, not after."""

    @property
    def quantized(self) -> bool:
        return self.double_quant is not None

    @property
    def optimizer(self) -> OptimizerSpec:
        """AdamW of torch, or of bitsandbytes if matrices are quantized."""
        return optimizers()["paged_adamw_32bit" if self.quantized else "adamw_torch"]


@dataclass(slots=True, kw_only=True)
class Weights:
    """Parameters by name, each made once, and quantized matrices by their number of elements."""

    tuning: Tuning
    parameters: dict[str, Parameter] = field(default_factory=dict)
    quantized: dict[str, int] = field(default_factory=dict)

    def parameter(self, name: str, elements: int, *, adapts: bool = False) -> Tensor:
        """Return a weight, which trains if it belongs to an adapter or if everything trains."""
        if name not in self.parameters:
            trains = adapts or self.tuning.method == "full"
            self.parameters[name] = Parameter(elements, COMPUTE, trains=trains)
        return self.parameters[name]

    @property
    def trainable(self) -> list[int]:
        """Number of elements of each parameter that trains."""
        return [weight.elements for weight in self.parameters.values() if weight.trains]

    @property
    def sizes(self) -> list[int]:
        """Bytes of every weight."""
        double = bool(self.tuning.double_quant)
        packed = [nf4_bytes(num_weights=n, double_quant=double) for n in self.quantized.values()]
        return [w.elements * w.width for w in self.parameters.values()] + packed
