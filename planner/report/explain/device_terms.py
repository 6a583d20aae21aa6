"""Terms of the buffers of one device, and of each device under DDP."""

from collections.abc import Callable, Iterator, Sequence

from planner.base.phrases import Phrase
from planner.memory.buffers import Buffer
from planner.memory.ddp_buckets import ddp_buckets
from planner.memory.expert_loading import stacked_at_once
from planner.memory.footprint import table_bytes
from planner.memory.optimizer_step import step_of
from planner.memory.quantized_loading import quantized_from
from planner.memory.workspaces import cublas_workspaces
from planner.plan.vocabulary import Phase
from planner.report.explain.explained import Explained
from planner.report.explain.ledger import alive, owned_bytes
from planner.report.explain.state_terms import (
    LORA,
    SHAPE,
    blocks,
    blocks_each,
    filled_blocks,
    frozen_terms,
    optimizer_states,
)
from planner.report.explain.tensor_names import tensor_words
from planner.report.explain.terms import Count, Expression, Term, bytes_of, largest
from planner.tape.tensors import Owner
from planner.workload.trained_tensors import TrainedTensor, trained_tensors

STATES = Phrase("arXiv:1910.02054, section 3.1 (planner/memory/model_states.py)")
BUCKETS = "torch's reducer.cpp (planner/memory/ddp_buckets.py)"
CUBLAS = "ATen/cuda/CublasHandlePool.cpp (planner/memory/workspaces.py)"
UPDATE = Phrase("clip_grad.py and the optimizer (planner/memory/optimizer_step.py)")
LOADING = "transformers' core_model_loading.py (planner/memory/expert_loading.py)"
WHOLE_MATRIX = Phrase("bytes of a whole matrix beyond what is loaded after it")
TABLE = "torch/distributed/tensor/_ops/_embedding_ops.py (planner/memory/footprint.py)"
SAVING = "launcher/training/saving.py (planner/memory/footprint.py)"
TAPE = Phrase("transformers' forward code on the tape (planner/forward, planner/tape)")
TRACE = Phrase("a trace of the real model's step (planner/models/traced_model.py)")

Terms = Callable[[Explained, Phase], Iterator[Term]]
"""Yields the terms of one buffer as one phase holds it."""


def _trained_weights(plan: Explained, _phase: Phase) -> Iterator[Term]:
    amount = blocks_each(plan.trained, plan.kinds.trainable, plan.tensors)
    yield Term(name=Phrase("trained weights"), bytes=amount, source=SHAPE)


def _adapters(plan: Explained, _phase: Phase) -> Iterator[Term]:
    amount = blocks_each(plan.trained, plan.kinds.trainable, plan.tensors)
    yield Term(name=Phrase("adapters"), bytes=amount, source=LORA)


def _frozen_weights(plan: Explained, _phase: Phase) -> Iterator[Term]:
    yield from frozen_terms(plan.workload, plan.kinds)


def _gradients(plan: Explained, _phase: Phase) -> Iterator[Term]:
    amount = blocks_each(plan.trained, plan.kinds.gradient, plan.tensors)
    yield Term(name=Phrase("gradients"), bytes=amount, source=STATES)
    others, part = plan.workload.tensor_ranks - 1, table_bytes(plan.workload, plan.kinds.gradient)
    rows = Count(others, Phrase("other ranks' parts")) * bytes_of(part)
    yield Term(name=Phrase("gradient of the whole table of embeddings"), bytes=rows, source=TABLE)


def _states(plan: Explained, _phase: Phase) -> Iterator[Term]:
    amount = optimizer_states(
        plan.optimizer, plan.handed, width=plan.kinds.home, device=plan.device
    )
    yield Term(name=plan.optimizer.name, bytes=amount, source=states_source(plan))


def states_source(plan: Explained) -> str:
    """Return where the optimizer's states are read from."""
    return f"{plan.optimizer.source} (presets/optimizers.yaml)"


def _buckets(plan: Explained, _phase: Phase) -> Iterator[Term]:
    """Yield DDP's buckets, which hold every gradient once more."""
    sizes = ddp_buckets(plan.workload, plan.kinds.gradient)
    amount = filled_blocks(plan.trained * bytes_of(plan.kinds.gradient), sizes)
    yield Term(
        name=Phrase("{count} {count[bucket|buckets]} of DDP", count=len(sizes)),
        bytes=amount,
        source=BUCKETS,
    )


