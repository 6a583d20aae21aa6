"""A model's weights on a tape of sizes, and its linear layers with their adapters.

Each function mirrors the module that its docstring names, variable by variable, since a variable
that a module still holds is memory. What differs between models is data of :class:`ModelSpec`; what
differs between trainers is :class:`Numerics`. The layers that are made of these are in
planner/forward/decoder_layers.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct, field

from planner.base.units import FP32_BYTES
from planner.forward.dora import DoraTensors, dora
from planner.forward.int8_linear import int8_linear
from planner.forward.recurrent.kept_states import state_width
from planner.models.expert_shape import ExpertsSpec
from planner.models.layer_kinds import LayerKind
from planner.models.linear import Linear
from planner.models.recurrent_shape import Recurrence
from planner.tape import operators as ops
from planner.tape.tape import Tape
from planner.tape.tensors import Parameter, Storage, Tensor
from planner.workload.dtypes import Numerics
from planner.workload.parameters import TRANSPOSED
from planner.workload.workload import Batch, Workload


class Layer(Struct, frozen=True):
    """One layer: the prefix of its weights' names, such as ``layers.3``, and its kind."""

    place: str
    kind: LayerKind


class KeysAndValues(Struct, frozen=True):
    """Keys and values that several layers attend to."""

    keys: Tensor
    values: Tensor
    graph: list[Storage]
    """What their graph holds of a layer that was run again."""


SharedKeys = dict[int | None, KeysAndValues]
"""Keys and values that several layers attend to, by the window of these layers."""


