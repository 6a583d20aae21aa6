"""LitGPT's linear layers on a tape: frozen, quantized, with LoRA, and with the scale of an adapter.

Mirrors ``litgpt/lora.py`` and ``litgpt/adapter_v2.py`` at 0.2.0.
"""

from dataclasses import dataclass, field

from benchmarks.accuracy.litgpt.operators import grouped_convolution, padded, quantized_product
from benchmarks.accuracy.litgpt.shape import Shape
from benchmarks.accuracy.litgpt.weights import Tuning, Weights
from planner.tape import operators as ops
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


@dataclass(slots=True, kw_only=True)
class Linears:
    """Linear layers; ``contexts`` holds what a node keeps beyond autograd's saved tensors."""

    shape: Shape
    weights: Weights
    tape: Tape
    contexts: list[Tensor] = field(default_factory=list)

    @property
    def tuning(self) -> Tuning:
        return self.weights.tuning

    def linear(self, name: str, x: Tensor, sizes: tuple[int, int], *, bias: bool) -> Tensor:
        """Apply ``nn.Linear`` or its replacement; the end of ``name`` says which matrix it is."""
        kind = name.rpartition(".")[2]
        target = "mlp" if kind.startswith("mlp") else kind
        output = self._base(name, x, sizes, bias=bias)
        if target in self.tuning.targets:
            return self._with_lora(name, x, output, sizes)
        return self.scaled(name, output, sizes[1])

    def _base(self, name: str, x: Tensor, sizes: tuple[int, int], *, bias: bool) -> Tensor:
        in_features, out_features = sizes
        offset = self.weights.parameter(f"{name}.bias", out_features) if bias else None
        if self.tuning.quantized:
            return self._quantized(name, x, sizes)
        weight = self.weights.parameter(f"{name}.weight", in_features * out_features)
        trained = offset if offset is not None and offset.node else None
        return ops.linear(self.tape, x, weight, out_features=out_features, bias=trained, name=name)

    def _quantized(self, name: str, x: Tensor, sizes: tuple[int, int]) -> Tensor:
        """bitsandbytes' MatMul4Bit; read: bitsandbytes/autograd/_functions.py at 0.41.1:
        ``ctx.tensors`` holds the input, so it lives as long as the graph."""
        in_features, out_features = sizes
        self.weights.quantized[name] = in_features * out_features
        if x.node is not None:
            self.contexts.append(x.detached())
        return quantized_product(
            self.tape,
            x,
            in_features=in_features,
            out_features=out_features,
            double_quant=bool(self.tuning.double_quant),
            name=name,
        )

    def _with_lora(
        self, name: str, x: Tensor, pretrained: Tensor, sizes: tuple[int, int]
    ) -> Tensor:
        """LoRALinear.forward."""
        tape, rank = self.tape, self.tuning.rank
        a = self.weights.parameter(f"{name}.lora_A", rank * sizes[0], adapts=True)
        b = self.weights.parameter(f"{name}.lora_B", rank * sizes[1], adapts=True)
        down = ops.linear(tape, self._dropped(x), a, out_features=rank, bias=None, name="lora_A")
        lora = ops.linear(tape, down, b, out_features=sizes[1], bias=None, name="lora_B")
        del down
        lora = ops.unary(tape, lora, "lora, scaled")
        return ops.add(tape, pretrained, lora, f"{name} with lora")

    def _dropped(self, x: Tensor) -> Tensor:
        return ops.dropout(self.tape, x, device="cuda")

    def qkv(self, name: str, x: Tensor) -> Tensor:
        """LoRAQKVLinear.forward."""
        shape, tape, rank = self.shape, self.tape, self.tuning.rank
        sizes = (shape.n_embd, shape.qkv_size)
        pretrained = self._base(name, x, sizes, bias=shape.bias)
        columns = {"q": shape.query_size, "k": shape.key_value_size, "v": shape.key_value_size}
        enabled = [size for kind, size in columns.items() if kind in self.tuning.targets]
        if not enabled:
            return self.scaled(name, pretrained, shape.qkv_size)
        parts, index = len(enabled), sum(enabled)
        a = self.weights.parameter(f"{name}.lora_A", parts * rank * shape.n_embd, adapts=True)
        b = self.weights.parameter(f"{name}.lora_B", index * rank, adapts=True)
        after_a = ops.linear(
            tape, self._dropped(x), a, out_features=parts * rank, bias=None, name="lora_A"
        )
        rows = x.elements // shape.n_embd
        after_b = grouped_convolution(
            tape,
            after_a,
            b,
            elements=rows * index,
            parts=1 if shape.n_head == shape.n_query_groups else parts,
        )
        lora = after_b
        if parts < len(columns):
            whole = rows * shape.qkv_size
            lora = padded(tape, after_b, elements=whole, index=index)
        lora = ops.unary(tape, lora, "lora, scaled")
        return ops.add(tape, pretrained, lora, f"{name} with lora")

    def scaled(self, name: str, output: Tensor, out_features: int) -> Tensor:
        """AdapterV2Linear.forward: ``adapter_scale * (output + adapter_bias)``."""
        if self.tuning.method != "adapter_v2":
            return output
        bias = self.weights.parameter(f"{name}.adapter_bias", out_features, adapts=True)
        scale = self.weights.parameter(f"{name}.adapter_scale", out_features, adapts=True)
        shifted = _add_row(self.tape, output, bias)
        del output
        return ops.mul(self.tape, scale, shifted, f"{name}, scaled")


def _add_row(tape: Tape, x: Tensor, bias: Tensor) -> Tensor:
    """``x + bias``: the gradient of the bias is summed over rows."""
    elements, width, size = x.elements, x.width, bias.elements
    needed = x.node is not None

    def backward(gradient: Tensor) -> list[Tensor | None]:
        of_bias = tape.new(size, width, "gradient of a bias")
        return [gradient.viewed() if needed else None, of_bias]

    return tape.record(tape.new(elements, width, "output + bias"), (x, bias), (), backward)