def _of_the_pass(owner: Owner, buffer: Buffer) -> Terms:
    """Return the terms of what a micro-batch makes: the sum of its ledger."""

    def terms(plan: Explained, phase: Phase) -> Iterator[Term]:
        if phase in plan.ledgers:
            num_bytes = owned_bytes(plan.ledgers[phase], owner)
            yield Term(name=Phrase("counted on the tape"), bytes=bytes_of(num_bytes), source=TAPE)
        else:
            num_bytes = plan.moments[phase].buffers[buffer]
            yield Term(name=Phrase("traced"), bytes=bytes_of(num_bytes), source=TRACE)

    return terms


def _cublas(plan: Explained, _phase: Phase) -> Iterator[Term]:
    workspaces = cublas_workspaces(plan.compute_capability)
    amount = Count(len(workspaces), Phrase("workspaces")) * bytes_of(workspaces[0])
    yield Term(name="cuBLAS", bytes=amount, source=CUBLAS)


def _loading(plan: Explained, _phase: Phase) -> Iterator[Term]:
    """Yield what a load takes beside the weights: stacks of experts, or a matrix that is whole
    before it is quantized."""
    amount = _loading_bytes(plan)
    if plan.layout.zero_stage:
        amount = blocks(amount, 1)
    yield Term(name=Phrase("while weights are loaded"), bytes=amount, source=LOADING)


def _loading_bytes(plan: Explained) -> Expression:
    kinds, quantization = plan.kinds, plan.workload.settings.quantization
    width = kinds.trainable if plan.workload.method == "full" else kinds.outside
    stacks = Count(stacked_at_once(plan.workload), Phrase("weights of stacked experts")) * bytes_of(
        width
    )
    if quantization is None:
        return stacks
    return largest(stacks, Count(quantized_from(plan.workload, kinds), WHOLE_MATRIX))


def _update(plan: Explained, _phase: Phase) -> Iterator[Term]:
    part = table_bytes(plan.workload, plan.kinds.gradient)
    terms = [*update_terms(plan, trained_tensors(plan.workload))]
    if part > sum(term.num_bytes for term in terms):
        name = Phrase("this rank's part of the table's gradient")
        terms = [Term(name=name, bytes=bytes_of(part), source=TABLE)]
    yield from terms


def update_terms(plan: Explained, tensors: Sequence[TrainedTensor]) -> Iterator[Term]:
    """Yield what the optimizer makes for its update of ``tensors`` at the largest moment, by
    name."""
    step = step_of(plan.workload, tensors, width=plan.kinds.home, device=plan.device)
    for made in alive(step.largest_moment):
        one = tensor_words(made.name)
        several = Phrase("{name}, {count:,} tensors", name=one, count=made.count)
        name = one if made.count == 1 else several
        yield Term(name=name, bytes=bytes_of(made.num_bytes), source=UPDATE)


def _cast(plan: Explained, _phase: Phase) -> Iterator[Term]:
    largest_tensor, ranks = max(tensor.elements for tensor in plan.tensors), plan.layout.world_size
    if plan.workload.tensor_ranks > 1:
        whole = Count(2 * ranks * largest_tensor, Phrase("elements"))
        amount = whole * bytes_of(plan.kinds.trainable)
        name = Phrase("the largest tensor, gathered and put in order")
        yield Term(name=name, bytes=amount, source=SAVING)
        return
    amount = Count(largest_tensor, Phrase("elements")) * bytes_of(plan.kinds.compute)
    yield Term(name=Phrase("the largest tensor, cast to be written"), bytes=amount, source=SAVING)


COMMON: dict[Buffer, Terms] = {
    "frozen_weights": _frozen_weights,
    "optimizer_states": _states,
    "new_gradients": _of_the_pass("gradients", "new_gradients"),
    "activations": _of_the_pass("activations", "activations"),
    "loss": _of_the_pass("loss", "loss"),
    "pass_workspace": _of_the_pass("workspace", "pass_workspace"),
    "cublas": _cublas,
    "loading": _loading,
}
"""The buffers that are counted alike under every strategy."""

DEVICE_TERMS: dict[Buffer, Terms] = {
    **COMMON,
    "trained_weights": _trained_weights,
    "adapters": _adapters,
    "gradients": _gradients,
    "ddp_buckets": _buckets,
    "update": _update,
    "cast": _cast,
}
"""The buffers of one device alone, or of each under DDP."""