class Decoder(Struct, kw_only=True, eq=False):
    """One model on one rank, ready to run a micro-batch on a tape."""

    workload: Workload
    batch: Batch
    numerics: Numerics
    tape: Tape
    weights: dict[str, Parameter] = field(default_factory=dict)
    matrices: dict[LayerKind, dict[str, Linear]] = field(default_factory=dict)
    adapted: frozenset[str] = frozenset()
    """Keys of the matrices that carry an adapter."""
    per_layer_inputs: Tensor | None = None
    """Vectors of all layers that gate their outputs, once they are made."""
    shared_keys: SharedKeys = field(default_factory=dict)
    """Keys and values that several layers attend to, while a layer runs."""
    cache: list[Tensor] | None = None
    """Keys and values that generation keeps; None where it does not generate."""
    beside: Tensor | None = None
    """Tensor that a layer returns beside its output, until :meth:`taken_beside` takes it."""
    _token_mask: Tensor | None = None

    def __post_init__(self) -> None:
        model = self.workload.model
        self.matrices = {
            kind: {matrix.key: matrix for matrix in model.linears(kind)} for kind in model.kinds
        }
        self.adapted = frozenset(
            matrix.key for kind in model.kinds for matrix in self.workload.adapted(kind)
        )

    # --- weights --------------------------------------------------------------------------

    @property
    def trains_all(self) -> bool:
        """Whether every parameter trains."""
        return self.workload.method == "full"

    def parameter(
        self, name: str, elements: int, *, adapter: bool = False, matrix: bool = False
    ) -> Parameter:
        """Return the weight of that name, made once: autocast casts a weight once per
        forward pass."""
        if name not in self.weights:
            trains = adapter or self.trains_all
            frozen = self.numerics.frozen if matrix else self.numerics.outside
            width = self.numerics.trainable if trains else frozen
            self.weights[name] = Parameter(elements, width, trains=trains)
        return self.weights[name]

    def kept_parameter(self, layer: Layer, name: str, elements: int) -> Parameter:
        """Return a weight that transformers keeps in fp32."""
        name = f"{layer.place}.{name}"
        if name not in self.weights:
            trains = self.trains_all
            width = self.numerics.trainable if trains else self.numerics.kept
            self.weights[name] = Parameter(elements, width, trains=trains)
        return self.weights[name]

    def expert_parameter(self, layer: Layer, name: str, elements: int) -> Parameter:
        """Return a weight of the router or of all experts that is not quantized: it is not an
        ``nn.Linear``."""
        quantized = self.workload.settings.quantization is not None
        return self.parameter(f"{layer.place}.{name}", elements, matrix=not quantized)

    @contextmanager
    def sharing(self, keys: SharedKeys) -> Iterator[None]:
        """Have the layer inside the block read and store shared keys and values in ``keys``, which
        the decoder itself does not hold."""
        self.shared_keys = keys
        try:
            yield
        finally:
            self.shared_keys = {}

    def taken_beside(self) -> Tensor | None:
        """Return what the layer that has run returns beside its output, and hold it no longer: the
        loop over layers does while the next one runs."""
        taken, self.beside = self.beside, None
        return taken

    def own_mixture(self, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor | None:
        """Return the output of a mixture of experts that is written otherwise than transformers'
        of today; None where it is that one."""
        return None

    # --- linear layers --------------------------------------------------------------------

    def linear(self, layer: Layer, role: str, x: Tensor, *, by_channel: bool = False) -> Tensor:
        """Return the product with the layer's matrix of that role, with its adapter where it has
        one. ``by_channel`` says that the input's tokens are no rows but columns of each sample."""
        matrix = self.matrices[layer.kind][role]
        name = f"{layer.place}.{role}"
        copies = by_channel and self.batch.micro_batch_size > 1
        if role in self.adapted:
            return self._adapted(name, matrix, x, copies=copies)
        return self._base(name, matrix, x, copies=copies)

    def outside_linear(self, role: str, x: Tensor) -> Tensor:
        """Return the product with the matrix of that role that is in no layer."""
        matrix = next(each for each in self.workload.model.outside_linears if each.key == role)
        if matrix in self.workload.adapted_outside:
            return self._adapted(role, matrix, x)
        return self._base(role, matrix, x)

    def _base(self, name: str, matrix: Linear, x: Tensor, *, copies: bool = False) -> Tensor:
        if self.workload.settings.quantization is not None and not matrix.whole:
            return self._quantized(matrix, x)
        if self.workload.tensor_ranks > 1:
            return self._cut(name, matrix, x)
        weight = self.parameter(name, matrix.weight_params, matrix=True)
        bias = self.parameter(f"{name}.bias", matrix.out_features) if matrix.bias else None
        return self.product(
            weight,
            x,
            matrix.out_features,
            matrix.name,
            bias,
            cached=self.workload.model.model_type != "falcon",
            is_transposed=self.workload.model.model_type in TRANSPOSED,
            copies=copies,
        )

    def _cut(self, name: str, matrix: Linear, x: Tensor) -> Tensor:
        """Return the product of one of several ranks with its part of a matrix.

        read: transformers at 5.23.0, distributed/tensor_parallel.py, ColwiseParallel and
        RowwiseParallel.
        """
        from planner.tape.collectives import gathered, parted, shared, summed  # only what is cut
        from planner.workload.tensor_slice import COLUMNS, ROWS, CutLinear

        tape, ranks, outputs = self.tape, self.workload.tensor_ranks, matrix.out_features
        if isinstance(matrix, CutLinear):
            outputs, _inputs = matrix.shape
        if matrix.key in COLUMNS:
            x = shared(tape, x, matrix.name)
        elif isinstance(matrix, CutLinear):
            x = parted(tape, x, ranks, f"{matrix.name}'s input")
        weight = self.parameter(name, matrix.weight_params, matrix=True)
        bias = self.parameter(f"{name}.bias", outputs) if matrix.bias else None
        output = self.product(weight, x, outputs, matrix.name, bias, is_cut=True)
        del x
        if matrix.key in ROWS:
            return summed(tape, output, matrix.name)
        whole = outputs == matrix.out_features
        return output if whole else gathered(tape, output, ranks, matrix.name)

    def _cut_parts(self, matrix: Linear) -> tuple[bool, bool]:
        """Return whether one of several ranks has a part of an adapter's A, whose products with
        parts of an input are summed, and of its B, whose input is whole; between a whole input and
        a whole output of the matrix the adapter is whole."""
        if self.workload.tensor_ranks == 1:
            return False, False
        from planner.workload.tensor_slice import COLUMNS, ROWS, CutLinear  # only what is cut

        cut = not isinstance(matrix, CutLinear)
        return cut and matrix.key in ROWS, cut and matrix.key in COLUMNS

    def product(
        self,
        weight: Tensor,
        x: Tensor,
        out_features: int,
        name: str,
        bias: Parameter | None = None,
        *,
        cached: bool = True,
        is_transposed: bool = False,
        copies: bool = False,
        is_cut: bool = False,
    ) -> Tensor:
        """Mirror ``F.linear``, whose operands are cast first under autocast, which keeps a leaf's
        cast; ``weight.T`` of a FalconLinear is not a leaf, nor without a graph is a rank's part of
        a weight that is cut (transformers/distributed/tensor_parallel.py at 5.23.0,
        should_use_local_tensors). ZeRO-3 replaces it, but not the
        ``addmm`` of a Conv1D, whose matrix is transposed. A weight that trains ``copies`` an input
        that has no rows, so that one product has all samples.

        read: aten/src/ATen/native/LinearAlgebra.cpp at 2.13, should_fold.
        """
        matrix: Tensor = weight
        has_leaves = not (is_cut and self.tape.without_graph)
        added: Tensor | None = bias if bias is not None and bias.trains else None
        if self.numerics.autocast:
            width = self.numerics.compute
            x = ops.cast(self.tape, x, width, f"{name}: input cast")
            if weight.width != width:
                kept = cached and has_leaves
                matrix = self.cast_weight(weight, f"{name}: weight cast", cached=kept)
            if bias is not None and bias.width != width and bias.trains:
                added = self.cast_weight(bias, f"{name}: bias cast", cached=has_leaves)
        if copies and weight.node is not None:
            x = ops.contiguous(self.tape, x, f"{name}: input copied into rows")
        return ops.linear(
            self.tape,
            x,
            matrix,
            out_features=out_features,
            bias=added,
            name=name,
            keeps_input=self.numerics.keeps_linear_inputs and not is_transposed,
        )

    def cast_weight(self, weight: Tensor, name: str, *, cached: bool = True) -> Tensor:
        """Return the weight in the compute precision; autocast keeps the copies of leaves that
        train until it ends."""
        width = self.numerics.compute
        if not cached or not isinstance(weight, Parameter) or not weight.trains:
            return ops.cast(self.tape, weight, width, name)
        return self.tape.cast_once(weight, lambda x: ops.cast(self.tape, x, width, name))

    def _quantized(self, matrix: Linear, x: Tensor) -> Tensor:
        """Mirror bitsandbytes' Linear8bitLt.forward; its Linear4bit.forward multiplies in the
        compute dtype and goes back to the input's."""
        width = x.width
        if self._in_int8:
            is_half = self.workload.compute == "fp16" and width == self.numerics.compute
            return int8_linear(self.tape, x, matrix, batch=self.batch, is_half=is_half)
        x = ops.cast(self.tape, x, self.numerics.compute, f"{matrix.name}: input cast")
        output = ops.quantized_linear(
            self.tape,
            x,
            in_features=matrix.in_features,
            out_features=matrix.out_features,
            name=matrix.name,
        )
        return ops.cast(self.tape, output, width, f"{matrix.name}: output cast")

    def _adapted(self, name: str, matrix: Linear, x: Tensor, *, copies: bool = False) -> Tensor:
        """Mirror peft's lora.Linear, lora.Linear4bit and lora.Linear8bitLt, forward."""
        adapter = self.workload.settings.adapter
        assert adapter is not None
        quantized = self.workload.settings.quantization is not None
        rank, tape = adapter.rank, self.tape
        result = self._base(name, matrix, x, copies=copies)
        expected = result.width
        if quantized and not self._in_int8:
            result = ops.contiguous(tape, result, "clone")
        if adapter.vera:
            result = ops.cast(tape, self._with_vera(name, matrix, x, result), expected)
            return ops.cast(tape, result, x.width)
        if not quantized or not self._autocast_is_seen_by_peft:
            x = ops.cast(tape, x, self.numerics.trainable, "adapter's input in its dtype")
        a = self.parameter(f"{name}.lora_A", rank * matrix.in_features, adapter=True)
        b = self.parameter(f"{name}.lora_B", rank * matrix.out_features, adapter=True)
        if adapter.dora:
            result = self._with_dora(name, matrix, x, result, a, b)
            converts = not quantized or not self._autocast_is_seen_by_peft
            return ops.cast(tape, result, expected) if converts else result
        output = self._adapter_output(x, a, b, matrix, copies=copies)
        if quantized and not self._autocast_is_seen_by_peft:
            output = ops.cast(tape, output, expected)
        result = ops.add(tape, result, output, f"{matrix.name} with its adapter")
        return ops.cast(tape, result, expected)

    def _adapter_output(
        self, x: Tensor, a: Parameter, b: Parameter, matrix: Linear, *, copies: bool
    ) -> Tensor:
        """Return ``lora_B(lora_A(dropout(x))) * scaling``."""
        adapter = self.workload.settings.adapter
        assert adapter is not None
        if adapter.dropout > 0:
            x = ops.dropout(self.tape, x, device=self.batch.device)
        cuts_a, cuts_b = self._cut_parts(matrix)
        down = self.product(a, x, adapter.rank, "lora_A", copies=copies, is_cut=cuts_a)
        del x
        if cuts_a or cuts_b:
            from planner.tape.collectives import shared, summed  # only layers that are cut need it

            between = summed if cuts_a else shared
            down = between(self.tape, down, matrix.name)
        up = self.product(b, down, matrix.out_features, "lora_B", is_cut=cuts_b)
        del down
        return ops.unary(self.tape, up, "scaled adapter output")

    def _with_vera(self, name: str, matrix: Linear, x: Tensor, result: Tensor) -> Tensor:
        """Mirror peft's vera.Linear.forward (peft/tuners/vera/layer.py at 0.21.2), where what is
        shared has the dtype in which it is multiplied (launcher/training/model_building.py)."""
        adapter, tape = self.workload.settings.adapter, self.tape
        assert adapter is not None
        b = self.parameter(f"{name}.vera_lambda_b", matrix.out_features, adapter=True)
        d = self.parameter(f"{name}.vera_lambda_d", adapter.rank, adapter=True)
        x = ops.cast(tape, x, self.numerics.trainable, "adapter's input in its dtype")
        sides = (matrix.in_features, matrix.out_features)
        first, last = (
            self._vera_matrix(number).viewed(side * adapter.rank)
            for number, side in enumerate(sides)
        )
        entering = ops.dropout(tape, x, device=self.batch.device) if adapter.dropout > 0 else x
        down = self.product(first, entering, adapter.rank, "vera_A")
        del entering
        scaled = ops.mul(tape, d, down, "d x the product with A", on_rows=self.batch.device)
        del down
        up = self.product(last, scaled, matrix.out_features, "vera_B")
        del scaled
        output = ops.mul(tape, b, up, "b x the product with B", on_rows=self.batch.device)
        del up
        return ops.add(tape, result, output, f"{matrix.name} with its adapter")

    def _vera_matrix(self, number: int) -> Parameter:
        """Return the one or the other of VeRA's frozen matrices."""
        name = ("vera_A", "vera_B")[number]
        if name not in self.weights:
            elements = self.workload.shared_matrices[number]
            self.weights[name] = Parameter(elements, self.numerics.shared, trains=False)
        return self.weights[name]

    def _with_dora(
        self, name: str, matrix: Linear, x: Tensor, result: Tensor, a: Parameter, b: Parameter
    ) -> Tensor:
        """Mirror peft's DoraLinearVariant.forward."""
        settings = self.workload.settings
        assert settings.adapter is not None
        magnitude = self.parameter(f"{name}.magnitude", matrix.out_features, adapter=True)
        drops = settings.adapter.dropout > 0
        if drops:
            x = ops.dropout(self.tape, x, device=self.batch.device)
        output = dora(
            self.tape,
            x,
            None if drops else result,
            self._whole_weight(name, matrix),
            matrix=matrix,
            adapter=DoraTensors(a=a, b=b, magnitude=magnitude, rank=settings.adapter.rank),
            product=self.product,
            device=self.batch.device,
        )
        return ops.add(self.tape, result, output, f"{matrix.name} with its adapter")

    def _whole_weight(self, name: str, matrix: Linear) -> Tensor:
        """Mirror peft's dequantize_module_weight."""
        if self.workload.settings.quantization is None:
            return self.parameter(name, matrix.weight_params, matrix=True)
        _scales, weight = ops.dequantized(self.tape, matrix.weight_params, self.numerics.compute)
        return weight

    @property
    def _in_int8(self) -> bool:
        quantization = self.workload.settings.quantization
        return quantization is not None and quantization.quant_type == "int8"

    @property
    def _autocast_is_seen_by_peft(self) -> bool:
        """Whether peft sees autocast: it asks only for CUDA's; read: peft/tuners/lora/bnb.py at
        0.21.2."""
        return self.numerics.autocast and self.batch.device == "cuda"

    def cached(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Mirror DynamicLayer.update, which joins keys and values to the ones that it has: to none
        in a prompt, which have the keys' dtype, so that values are as wide. Of a window's layer
        it keeps a view, and so all of them."""
        if self.cache is None:
            return key, value
        width = max(key.width, value.width)
        key = self.tape.new(key.elements, key.width, "keys of the prompt")
        value = self.tape.new(value.elements, width, "values of the prompt")
        self.cache += [key, value]
        return key, value

    def keep_state(self, shape: Recurrence) -> None:
        """Make what generation keeps of a layer with a recurrence: its state, and the last inputs
        of its convolution."""
        if self.cache is None:
            return
        width = self.numerics.compute if self.numerics.autocast else self.numerics.residual
        mixed = shape.convolved_size * shape.kernel_size
        self.cache += [
            self.tape.new(
                shape.state_elements, state_width(shape, self.numerics), "state of the recurrence"
            ),
            self.tape.new(mixed, width, "last inputs of the convolution"),
        ]

    def residual_dropout(self, x: Tensor) -> Tensor:
        """Return ``x`` through the model's dropout of what a layer adds to the residual stream."""
        if not self.workload.model.residual_dropout:
            return x
        return ops.dropout(self.tape, x, device=self.batch.device)

    @property
    def token_mask(self) -> Tensor:
        """The batch's mask of padded tokens, made once."""
        if self._token_mask is None:
            name = "attention mask of the tokens"
            self._token_mask = self.tape.new(self.batch.tokens, ops.INT64, name)
        return self._token_mask

    @property
    def residual_width(self) -> int:
        """Bytes per element of the embeddings, and so of masks that are added to scores."""
        return self.numerics.trainable if self.trains_all else self.numerics.outside

    @property
    def pow_width(self) -> int | None:
        """Bytes per element of powers and of softplus under CUDA's autocast, which takes them in
        fp32; None elsewhere, where they keep their dtype.

        read: aten/src/ATen/autocast_mode.h at 2.13, AT_FORALL_FP32.
        """
        on_cuda = self.numerics.autocast and self.batch.device == "cuda"
        return FP32_BYTES if on_cuda else None

    @property
    def sum_width(self) -> int | None:
        """The same of sums; read: AT_FORALL_FP32_SET_OPT_DTYPE."""
        return self.pow_width

    def masked(self, kind: LayerKind) -> bool:
        """Return whether attention takes a mask: samples are padded, or the window is exceeded.
        FalconModel.forward always makes one, as an indexer does, and Gemma4UnifiedModel.forward."""
        window, latent = kind.sliding_window, self.workload.model.latent
        if self.workload.model.model_type in ("falcon", "gemma4_unified"):
            return True
        if latent is not None and latent.indexer is not None:
            return True
        return self.batch.masked or (window is not None and self.batch.sequence_length >= window)

    def rotary_tables(self, width: int) -> dict[LayerKind, tuple[Tensor, Tensor] | None]:
        """Return cosines and sines by the kind of layer, shared by all kinds unless they differ;
        None where nothing rotates."""
        kinds = self.workload.model.kinds
        if self.workload.model.positions != "rotary":
            return dict.fromkeys(kinds)
        if self.workload.model.local_rotary:
            by_window = {kind.sliding_window: self._rotary_tables(width, kind) for kind in kinds}
            return {kind: by_window[kind.sliding_window] for kind in kinds}
        return dict.fromkeys(kinds, self._rotary_tables(width, next(iter(kinds))))

    def _rotary_tables(self, width: int, kind: LayerKind) -> tuple[Tensor, Tensor]:
        model, head_dim = self.workload.model, self.workload.model.heads(kind).head_dim
        if model.rotary in ("halves-fp32", "products-fp32"):
            width = FP32_BYTES
        elements = self.batch.sequence_length * int(head_dim * model.rotary_fraction)
        if model.rotary == "split":
            elements //= 2
        if model.rotary == "complex":
            table = self.tape.new(elements, FP32_BYTES, "rotary frequencies")
            return table, table
        return self._cosines_and_sines(elements, width)

    def _cosines_and_sines(self, elements: int, width: int) -> tuple[Tensor, Tensor]:
        """Mirror LlamaRotaryEmbedding.forward, which works in fp32, and scales each table."""
        tape, name = self.tape, "rotary tables in fp32"
        _half = tape.new(elements // 2, FP32_BYTES, "rotary angles of half a head")
        _angles = tape.new(elements, FP32_BYTES, "rotary angles")
        cos = tape.new(elements, FP32_BYTES, name)
        cos = tape.new(elements, FP32_BYTES, "rotary cosines")
        sin = tape.new(elements, FP32_BYTES, name)
        sin = tape.new(elements, FP32_BYTES, "rotary sines")
        if width < FP32_BYTES:
            cos, sin = (tape.new(elements, width, f"rotary {x}") for x in ("cosines", "sines"))
        return cos, sin
