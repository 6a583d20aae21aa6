"""Activations that autograd keeps from forward to backward, as a ledger: a row per tensor.

A row is checked against the forward code of transformers' layers (planner/forward/decoder.py
mirrors it) and a sum against autograd: tests/oracle/test_activations.py holds every ledger to
``saved_tensors_hooks``, to the byte. What makes the ledgers differ from the closed forms in the
literature follows from the operators themselves:

* a frozen linear layer keeps no input, since only its weight's gradient would need it;
* RMSNorm computes in fp32: the fp32 copy of its input is kept, and the reciprocal root;
* under autocast each consumer of an fp32 tensor keeps its own 16-bit cast of it;
* LoRA's dropout keeps a mask of one byte an element on CUDA, and its output.
"""

from planner.forward.decoder import Decoder, Layer, SharedKeys
from planner.forward.decoder_layers import decoder_layer
from planner.forward.embeddings import embedded
from planner.forward.gemma3n import streams_of
from planner.forward.gemma4 import part_of_a_layer, per_layer_inputs
from planner.models.layer_kinds import LayerKind
from planner.tape.tape import Tape
from planner.tape.tensors import Node, Parameter, Storage, Tensor
from planner.workload.dtypes import Numerics
from planner.workload.workload import Batch, Workload


def layer_ledger(
    workload: Workload, batch: Batch, numerics: Numerics, kind: LayerKind, *, first: bool
) -> list[Storage]:
    """Return what autograd keeps of one layer of a kind, a row per tensor, without what all layers
    share."""
    tape = Tape(sink="keep")
    decoder = Decoder(workload=workload, batch=batch, numerics=numerics, tape=tape)
    table = decoder.parameter("embed_tokens", workload.model.embedding_params)
    x, held = embedded(decoder, table)
    decoder.per_layer_inputs = per_layer_inputs(decoder, x, held)
    if workload.model.altup is not None:
        x = streams_of(decoder, x, workload.model.altup, held)
    if not first:
        x.node = Parameter(x.elements, x.width, trains=True)
    tables = decoder.rotary_tables(table.width if workload.model.altup is None else x.width)
    keys: SharedKeys = {}
    with decoder.sharing(keys):
        for before in _stored_for(workload, kind):
            gate = part_of_a_layer(decoder)
            decoder_layer(decoder, Layer("before", before), x, tables[before], gate)
    tape.border()
    with decoder.sharing(keys):
        gate = part_of_a_layer(decoder)
        output = decoder_layer(decoder, Layer("layer", kind), x, tables[kind], gate)
    shared = [table.storage for table in tables[kind] or ()]
    return [row for row in saved_since(output, tape.borders[0][0]) if row not in shared]


def _stored_for(workload: Workload, kind: LayerKind) -> list[LayerKind]:
    """Return the kind of layer whose keys and values a layer reads, if it reads any."""
    if kind.sharing != "reads":
        return []
    window = kind.sliding_window
    kinds = workload.model.kinds
    return [each for each in kinds if each.sharing == "stores" and each.sliding_window == window]


def saved_since(output: Tensor, sequence: int) -> list[Storage]:
    """Return every storage that nodes after ``sequence`` keep for backward, each once."""
    found: dict[int, Storage] = {}
    seen: set[int] = set()
    waiting = [output.node]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Node) or node.sequence <= sequence or id(node) in seen:
            continue
        seen.add(id(node))
        found |= {id(storage): storage for storage in node.saved}
        waiting += node.inputs
    return list(found.values())
