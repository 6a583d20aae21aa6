"""A whole model's forward and backward pass on a tape, as LlamaForCausalLM runs."""

from planner.autograd import GradientSink, Tape
from planner.decoder import Decoder
from planner.loss import cross_entropy, fused_loss
from planner.numerics import Numerics
from planner.operators import FP32, INT64, cast, embedding
from planner.recipe import Batch, Workload
from planner.tensors import Parameter, Tensor


class ModelPass:
    """Forward and backward pass of one micro-batch through ``num_layers`` layers."""

    def __init__(
        self,
        workload: Workload,
        batch: Batch,
        numerics: Numerics,
        *,
        num_layers: int,
        checkpointing: bool,
        sink: GradientSink,
    ) -> None:
        self._workload = workload
        self._batch = batch
        self._num_layers = num_layers
        self.tape = Tape(sink=sink)
        self._decoder = Decoder(workload=workload, batch=batch, numerics=numerics, tape=self.tape)
        self._checkpointing = checkpointing
        self._numerics = numerics
        self._held: list[Tensor] = []
        output = self._forward()
        self.casts_gone = self.tape.autocast_ends()
        """Places in the log where autocast has dropped each layer's casts."""
        self.tape.backward(output, self.tape.new(1, FP32, "gradient of the loss"))
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
        logits = self._decoder.product(head, x, model.vocab_size, "lm_head")
        loss, logits = cross_entropy(tape, logits, batch=batch, numerics=self._numerics)
        if self._numerics.output_in_fp32:
            logits = cast(tape, logits, FP32, "logits of the output in fp32")
        if self._numerics.keeps_logits:
            self._held.append(logits.detached())
        return loss

    def _backbone(self, table: Parameter) -> Tensor:
        """LlamaModel.forward; its variables hold the embeddings and the mask to the end."""
        tape, batch = self.tape, self._batch
        embeddings = embedding(
            tape, table, tokens=batch.tokens, hidden_size=self._workload.model.hidden_size
        )
        if self._checkpointing and not table.trains:
            embeddings.node = Parameter(
                embeddings.elements, embeddings.width, trains=True, gradient_owner="activations"
            )
        shared = [tape.new(batch.sequence_length, INT64, "position ids")]
        if batch.masked:
            shared.append(tape.new(batch.scores, 1, "attention mask"))
        if self._workload.recipe.attention == "eager":
            shared.append(tape.new(batch.scores, embeddings.width, "attention mask"))
        tables = self._decoder.rotary_tables(embeddings.width)
        x = embeddings
        for number in range(self._num_layers):
            tape.border()
            x = self._layer(f"layers.{number}", x, tables, shared)
        tape.border()
        return self._decoder.norm("norm", x)

    def _layer(
        self, place: str, x: Tensor, tables: tuple[Tensor, Tensor], shared: list[Tensor]
    ) -> Tensor:
        if not self._checkpointing:
            return self._decoder.layer(place, x, tables)

        def run(given: Tensor, _held: list[Tensor] = shared) -> Tensor:
            """Checkpointing holds every argument of the layer until it has run again."""
            return self._decoder.layer(place, given, tables)

        return self.tape.checkpoint(run, x)
