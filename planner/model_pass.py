"""A whole model's forward and backward pass on a tape, as LlamaForCausalLM runs."""

from collections.abc import Sequence

from planner.autograd import GradientSink, Tape
from planner.decoder import Decoder, Layer
from planner.layer import decoder_layer
from planner.loss import cross_entropy, fused_loss
from planner.model import LayerKind
from planner.norms import norm
from planner.numerics import Numerics
from planner.operators import FP32, INT64, cast, embedding, unary
from planner.recipe import Batch, Workload
from planner.rotary import Tables
from planner.tensors import Parameter, Tensor


class ModelPass:
    """Forward and backward pass of one micro-batch through layers of the given kinds."""

    def __init__(
        self,
        workload: Workload,
        batch: Batch,
        numerics: Numerics,
        *,
        layers: Sequence[LayerKind],
        checkpointing: bool,
        sink: GradientSink,
        decoder: type[Decoder] = Decoder,
    ) -> None:
        self._workload = workload
        self._batch = batch
        self._layers = layers
        self.tape = Tape(sink=sink)
        self._decoder = decoder(workload=workload, batch=batch, numerics=numerics, tape=self.tape)
        self._checkpointing = checkpointing
        self._numerics = numerics
        self._held: list[Tensor] = []
        output = self._forward()
        self.casts_gone = self.tape.autocast_ends()
        """Places in the log where autocast has dropped each layer's casts."""
        self.tape.backward(output, self.tape.new(1, FP32, "gradient of the loss"))
        self.backward_ends = len(self.tape.log)
        """Behind it the log has what the training loop lets go of: the model's output."""
        self._held.clear()
        self.weights = self._decoder.weights

    def _forward(self) -> Tensor:
        tape, model, batch = self.tape, self._workload.model, self._batch
        _inputs = tape.new(3 * batch.tokens, INT64, "token ids, labels and attention mask")
        table = self._decoder.parameter("embed_tokens", model.embedding_params)
        x = self._backbone(table)
        tape.loss_begins()
        head = table
        if not model.tied_embeddings:
            head = self._decoder.parameter("lm_head", model.embedding_params)
        if self._workload.recipe.loss == "fused":
            return fused_loss(tape, x, head, batch=batch, numerics=self._numerics)
        logits = self._logits(head, x)
        if self._numerics.cross_entropy == "logits shifted in fp32":
            logits = cast(tape, logits, FP32, "logits in fp32")
        loss = cross_entropy(tape, logits, batch=batch, numerics=self._numerics)
        if self._numerics.output_in_fp32:
            logits = cast(tape, logits, FP32, "logits of the output in fp32")
        if self._numerics.keeps_logits:
            self._held.append(logits.detached())
        return loss

    def _logits(self, head: Parameter, x: Tensor) -> Tensor:
        """The head; Granite divides what it gives, Gemma 2 caps it."""
        tape, model = self.tape, self._workload.model
        logits = self._decoder.product(head, x, model.vocab_size, "lm_head")
        if model.multipliers:
            logits = unary(tape, logits, "logits, scaled")
        if model.final_logit_softcapping is not None:
            logits = unary(tape, logits, "logits over their cap")
            logits = unary(tape, logits, "tanh of the logits", saves="output")
            logits = unary(tape, logits, "logits, capped")
        return logits

    def _backbone(self, table: Parameter) -> Tensor:
        """LlamaModel.forward; its variables hold the embeddings and the mask to the end."""
        tape, batch = self.tape, self._batch
        embeddings = self._embeddings(table)
        shared = [tape.new(batch.sequence_length, INT64, "position ids")]
        shared += self._masks(embeddings.width)
        tables = self._decoder.rotary_tables(embeddings.width)
        if self._workload.model.local_rotary:
            self._held += [table for pair in tables.values() for table in pair]
        x = embeddings
        for number, kind in enumerate(self._layers):
            tape.border()
            x = self._layer(Layer(f"layers.{number}", kind), x, tables[kind], shared)
        tape.border()
        return norm(self._decoder, "norm", x)

    def _embeddings(self, table: Parameter) -> Tensor:
        """Rows of the table, which peft makes a leaf where layers are checkpointed. The graph
        holds its leaves."""
        tape, model = self.tape, self._workload.model
        x = embedding(tape, table, tokens=self._batch.tokens, hidden_size=model.hidden_size)
        if model.scaled_embeddings:
            x = unary(tape, x, "embedding, scaled")
        if self._checkpointing and not table.trains:
            leaf = Parameter(x.elements, x.width, trains=True, gradient_owner="activations")
            leaf.storage = x.storage
            x.node = leaf
        return unary(tape, x, "embedding, scaled") if model.multipliers else x

    def _masks(self, width: int) -> list[Tensor]:
        """One for each kind of window; eager attention adds it to the scores, so always has one.

        read: transformers/masking_utils.py at 5.23, sdpa_mask and eager_mask. The layers of a
        kind have run again before the first layer has, but all masks are kept until then here:
        one run stands for all layers of a kind, and cannot free what they share.
        """
        eager = self._workload.attention == "eager"
        kinds = {kind.sliding_window: kind for kind in self._workload.model.kinds}.values()
        return [
            self.tape.new(self._batch.scores, width if eager else 1, "attention mask")
            for kind in kinds
            if eager or self._decoder.masked(kind)
        ]

    def _layer(self, layer: Layer, x: Tensor, tables: Tables, shared: list[Tensor]) -> Tensor:
        if not self._checkpointing:
            return decoder_layer(self._decoder, layer, x, tables)

        def run(given: Tensor, _held: list[Tensor] = shared) -> Tensor:
            """Checkpointing holds every argument of the layer until it has run again."""
            return decoder_layer(self._decoder, layer, given, tables)

        return self.tape.checkpoint(run, x)
