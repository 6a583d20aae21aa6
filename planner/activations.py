"""Activations that autograd keeps from forward to backward, as a ledger: a row a tensor.

A row is checked against the forward code of transformers' layers (planner/decoder.py mirrors
it) and a sum against autograd: tests/oracle/test_activations.py holds every ledger to
``saved_tensors_hooks``, to the byte. What makes the ledgers differ from the closed forms in
the literature follows from the operators themselves:

* a frozen linear layer keeps no input, since only its weight's gradient would need it;
* RMSNorm computes in fp32: the fp32 copy of its input is kept, and the reciprocal root;
* under autocast each consumer of an fp32 tensor keeps its own 16-bit cast of it;
* LoRA's dropout keeps a mask of one byte an element on CUDA, and its output.
"""

from planner.autograd import Tape, saved_since
from planner.decoder import Decoder, Layer
from planner.layer import decoder_layer
from planner.model import LayerKind
from planner.numerics import Numerics
from planner.operators import embedding
from planner.recipe import Batch, Workload
from planner.tensors import Parameter, Storage


def layer_ledger(
    workload: Workload, batch: Batch, numerics: Numerics, kind: LayerKind, *, first: bool
) -> list[Storage]:
    """What autograd keeps of one layer of a kind, a row a tensor; what all layers share apart."""
    tape = Tape(sink="keep")
    decoder = Decoder(workload=workload, batch=batch, numerics=numerics, tape=tape)
    tokens, h = batch.tokens, workload.model.hidden_size
    x = embedding(
        tape,
        decoder.parameter("embed_tokens", workload.model.embedding_params),
        tokens=tokens,
        hidden_size=h,
    )
    if not first:
        x.node = Parameter(tokens * h, x.width, trains=True)
    tables = decoder.rotary_tables(x.width)[kind]
    tape.border()
    output = decoder_layer(decoder, Layer("layer", kind), x, tables)
    shared = [table.storage for table in tables]
    return [row for row in saved_since(output, tape.borders[0][0]) if row not in shared]
