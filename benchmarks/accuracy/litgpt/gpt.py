"""LitGPT's GPT on a tape of sizes, variable by variable: ``litgpt/model.py`` at 0.2.0, and
what ``litgpt/adapter.py`` changes of it.

t  tokens of a micro-batch     B  samples     T  their length
"""

from dataclasses import dataclass

from benchmarks.accuracy.litgpt.linears import Linears
from benchmarks.accuracy.litgpt.operators import (
    expanded,
    layer_norm,
    row_means,
    softmax_in_fp32,
    split,
)
from benchmarks.accuracy.litgpt.weights import COMPUTE, Attention
from planner.base.units import FP32_BYTES
from planner.tape import operators as ops
from planner.tape.attention_kernels import fused_attention
from planner.tape.attention_workspaces import HeadShape
from planner.tape.tensors import Tensor

ADAPTER_PROMPT = 10
ADAPTER_FROM = 2
"""read: litgpt/adapter.py, Config: adapter_prompt_length, adapter_start_layer."""
PROMPT_BIAS_COLUMNS = 16
"""read: aten/src/ATen/native/transformers/attention.cpp, pad_bias: columns of a mask that
attention takes as a bias are rounded up."""


@dataclass(slots=True, kw_only=True)
class GPT:
    """One model that can run a micro-batch of ``samples`` by ``length``."""

    linears: Linears
    samples: int
    length: int

    @property
    def tokens(self) -> int:
        return self.samples * self.length

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Apply a norm, whose weight trains in full fine-tuning and under adapter_v2."""
        linears, tape = self.linears, self.linears.tape
        adapts = linears.tuning.method == "adapter_v2"
        size = linears.shape.n_embd
        weight = linears.weights.parameter(f"{name}.weight", size, adapts=adapts)
        if linears.shape.norm == "LayerNorm":
            bias = linears.weights.parameter(f"{name}.bias", size, adapts=adapts)
            return layer_norm(tape, x, weight, bias, rows=self.tokens, name=name)
        return self._rms_norm(name, x, weight)

    def _rms_norm(self, name: str, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm.forward, in fp32."""
        tape, width = self.linears.tape, x.width
        x = ops.cast(tape, x, FP32_BYTES, f"{name}: input in fp32")
        norm_x = row_means(tape, ops.mul(tape, x, x, "square"), rows=self.tokens)
        x_normed = ops.mul(tape, x, ops.reciprocal_root(tape, norm_x), f"{name}: normalised")
        if self.linears.tuning.norm_scaled_in_fp32:
            scaled = ops.mul(tape, weight, x_normed, f"{name}: scaled")
            return ops.cast(tape, scaled, width, f"{name}: output")
        x_normed = ops.cast(tape, x_normed, width, f"{name}: normalised in 16 bit")
        return ops.mul(tape, x_normed, weight, f"{name}: output")

    def block(self, number: int, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Block.forward."""
        tape, shape, place = self.linears.tape, self.linears.shape, f"h.{number}"
        n_1 = self.norm(f"{place}.norm_1", x)
        h = self.attention(number, n_1, tables)
        if shape.post_norms:
            h = self.norm(f"{place}.post_attention_norm", h)
        if shape.parallel_residual:
            n_2 = n_1 if shape.shared_attention_norm else self.norm(f"{place}.norm_2", x)
            both = ops.add(tape, self.mlp(place, n_2), h, "MLP + attention")
            return ops.add(tape, both, x, "residual")
        x = ops.add(tape, h, x, "residual after attention")
        y = self.mlp(place, self.norm(f"{place}.norm_2", x))
        if shape.post_norms:
            y = self.norm(f"{place}.post_mlp_norm", y)
        return ops.add(tape, y, x, "residual after the MLP")

    # --- attention ------------------------------------------------------------------------

    def attention(self, number: int, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """CausalSelfAttention.forward; ``qkv`` is bound until it returns."""
        shape, linears, tape = self.linears.shape, self.linears, self.linears.tape
        place = f"h.{number}.attn"
        qkv = linears.qkv(f"{place}.attn", x)
        sizes = tuple(self.tokens * n for n in _parts(shape.query_size, shape.key_value_size))
        q, k, v = split(tape, qkv, sizes, "qkv")
        times = shape.n_head // shape.n_query_groups
        if times > 1:
            several = shape.n_query_groups > 1
            k = expanded(tape, k, times, copied=several)
            v = expanded(tape, v, times, copied=several)
            q = ops.contiguous(tape, q, "query, reshaped") if several else q
        q, k = self.rotated(q, tables, "query"), self.rotated(k, tables, "key")
        y = self.attend(q, k, v)
        if linears.tuning.method.startswith("adapter") and number >= ADAPTER_FROM:
            y = self._attend_to_prompt(place, q, y)
        if self._kernel != "efficient":
            y = ops.contiguous(tape, y, "attention output, reshaped")
        return linears.linear(f"{place}.proj", y, (shape.query_size, shape.n_embd), bias=shape.bias)

    def rotated(self, x: Tensor, tables: tuple[Tensor, Tensor], name: str) -> Tensor:
        """``cat((apply_rope(x[..., :n]), x[..., n:]))``; a slice of everything is the tensor
        itself, an empty slice is still a node."""
        tape, shape = self.linears.tape, self.linears.shape
        turning = x.elements // shape.head_size * shape.rope_n_elem
        part = x if turning == x.elements else ops.slice_of(tape, x, turning)
        roped = self._apply_rope(part, tables)
        rest = ops.slice_of(tape, x, x.elements - turning)
        return ops.concatenate(tape, (roped, rest), f"{name}, rotated")

    def _apply_rope(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """apply_rope: the tables are fp32, and so is the sum before it is cast."""
        tape, (cos, sin) = self.linears.tape, tables
        first, second = (ops.slice_of(tape, x, x.elements // 2) for _ in range(2))
        rotated = ops.concatenate(
            tape, (ops.unary(tape, second, "negated half"), first), "half turned"
        )
        straight = ops.mul(tape, x, cos, "rotary: x cos")
        crossed = ops.mul(tape, rotated, sin, "rotary: rotated x sin")
        roped = ops.add(tape, straight, crossed, "roped")
        del straight, crossed
        return ops.cast(tape, roped, x.width, "roped in 16 bit")

    def _head_shape(self) -> HeadShape:
        shape = self.linears.shape
        return HeadShape(
            batch=self.samples,
            length=self.length,
            heads=shape.n_head,
            key_value_heads=shape.n_head,
            head_dim=shape.head_size,
        )

    @property
    def _kernel(self) -> Attention:
        """Run a kernel of scaled_dot_product_attention. Flash attention lays its output out like
        the query, heads before positions, so that joining the heads needs a copy.

        read: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp at 2.2, mha_fwd:
        ``empty_like(q)``; cuda/attention.cu, _efficient_attention_forward: positions first.
        """
        return self.linears.tuning.attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """CausalSelfAttention.scaled_dot_product_attention."""
        if self.linears.shape.attention_softcapping:
            return self._capped_attention(q, k, v)
        return self._fused(q, k, v, None)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Run the fused kernel of a card with flash attention."""
        return fused_attention(
            self.linears.tape,
            q,
            k,
            v,
            bias,
            shape=self._head_shape(),
            device="cuda",
            capability=None,
        )

    def _capped_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Run attention with soft-capping, which holds the whole matrix of scores; litgpt/model.py
        at 0.4.12."""
        tape, heads = self.linears.tape, self._head_shape()
        scores = ops.matmul(
            tape, q, k, heads.query_rows * self.length, "scores", rows=heads.query_rows
        )
        scores = ops.unary(tape, scores, "scores, scaled")
        scores = ops.unary(tape, scores, "scores / cap")
        scores = ops.unary(tape, scores, "tanh(scores / cap)", saves="output")
        scores = ops.unary(tape, scores, "scores, capped")
        scores = ops.unary(tape, scores, "scores, masked")
        scores = ops.cast(tape, scores, FP32_BYTES, "scores in fp32")
        scores = softmax_in_fp32(tape, scores)
        scores = ops.cast(tape, scores, COMPUTE, "attention weights")
        return ops.matmul(tape, scores, v, q.elements, "attention output", rows=heads.query_rows)

    def _attend_to_prompt(self, place: str, q: Tensor, y: Tensor) -> Tensor:
        """adapter.CausalSelfAttention: ``y + gating_factor * ay``, with a mask of ones."""
        shape, linears, tape = self.linears.shape, self.linears, self.linears.tape
        table = ADAPTER_PROMPT * shape.n_embd
        prefix = linears.weights.parameter(f"{place}.adapter_wte", table, adapts=True)
        gate = linears.weights.parameter(f"{place}.gating_factor", shape.n_head, adapts=True)
        aqkv = linears.qkv(f"{place}.attn", prefix)
        rows = ADAPTER_PROMPT * shape.query_size
        ak, av = ops.slice_of(tape, aqkv, rows), ops.slice_of(tape, aqkv, rows)
        bias = tape.new(self.length * PROMPT_BIAS_COLUMNS, COMPUTE, "mask of ones as a bias")
        ay = self._fused(q, ak, av, bias)
        gated = ops.mul(tape, gate, ay, "gated attention to the prompt")
        return ops.add(tape, y, gated, "attention and the prompt's")

    # --- MLP ------------------------------------------------------------------------------

    def mlp(self, place: str, x: Tensor) -> Tensor:
        """GptNeoxMLP.forward; LLaMAMLP.forward and GemmaMLP.forward, which have a gate."""
        shape, linears, tape = self.linears.shape, self.linears, self.linears.tape
        wide, bias = (shape.n_embd, shape.intermediate_size), shape.bias
        back = (shape.intermediate_size, shape.n_embd)
        if shape.mlp == "GptNeoxMLP":
            x = linears.linear(f"{place}.mlp_fc", x, wide, bias=bias)
            x = ops.unary(tape, x, "gelu", saves="input")
            return linears.linear(f"{place}.mlp_proj", x, back, bias=bias)
        x_fc_1 = linears.linear(f"{place}.mlp_fc_1", x, wide, bias=bias)
        x_fc_2 = linears.linear(f"{place}.mlp_fc_2", x, wide, bias=bias)
        activated = ops.unary(tape, x_fc_1, "activated gate", saves="input")
        x = ops.mul(tape, activated, x_fc_2, "gated")
        del activated
        return linears.linear(f"{place}.mlp_proj", x, back, bias=bias)


def _parts(query: int, key_value: int) -> tuple[int, int, int]:
    return query, key_value, key_value
