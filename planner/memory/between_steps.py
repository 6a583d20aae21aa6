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

from planner.base.units import block
from planner.forward.recurrent.kept_states import state_width
from planner.hardware.cluster import Device
from planner.memory.buffers import Parts
from planner.memory.footprint import Footprint, worst_batch
from planner.memory.micro_batch import ForwardAlone, forward_alone
from planner.memory.workspaces import cublas_bytes
from planner.models.layer_kinds import LayerKind
from planner.models.traced_model import TracedSpec
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
    multiprocessors: int | None = None,
) -> Parts:
    """Return the bytes of an evaluation whose micro-batch is as large as in training."""
    workload = workload.of_a_rank(layout)
    batch = worst_batch(workload, layout, device, compute_capability=compute_capability)
    batch = structs.replace(batch, multiprocessors=multiprocessors)
    passed = forward_bytes(workload, batch, numerics_of(workload, layout))
    return _beside_states(workload, layout, batch, training, passed, again=False)


def generation_parts(
    workload: Workload,
    layout: Layout,
    device: Device,
    training: Footprint,
    *,
    compute_capability: str | None = None,
    multiprocessors: int | None = None,
) -> Parts:
    """Return the bytes of generating after a prompt as long as a sample.

    The last layer runs beside the keys and values of all, as autocast's copies of weights stay;
    tokens that follow take the room of the prompt's end, but for parameters that are gathered anew
    for each. There is no loss, and logits of the last token alone. A traced model's keys and values
    are added to its layers.
    """
    workload = workload.of_a_rank(layout)
    tokens = workload.settings.sequence_length
    kinds = numerics_of(workload, layout)
    batch = Batch(
        micro_batch_size=1,
        sequence_length=tokens,
        device=device,
        compute_capability=compute_capability,
        multiprocessors=multiprocessors,
    )
    passed = forward_bytes(workload, batch, kinds, generates=True)
    if isinstance(workload.model, TracedSpec):
        alive = passed.layers.copy()
        alive["activations"] += cache_bytes(workload, tokens, kinds)
    else:
        alive = passed.whole.copy()
        alive["activations"] += alive.pop("loss", 0)
    cached = sum(layer_cache_bytes(workload, tokens, kinds))
    passed = structs.replace(passed, whole=alive, cached=cached)
    return _beside_states(workload, layout, batch, training, passed, again=True)


def cache_bytes(workload: Workload, tokens: int, kinds: Numerics) -> int:
    """Return the bytes of keys and values of one sequence in every layer, and once more of one
    layer while the next token's are joined to them: 2 n s a bytes per layer, with n key-value heads
    x head size, s tokens within the layer's window, a bytes per element (Shazeer, arXiv:1911.02150,
    section 2.4.1). A layer that keeps a state has the same bytes for any number of tokens."""
    layers = layer_cache_bytes(workload, tokens, kinds)
    return sum(layers) + max(layers)


def layer_cache_bytes(workload: Workload, tokens: int, kinds: Numerics) -> list[int]:
    """Return the bytes that each layer keeps of one sequence."""
    width = kinds.compute if kinds.autocast else kinds.residual
    states = 0
    if workload.model.recurrence is not None:
        states = state_width(workload.model.recurrence, kinds)
    return [_kept_bytes(workload, kind, tokens, width, states) for kind in workload.model.layers]


def _kept_bytes(workload: Workload, kind: LayerKind, tokens: int, width: int, states: int) -> int:
    model, cached = workload.model, 0
    if kind.recurrent and model.recurrence is not None:
        shape = model.recurrence
        cached += block(shape.state_elements * states)
        cached += block(shape.convolved_size * shape.kernel_size * width)
    if kind.attends:
        seen = min(tokens, kind.sliding_window or tokens)
        cached += sum(block(seen * size * width) for size in model.cached_sizes(kind))
    return cached


def forward_bytes(
    workload: Workload, batch: Batch, kinds: Numerics, *, generates: bool = False
) -> ForwardAlone:
    """Return the bytes of a forward pass without a graph and without dropout, which only training
    has."""
    return forward_alone(_without_dropout(workload), batch, kinds, generates=generates)


def _without_dropout(workload: Workload) -> Workload:
    adapter = workload.settings.adapter
    if adapter is None:
        return workload
    return workload.with_settings(adapter=structs.replace(adapter, dropout=0.0))


def _beside_states(
    workload: Workload,
    layout: Layout,
    batch: Batch,
    training: Footprint,
    passed: ForwardAlone,
    *,
    again: bool,
) -> Parts:
    """Return the states of a training step's forward pass, with the gradients that are held between
    steps. The buckets of ZeRO-1, which its forward pass may find, are gone; what ZeRO-3 and
    FSDP gather is that of the largest moment of this pass. ``again`` where another one without a
    backward pass was before it, as an evaluation is before answers."""
    forward, saved = training.phases["forward"], training.phases["save"]
    gathers = saved if layout.zero_stage in (1, 2) else forward
    alive: Parts = {
        "activations": passed.whole["activations"],
        "loss": passed.whole["loss"],
        "workspace": passed.whole["workspace"],
        "communication": gathers.get("communication", 0),
    }
    if layout.strategy == "fsdp":
        from planner.memory.fsdp_phases import forward_alone_moment  # others need none of it

        kinds = numerics_of(workload, layout)
        alive = forward_alone_moment(workload, layout, passed, kinds, again=again).parts
    if layout.zero_stage == 3:
        from planner.memory.zero_phases import gathered_alone  # nor this

        bare = _without_dropout(workload)
        alive = gathered_alone(bare, layout, batch, passed, again=again).parts
    cublas = cublas_bytes(batch.device, batch.compute_capability)
    alive["workspace"] = alive.get("workspace", 0) + cublas
    return {**forward, **alive, "gradients": saved.get("gradients", 0)}
