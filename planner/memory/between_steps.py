"""Memory between training steps: the loss of held-out samples, and text that is generated.

Neither keeps a graph, so that a layer's tensors go with the layer. Gradients are gone: the trainer
drops them after each update; what DeepSpeed keeps of them is still there.

    evaluation   a forward pass and its loss, as in training but for dropout and the graph
    generation   one sample: a prompt through all layers, each of which keeps its keys and
                 values; then one token after the other, beside those of all before it

read: transformers/trainer.py at 5.23, prediction_step (loss alone) and _inner_training_loop
(zero_grad); cache_utils.py, DynamicLayer.update (torch.cat: old and new of one layer are alive
together).
"""

from msgspec import structs

from planner.base.units import FP32_BYTES, block
from planner.hardware.cluster import Device
from planner.memory.buffers import Parts
from planner.memory.footprint import Footprint, worst_batch
from planner.memory.micro_batch import Amounts, ForwardAlone, forward_alone
from planner.memory.workspaces import cublas_bytes
from planner.models.layer_kinds import LayerKind
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.layout import Layout
from planner.workload.workload import Batch, Workload


def evaluation_parts(
    workload: Workload,
    layout: Layout,
    device: Device,
    training: Footprint,
    *,
    compute_capability: str | None = None,
) -> Parts:
    """Return the bytes of an evaluation whose micro-batch is as large as in training."""
    batch = worst_batch(workload, layout, device, compute_capability=compute_capability)
    alive = forward_bytes(workload, batch, numerics_of(workload, layout)).whole
    return _beside_states(training, alive, device, compute_capability)


def generation_parts(
    workload: Workload,
    layout: Layout,
    device: Device,
    training: Footprint,
    *,
    compute_capability: str | None = None,
) -> Parts:
    """Return the bytes of generating after a prompt as long as a sample.

    The last layer runs beside the keys and values of all; tokens that follow take the room of the
    prompt's end. There is no loss, and logits of the last token alone, for which autocast has the
    head in 16 bit.
    """
    tokens = workload.settings.sequence_length
    kinds = numerics_of(workload, layout)
    batch = Batch(
        micro_batch_size=1,
        sequence_length=tokens,
        device=device,
        compute_capability=compute_capability,
    )
    passed = forward_bytes(workload, batch, kinds)
    with_head = passed.after_layers.copy()
    with_head["activations"] += _cast_head_bytes(workload, kinds)
    alive = max(passed.layers, with_head, key=lambda found: found.total()).copy()
    alive["activations"] += cache_bytes(workload, tokens, kinds)
    return _beside_states(training, alive, device, compute_capability)


def cache_bytes(workload: Workload, tokens: int, kinds: Numerics) -> int:
    """Return the bytes of keys and values of one sequence in every layer, and once more of one
    layer while the next token's are joined to them: 2 n s a bytes per layer, with n key-value heads
    x head size, s tokens within the layer's window, a bytes per element (Shazeer, arXiv:1911.02150,
    section 2.4.1). A layer that keeps a state has the same bytes for any number of tokens."""
    width = kinds.compute if kinds.autocast else kinds.residual
    layers = [_layer_cache_bytes(workload, kind, tokens, width) for kind in workload.model.layers]
    return sum(layers) + max(layers)


def _layer_cache_bytes(workload: Workload, kind: LayerKind, tokens: int, width: int) -> int:
    model, cached = workload.model, 0
    if kind.recurrent and model.recurrence is not None:
        shape = model.recurrence
        cached += block(shape.state_elements * FP32_BYTES)
        cached += block(shape.convolved_size * shape.kernel_size * width)
    if kind.attends:
        seen = min(tokens, kind.sliding_window or tokens)
        cached += sum(block(seen * size * width) for size in model.cached_sizes(kind))
    return cached


def _cast_head_bytes(workload: Workload, kinds: Numerics) -> int:
    """Return the bytes of autocast's copy of the head, which a trained one has in fp32."""
    whole = kinds.outside if workload.method != "full" else kinds.trainable
    is_cast = kinds.autocast and whole > kinds.compute
    return workload.model.embedding_params * kinds.compute if is_cast else 0


def forward_bytes(workload: Workload, batch: Batch, kinds: Numerics) -> ForwardAlone:
    """Return the bytes of a forward pass without a graph and without dropout, which only training
    has."""
    adapter = workload.settings.adapter
    if adapter is not None:
        workload = workload.with_settings(adapter=structs.replace(adapter, dropout=0.0))
    return forward_alone(workload, batch, kinds)


def _beside_states(
    training: Footprint, alive: Amounts, device: Device, compute_capability: str | None
) -> Parts:
    """Return the states of a training step's forward pass, with the gradients that are held between
    steps."""
    forward, saved = training.phases["forward"], training.phases["save"]
    cublas = cublas_bytes(device, compute_capability)
    return {
        **forward,
        "gradients": saved.get("gradients", 0),
        "activations": alive["activations"],
        "loss": alive["loss"],
        "workspace": cublas + alive["workspace"],
    }
