"""Forward passes of decoder layers, as transformers 5.23 writes them, on a tape of sizes.

Each function mirrors the module that its docstring names, variable by variable, since a
variable that a module still holds is memory. What differs between models is data of
:class:`ModelSpec`; what differs between trainers is :class:`Numerics`.
"""

from dataclasses import dataclass, field, replace

from planner import operators as ops
from planner.attention import HeadShape, eager_attention, fused_attention, math_attention
from planner.autograd import Tape
from planner.model import Linear
from planner.numerics import Numerics
from planner.recipe import Batch, Workload
from planner.tensors import Parameter, Tensor


@dataclass(slots=True, kw_only=True)
class Decoder:
    """One model on one rank, ready to run a micro-batch on a tape."""

    workload: Workload
    batch: Batch
    numerics: Numerics
    tape: Tape
    weights: dict[str, Parameter] = field(default_factory=dict)
    matrices: dict[str, Linear] = field(init=False)
    adapted: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.matrices = {matrix.name: matrix for matrix in self.workload.model.layer_linears}
        self.adapted = frozenset(matrix.name for matrix in self.workload.adapted)

    # --- weights --------------------------------------------------------------------------

    @property
    def trains_all(self) -> bool:
        return self.workload.method == "full"

    def parameter(
        self, name: str, elements: int, *, adapter: bool = False, matrix: bool = False
    ) -> Parameter:
        """The weight of that name, made once: autocast casts a weight once a forward pass."""
        if name not in self.weights:
            trains = adapter or self.trains_all
            frozen = self.numerics.frozen if matrix else self.numerics.outside
            width = self.numerics.trainable if trains else frozen
            self.weights[name] = Parameter(elements, width, trains=trains)
        return self.weights[name]

    # --- linear layers --------------------------------------------------------------------

    def linear(self, place: str, matrix: Linear, x: Tensor) -> Tensor:
        """A matrix, with its adapter where it has one."""
        name = f"{place}.{matrix.name}"
        if matrix.name in self.adapted:
            return self._adapted(name, matrix, x)
        return self._base(name, matrix, x)

    def _base(self, name: str, matrix: Linear, x: Tensor) -> Tensor:
        if self.workload.recipe.quantization is not None:
            return self._quantized(matrix, x)
        weight = self.parameter(name, matrix.weight_params, matrix=True)
        bias = self.parameter(f"{name}.bias", matrix.out_features) if matrix.bias else None
        return self.product(weight, x, matrix.out_features, matrix.name, bias)

    def product(
        self,
        weight: Parameter,
        x: Tensor,
        out_features: int,
        name: str,
        bias: Parameter | None = None,
    ) -> Tensor:
        """``F.linear``, its operands cast first under autocast."""
        matrix: Tensor = weight
        if self.numerics.autocast:
            width = self.numerics.compute
            x = ops.cast(self.tape, x, width, f"{name}: input cast")
            if weight.width != width:
                matrix = self._cast_weight(weight, f"{name}: weight cast")
            if bias is not None and bias.width != width and bias.trains:
                self._cast_weight(bias, f"{name}: bias cast")
        bias = bias if bias is not None and bias.trains else None
        return ops.linear(self.tape, x, matrix, out_features=out_features, bias=bias, name=name)

    def _cast_weight(self, weight: Parameter, name: str) -> Tensor:
        width = self.numerics.compute
        if not weight.trains:
            return ops.cast(self.tape, weight, width, name)
        return self.tape.cast_once(weight, lambda x: ops.cast(self.tape, x, width, name))

    def _quantized(self, matrix: Linear, x: Tensor) -> Tensor:
        """bitsandbytes' Linear4bit.forward: in the compute dtype, and back to the input's."""
        width = x.width
        x = ops.cast(self.tape, x, self.numerics.compute, f"{matrix.name}: input cast")
        output = ops.quantized_linear(
            self.tape,
            x,
            in_features=matrix.in_features,
            out_features=matrix.out_features,
            name=matrix.name,
        )
        return ops.cast(self.tape, output, width, f"{matrix.name}: output cast")

    def _adapted(self, name: str, matrix: Linear, x: Tensor) -> Tensor:
        """peft's lora.Linear and lora.Linear4bit, forward."""
        adapter = self.workload.recipe.adapter
        assert adapter is not None
        quantized = self.workload.recipe.quantization is not None
        rank, tape = adapter.rank, self.tape
        result = self._base(name, matrix, x)
        expected = result.width
        if quantized:
            result = ops.contiguous(tape, result, "clone")
        if not quantized or not self._autocast_is_seen_by_peft:
            x = ops.cast(tape, x, self.numerics.trainable, "adapter's input in its dtype")
        a = self.parameter(f"{name}.lora_A", rank * matrix.in_features, adapter=True)
        b = self.parameter(f"{name}.lora_B", rank * matrix.out_features, adapter=True)
        output = self._adapter_output(x, a, b, rank, matrix.out_features)
        if quantized and not self._autocast_is_seen_by_peft:
            output = ops.cast(tape, output, expected)
        result = ops.add(tape, result, output, f"{matrix.name} with its adapter")
        return ops.cast(tape, result, expected)

    def _adapter_output(
        self, x: Tensor, a: Parameter, b: Parameter, rank: int, out_features: int
    ) -> Tensor:
        """``lora_B(lora_A(dropout(x))) * scaling``."""
        adapter = self.workload.recipe.adapter
        if adapter is not None and adapter.dropout > 0:
            x = ops.dropout(self.tape, x, device=self.batch.device)
        down = self.product(a, x, rank, "lora_A")
        del x
        up = self.product(b, down, out_features, "lora_B")
        del down
        return ops.unary(self.tape, up, "scaled adapter output")

    @property
    def _autocast_is_seen_by_peft(self) -> bool:
        """read: peft/tuners/lora/bnb.py at 0.21.2: it asks for CUDA's autocast alone."""
        return self.numerics.autocast and self.batch.device == "cuda"

    def rotary_tables(self, width: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, made once for all layers."""
        model = self.workload.model
        elements = self.batch.sequence_length * int(model.head_dim * model.rotary_fraction)
        cos = self.tape.new(elements, width, "rotary cosines")
        return cos, self.tape.new(elements, width, "rotary sines")

    # --- parts of a layer -----------------------------------------------------------------

    def norm(self, name: str, x: Tensor, size: int | None = None) -> Tensor:
        """LlamaRMSNorm.forward, over ``size`` elements where it is not the hidden size."""
        tape, width = self.tape, x.width
        label = name.rpartition(".")[2]
        size = size or self.workload.model.hidden_size
        x = ops.cast(tape, x, ops.FP32, f"{label}: input in fp32")
        variance = ops.mean_square(tape, x, rows=x.elements // size)
        x = ops.mul(tape, x, ops.reciprocal_root(tape, variance), f"{label}: normalised in fp32")
        weight = self.parameter(name, size)
        return ops.mul(tape, weight, ops.cast(tape, x, width), f"{label}: output")

    def attention(
        self, place: str, x: Tensor, tables: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """LlamaAttention.forward; a fused projection is held to its end, as in Phi-3's."""
        _whole, q, k, v = self._projected(place, x)
        q, k = self.rotated(q, k, tables)
        attended, weights = self.attend(q, k, v)
        return self.linear(place, self.matrices["o_proj"], attended), weights

    def _projected(self, place: str, x: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Query, key and value; before them the tensor that they are parts of, if any."""
        model, matrices = self.workload.model, self.matrices
        if model.fused_qkv:
            whole = self.linear(place, matrices["qkv_proj"], x)
            sizes = (model.query_size, model.key_value_size, model.key_value_size)
            q, k, v = (ops.slice_of(self.tape, whole, self.batch.tokens * n) for n in sizes)
            return whole, q, k, v
        q = self.linear(place, matrices["q_proj"], x)
        if model.qk_norm:
            q = self.norm(f"{place}.q_norm", q, model.head_dim)
        k = self.linear(place, matrices["k_proj"], x)
        if model.qk_norm:
            k = self.norm(f"{place}.k_norm", k, model.head_dim)
        return None, q, k, self.linear(place, matrices["v_proj"], x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output, and the weights where they are whole."""
        model, batch = self.workload.model, self.batch
        shape = HeadShape(
            batch=batch.micro_batch_size,
            length=batch.sequence_length,
            heads=model.num_attention_heads,
            key_value_heads=model.num_key_value_heads,
            head_dim=model.head_dim,
        )
        if self.workload.recipe.attention == "eager":
            return eager_attention(self.tape, q, k, v, shape=shape, device=batch.device)
        return self._fused(q, k, v, shape), None

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, shape: HeadShape) -> Tensor:
        """sdpa_attention_forward: with a mask every query head has its own keys and values."""
        tape, batch, bias = self.tape, self.batch, None
        grouped = shape.heads != shape.key_value_heads
        if grouped and self.numerics.grouped_heads == "math" and not batch.masked:
            return math_attention(tape, q, k, v, shape=shape, device=batch.device)
        if batch.masked or self.numerics.grouped_heads == "copied":
            times = shape.heads // shape.key_value_heads
            k, v = ops.repeat_heads(tape, k, times), ops.repeat_heads(tape, v, times)
            shape = replace(shape, key_value_heads=shape.heads)
        if self.numerics.autocast:
            width = self.numerics.compute
            q, k, v = (ops.cast(tape, x, width, "16-bit operand of attention") for x in (q, k, v))
        if batch.masked:
            bias = tape.new(batch.scores, q.width, "attention mask as a bias")
        attended = fused_attention(tape, q, k, v, bias, shape=shape, device=batch.device)
        if self.workload.model.rotary != "halves":
            attended = ops.contiguous(tape, attended, "attention output, made contiguous")
        return attended

    def rotated(self, q: Tensor, k: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """apply_rotary_pos_emb, of Llama, Phi-3 and GLM."""
        cos, sin = tables
        if self.workload.model.rotary == "halves":
            return self._rotate(q, cos, sin), self._rotate(k, cos, sin)
        if self.workload.model.rotary == "joined":
            return self._joined(q, cos, sin, "query"), self._joined(k, cos, sin, "key")
        tape, share = self.tape, self.workload.model.rotary_fraction
        cos = tape.new(cos.elements, cos.width, "cosines, interleaved")
        sin = tape.new(sin.elements, sin.width, "sines, interleaved")
        q_turned = self._rotate(self._part(q, share), cos, sin)
        k_turned = self._rotate(self._part(k, share), cos, sin)
        q = ops.concatenate(tape, (q_turned, self._part(q, 1 - share)), "query, rotated")
        k = ops.concatenate(tape, (k_turned, self._part(k, 1 - share)), "key, rotated")
        return q, k

    def _joined(self, x: Tensor, cos: Tensor, sin: Tensor, name: str) -> Tensor:
        """Phi-3's: a slice of the whole is the tensor itself, one of nothing is still a node."""
        share = self.workload.model.rotary_fraction
        turning = x if share == 1 else self._part(x, share)
        passed = self._part(x, 1 - share)
        return ops.concatenate(
            self.tape, (self._rotate(turning, cos, sin), passed), f"{name}, rotated"
        )

    def _part(self, x: Tensor, share: float) -> Tensor:
        return ops.slice_of(self.tape, x, int(x.elements * share))

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``x * cos + rotate_half(x) * sin``."""
        straight = ops.mul(self.tape, x, cos, "rotary: x cos")
        crossed = ops.mul(self.tape, self._half_turned(x), sin, "rotary: half turned x sin")
        return ops.add(self.tape, straight, crossed, "rotated")

    def _half_turned(self, x: Tensor) -> Tensor:
        first = ops.slice_of(self.tape, x, x.elements // 2)
        second = ops.slice_of(self.tape, x, x.elements // 2)
        negated = ops.unary(self.tape, second, "negated half")
        return ops.concatenate(self.tape, (negated, first), "half turned")

    def mlp(self, place: str, x: Tensor) -> Tensor:
        """LlamaMLP.forward; GlmMLP.forward where one matrix holds gate and up."""
        tape, matrices = self.tape, self.matrices
        down = matrices["down_proj"]
        if self.workload.model.mlp == "fused-swiglu":
            both = self.linear(place, matrices["gate_up_proj"], x)
            gate, up = self._part(both, 0.5), self._part(both, 0.5)
            up = ops.mul(tape, up, ops.unary(tape, gate, "silu(gate)", saves_input=True), "swiglu")
            return self.linear(place, down, up)
        activated = ops.unary(
            tape, self.linear(place, matrices["gate_proj"], x), "silu(gate)", saves_input=True
        )
        up = self.linear(place, matrices["up_proj"], x)
        product = ops.mul(tape, activated, up, "swiglu")
        del activated, up
        return self.linear(place, down, product)

    def layer(self, place: str, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """LlamaDecoderLayer.forward; Glm4DecoderLayer.forward where norms are around."""
        around = self.workload.model.norms == "around"
        residual = x
        x = self.norm(f"{place}.input_layernorm", x)
        x, _weights = self.attention(place, x, tables)
        if around:
            x = self.norm(f"{place}.post_self_attn_layernorm", x)
        x = ops.add(self.tape, residual, x, "residual after attention")
        residual = x
        x = self.norm(f"{place}.post_attention_layernorm", x)
        x = self.mlp(place, x)
        if around:
            x = self.norm(f"{place}.post_mlp_layernorm", x)
        return ops.add(self.tape, residual, x, "residual after the MLP")
