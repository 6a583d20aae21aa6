"""Forward and backward pass of a whole model on a tape, as LlamaForCausalLM runs."""

from collections.abc import Sequence

from msgspec import Struct, structs

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer, SharedKeys
from planner.forward.decoder_layers import decoder_layer
from planner.forward.embeddings import embedded
from planner.forward.gemma4 import part_of_a_layer, per_layer_inputs
from planner.forward.latent_attention import HANDS_ON_CHOSEN
from planner.forward.loss import cross_entropy, fused_loss
from planner.forward.norms import norm
from planner.forward.rotary import Tables
from planner.models.layer_kinds import LayerKind
from planner.models.model_spec import ModelSpec
from planner.tape import operators as ops
from planner.tape.operators import INT64, cast, unary
from planner.tape.tape import GradientSink, Tape
from planner.tape.tensors import Parameter, Tensor
from planner.workload.dtypes import Numerics
from planner.workload.workload import Batch, Workload

WINDOW_OF_NOTHING = frozenset({"qwen2_moe"})
"""Architectures that make a mask of a window of no tokens where no layer has a window.

read: transformers/models/qwen2_moe/modeling_qwen2_moe.py and configuration_qwen2_moe.py at 5.23.
"""

MASK_AS_INPUT = frozenset({"gpt2"})
"""Architectures whose layers get the mask by its place among the arguments, as hidden states are,
and not by its name: checkpointing saves it for each layer.

read: transformers/models/gpt2/modeling_gpt2.py at 5.23, GPT2Model.forward.
"""


GIVES_LAST_TOKEN = frozenset({"gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"})
"""Architectures whose layers with shared keys are given the last token of a prompt alone.

read: transformers/models/gemma4/modeling_gemma4.py at 5.23, _maybe_slice_kv_shared_inputs.
"""


class PassedLayer(Struct, frozen=True):
    """One layer of a pass: its kind, and whether its activations are recomputed."""

    kind: LayerKind
    recomputed: bool


def passed_layers(model: ModelSpec, checkpointing: int) -> list[PassedLayer]:
    """Return all layers in order, every ``checkpointing``-th recomputed, from the first on; none
    where it is 0.

    read: transformers/modeling_utils.py at 5.23, _set_gradient_checkpointing.
    """
    return [
        PassedLayer(kind, checkpointing > 0 and number % checkpointing == 0)
        for number, kind in enumerate(model.layers)
    ]


class ModelPass:
    """Forward and backward pass of one micro-batch through the given layers."""

    def __init__(
        self,
        workload: Workload,
        batch: Batch,
        numerics: Numerics,
        *,
        layers: Sequence[PassedLayer],
        sink: GradientSink,
        reduce_bucket_size: int = 0,
        trains: bool = True,
        generates: bool = False,
        decoder: type[Decoder] = Decoder,
        tape: type[Tape] = Tape,
    ) -> None:
        """Run the pass: forward alone, and without a graph, unless it ``trains``; where it
        ``generates``, up to the logits of the token after a prompt.

        Without layers only what is outside of them runs, and the embeddings get a gradient as the
        last layer's output does.
        """
        self._workload = workload
        self._batch = batch
        self._layers = layers
        self.tape = tape(
            sink=sink,
            reduce_bucket_size=reduce_bucket_size,
            fp16=workload.compute == "fp16",
            without_graph=not trains,
        )
        self._decoder = decoder(workload=workload, batch=batch, numerics=numerics, tape=self.tape)
        self._decoder.cache = [] if generates else None
        self._leaf_inputs = not layers or any(layer.recomputed for layer in layers)
        self._numerics = numerics
        self._trains = trains
        self._held: list[Tensor] = []
        output = self._forward()
        self.casts_gone = self.tape.autocast_ends()
        """Positions in the log where autocast has dropped each layer's casts."""
        if trains:
            self.tape.backward(output, self.tape.new(1, FP32_BYTES, "gradient of the loss"))
        self.backward_ends = len(self.tape.log)
        """Position in the log after which the training loop lets go of the model's output."""
        self._held.clear()
        self.tape.leaf_gradients.clear()
        self.decoder = self._decoder
        self.weights = self._decoder.weights

    def _forward(self) -> Tensor:
        tape, model, batch = self.tape, self._workload.model, self._batch
        _inputs = self._inputs()
        table = self._decoder.parameter("embed_tokens", model.embedding_params)
        x = self._backbone(table)
        tape.loss_begins()
        head, bias = table, None
        if not model.tied_embeddings:
            head = self._decoder.parameter("lm_head", model.embedding_params)
        if model.head_bias:
            bias = self._decoder.parameter("lm_head.bias", model.vocab_size)
        if self._decoder.cache is not None:
            return self._next_token(head, bias, x)
        if self._workload.loss == "fused" and self._workload.tensor_ranks > 1:
            from planner.tape.collectives import whole_rows  # only layers that are cut need it

            whole = whole_rows(tape, head, self._workload.tensor_ranks, "lm_head")
            return fused_loss(tape, x, whole, bias, batch=batch, numerics=self._numerics)
        if self._workload.loss == "fused":
            return fused_loss(tape, x, head, bias, batch=batch, numerics=self._numerics)
        return self._stock_loss(head, bias, x)

    def _stock_loss(self, head: Parameter, bias: Parameter | None, x: Tensor) -> Tensor:
        tape, batch, model = self.tape, self._batch, self._workload.model
        given = unary(tape, x, "last hidden states, scaled") if model.scaled_blocks else x
        logits = self._logits(head, bias, given)
        if self._numerics.cross_entropy == "logits shifted in fp32":
            logits = cast(tape, logits, FP32_BYTES, "logits in fp32")
        scored = logits
        if self._numerics.cross_entropy == "logits shifted in an fp32 copy":
            scored = cast(tape, logits, FP32_BYTES, "logits in fp32")
        loss = cross_entropy(tape, scored, batch=batch, numerics=self._numerics)
        del scored
        if self._numerics.output_in_fp32:
            logits = cast(tape, logits, FP32_BYTES, "logits of the output in fp32")
        if self._numerics.keeps_logits:
            self._held.append(logits.detached())
        return loss

    def _inputs(self) -> list[Tensor]:
        """Return token ids, labels and the mask of padded tokens, which recurrent layers save."""
        tokens, name = self._batch.tokens, "token ids, labels and attention mask"
        if self._workload.model.recurrence is None:
            return [self.tape.new(3 * tokens, INT64, name)]
        return [self.tape.new(2 * tokens, INT64, name), self._decoder.token_mask]

    def _logits(self, head: Parameter, bias: Parameter | None, x: Tensor) -> Tensor:
        """Return the head's output; Granite divides it, Cohere multiplies it, Gemma 2 caps it,
        Nemotron-H has it in fp32."""
        tape, model = self.tape, self._workload.model
        if model.residual_in_fp32:
            x = cast(tape, x, head.width, "hidden states in the head's dtype")
        ranks = self._workload.tensor_ranks
        if ranks > 1:
            from planner.tape.collectives import gathered, shared  # only layers that are cut

            x = shared(tape, x, "lm_head")
        logits = self._decoder.product(head, x, model.vocab_size, "lm_head", bias, is_cut=ranks > 1)
        if ranks > 1:
            logits = gathered(tape, logits, ranks, "logits")
        if model.multipliers or model.scaled_logits:
            logits = unary(tape, logits, "logits, scaled")
        if model.final_logit_softcapping is not None:
            logits = unary(tape, logits, "logits over their cap")
            logits = unary(tape, logits, "tanh of the logits", saves="output")
            logits = unary(tape, logits, "logits, capped")
        if model.logits_in_fp32:
            logits = cast(tape, logits, FP32_BYTES, "logits in fp32")
        return logits

    def _next_token(self, head: Parameter, bias: Parameter | None, x: Tensor) -> Tensor:
        """Mirror GenerationMixin._sample, which asks for the last position's logits alone. Hidden
        states are gone when these are copied in fp32."""
        model, batch = self._workload.model, self._batch
        last = ops.slice_of(self.tape, x, batch.micro_batch_size * model.hidden_size)
        return self._logits(head, bias, last)

    def _backbone(self, table: Parameter) -> Tensor:
        """Mirror LlamaModel.forward, whose variables hold the embeddings and the mask to
        the end."""
        tape, batch = self.tape, self._batch
        x, held = embedded(self._decoder, table, needs_gradient=self._leaf_inputs)
        self._decoder.per_layer_inputs = per_layer_inputs(self._decoder, x, held)
        position_ids = tape.new(batch.sequence_length, INT64, "position ids")
        masks = self._masks(table.width)
        windows = {layer.kind.sliding_window for layer in self._layers if layer.recomputed}
        seen = [mask for window, mask in masks.items() if window in windows]
        given = seen if self._workload.model.model_type in MASK_AS_INPUT else []
        shared = [position_ids, *([] if given else seen)]
        x, streams = self._streams(x)
        tables = self._decoder.rotary_tables(x.width if streams else table.width)
        if self._workload.model.local_rotary and self._trains:
            self._held += [table for pair in tables.values() if pair for table in pair]
        keys: SharedKeys = {}
        beside: Tensor | None = None
        for number, passed in enumerate(self._layers):
            tape.border()
            kind = passed.kind
            layer = Layer(f"layers.{number}", kind)
            if self._reads_last_token(kind):
                x = self._last_token(x, tables)
            gate = part_of_a_layer(self._decoder)
            if passed.recomputed:
                arguments = [*shared, *self._handed_on(beside)]
                x, beside = self._checkpointed(layer, x, tables[kind], gate, given, arguments, keys)
                del arguments
            else:
                with self._decoder.sharing(keys):
                    x = decoder_layer(self._decoder, layer, x, tables[kind], gate)
                beside = self._decoder.taken_beside()
        tape.border()
        streams.clear()
        x = self._joined(x)
        x = norm(self._decoder, "norm", x)
        self._decoder.per_layer_inputs = None
        return x

    def _reads_last_token(self, kind: LayerKind) -> bool:
        generates = self._decoder.cache is not None
        is_given_one = self._workload.model.model_type in GIVES_LAST_TOKEN
        return generates and is_given_one and kind.sharing == "reads"

    def _last_token(self, x: Tensor, tables: dict[LayerKind, Tables | None]) -> Tensor:
        """Return the hidden states of a prompt's last token, and leave it alone to the layers that
        follow in all that they read.

        All are views, so that the whole prompt's states stay, here to the end of the pass; there,
        until the first of these layers has run, which is never the largest moment.
        """
        decoder, length = self._decoder, self._decoder.batch.sequence_length
        if length == 1:
            return x

        def last(whole: Tensor) -> Tensor:
            return ops.slice_of(self.tape, whole, whole.elements // length)

        self._held.append(x)
        for kind, pair in tables.items():
            tables[kind] = None if pair is None else (last(pair[0]), last(pair[1]))
        if decoder.per_layer_inputs is not None:
            decoder.per_layer_inputs = last(decoder.per_layer_inputs)
        decoder.batch = structs.replace(decoder.batch, sequence_length=1)
        return last(x)

    def _streams(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the residual streams, and what variables hold of them; where there is one, it."""
        altup, held = self._workload.model.altup, list[Tensor]()
        if altup is None:
            return x, held
        from planner.forward.gemma3n import streams_of  # only Gemma 3n needs it

        return streams_of(self._decoder, x, altup, held), held

    def _joined(self, x: Tensor) -> Tensor:
        """Return the last hidden states of the residual streams."""
        altup = self._workload.model.altup
        if altup is None:
            return x
        from planner.forward.gemma3n import joined_streams

        return joined_streams(self._decoder, x, altup)

    def _handed_on(self, beside: Tensor | None) -> list[Tensor]:
        """Return what the layer before hands to the next one beside its output."""
        hands_on = self._workload.model.model_type in HANDS_ON_CHOSEN
        return [beside] if hands_on and beside is not None else []

    def _masks(self, width: int) -> dict[int | None, Tensor]:
        """Return one mask for each window; eager attention adds it to the scores, so that it always
        has one.

        read: transformers/masking_utils.py at 5.23, sdpa_mask and eager_mask. The layers of a kind
        have run again before the first layer has, but their masks are kept until then here: one run
        stands for all layers of a kind, and cannot free what they share.
        """
        model = self._workload.model
        kinds = {kind.sliding_window: kind for kind in model.kinds if kind.attends}
        windows = [
            window
            for window, kind in kinds.items()
            if self._workload.attention == "eager" or self._decoder.masked(kind)
        ]
        if model.model_type in WINDOW_OF_NOTHING and not any(kinds):
            windows.append(0)
        return {window: self._mask(width, windowed=window is not None) for window in windows}

    def _mask(self, width: int, *, windowed: bool) -> Tensor:
        """Return a mask. Each of its conditions is a tensor, and so is each conjunction; padding is
        the last, and the only one that samples do not share."""
        tape, batch = self.tape, self._batch
        mask = self._seen(windowed=windowed)
        if batch.masked:
            mask = self._square("conditions of the mask, joined")
            mask = tape.new(batch.scores, 1, "attention mask")
        if self._workload.attention == "eager":
            mask = tape.new(batch.scores, width, "attention mask")
        return mask

    def _seen(self, *, windowed: bool) -> Tensor:
        """Return which tokens each token sees by their positions: ``sliding_window_overlay`` and
        ``causal_mask_function``."""
        if not windowed:
            return self._square("attention mask")
        within: Tensor | None = self._square("tokens within the window")
        _joined = self._square("conditions of the mask, joined")
        del within
        _before = self._square("tokens before each token")
        return self._square("attention mask")

    def _square(self, name: str) -> Tensor:
        return self.tape.new(self._batch.sequence_length**2, 1, name)

    def _checkpointed(
        self,
        layer: Layer,
        x: Tensor,
        tables: Tables | None,
        gate: Tensor | None,
        masks: list[Tensor],
        shared: list[Tensor],
        keys: SharedKeys,
    ) -> tuple[Tensor, Tensor | None]:
        """Run a layer that runs again in backward, on its inputs: hidden states, the part of the
        per-layer inputs where there is one, and ``masks``. Checkpointing holds what is ``shared``,
        its keyword arguments, until it has run again."""

        gated = gate is not None

        def run(given: Tensor, *beside: Tensor, _held: list[Tensor] = shared) -> Tensor:
            part = beside[0] if gated else None
            with self._decoder.sharing(keys):
                return decoder_layer(self._decoder, layer, given, tables, part)

        settings = self._workload.settings
        inputs = (x, *masks) if gate is None else (x, gate, *masks)
        offloaded = settings.activation_offloading
        hides_inputs = settings.quantization is not None and settings.quantization.hides_inputs
        sharded_adapters = settings.adapter is not None and self._numerics.keeps_linear_inputs
        if hides_inputs or sharded_adapters:
            return self.tape.checkpoint_reentrant(
                lambda *given: (run(*given), self._decoder.taken_beside()),
                *inputs,
                offloaded=offloaded,
            )
        output = self.tape.checkpoint(run, *inputs, offloaded=offloaded)
        return output, self._decoder.taken_beside()
