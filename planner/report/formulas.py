"""What stands behind every row of the memory report: formulas with their numbers, and tensors.

Model states are formulas; activations, loss and workspace are the tensors that are alive at
the largest moment of a step, found by running every layer on the tape.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from planner.forward.model_pass import ModelPass, passed_layers
from planner.memory.footprint import gradient_sink, worst_batch
from planner.memory.host import flat_parts
from planner.memory.micro_batch import largest_moment
from planner.memory.optimizer_step import step_of
from planner.memory.zero_1_2 import flat_tensor
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import Part
from planner.report.optimizer_formula import states_formula
from planner.report.zero_formulas import deepspeed_moments
from planner.search.candidate import Candidate
from planner.tape.tensors import StorageEvent
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.quantization import quantized_bytes
from planner.workload.trained_tensors import trained_tensors

STATES_SOURCE = "arXiv:1910.02054, section 3.1 (planner/memory/model_states.py)"
QUANTIZATION_SOURCES = {
    "nf4": "arXiv:2305.14314, section 3 (planner/workload/quantization.py)",
    "int8": "arXiv:2208.07339, section 3 (planner/workload/quantization.py)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """One row of the report with the numbers put in."""

    part: str
    formula: str
    num_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AliveTensors:
    """Tensors of one name and owner that are alive at the largest moment of a step."""

    owner: str
    name: str
    count: int
    num_bytes: int


def formulas(candidate: Candidate) -> list[Formula]:
    """Model states, communication and workspaces that a step always holds."""
    kinds = numerics_of(candidate.workload, candidate.layout)
    rows = [
        _gradients(candidate, kinds),
        _optimizer_states(candidate, kinds),
        _communication(candidate),
        _step_workspace(candidate, kinds),
    ]
    return [row for row in (*_weights(candidate, kinds), *rows) if row.num_bytes]


def _gradients(candidate: Candidate, kinds: Numerics) -> Formula:
    """DeepSpeed's stages 1 and 2 keep whole parameters, though a rank's part has pieces of them."""
    held = candidate.footprint.phases["optimizer_step"]["gradients"]
    trained, layout = candidate.workload.trainable_params, candidate.layout
    text = f"{trained:,} trained x {kinds.gradient} bytes{_shards(candidate, from_stage=3)}"
    source = STATES_SOURCE
    if layout.zero_stage in (1, 2):
        text = (
            f"{held // kinds.gradient:,} in parameters that one of {layout.world_size} ranks' "
            f"part touches x {kinds.gradient} bytes"
        )
        source = (
            "DeepSpeed 0.19.8, stage_1_and_2.py, copy_grads_in_partition "
            "(planner/memory/zero_1_2.py)"
        )
    return Formula(part="gradients", formula=text, num_bytes=held, source=source)


def _communication(candidate: Candidate) -> Formula:
    """What an optimizer step finds there: gathered parameters and the buckets of ZeRO-1 and
    ZeRO-2 are gone by then."""
    text, source = (
        "every gradient again in DDP's buckets",
        "torch's reducer.cpp (planner/memory/ddp_buckets.py)",
    )
    if candidate.layout.zero_stage:
        text, source = _of_deepspeed(candidate, "communication")
    return Formula(
        part="communication",
        formula=text,
        num_bytes=candidate.footprint.phases["optimizer_step"].get("communication", 0),
        source=source,
    )


def _of_deepspeed(candidate: Candidate, part: Part) -> tuple[str, str]:
    """Words and source of what DeepSpeed holds while it updates."""
    for moment in deepspeed_moments(candidate):
        if (moment.phase, moment.part) == ("optimizer_step", part):
            return "; ".join(words for words, _ in moment.terms), moment.source
    return "", ""


def _optimizer_states(candidate: Candidate, kinds: Numerics) -> Formula:
    workload = candidate.workload
    optimizer = optimizers()[workload.settings.optimizer.name]
    tensors = trained_tensors(workload)
    if candidate.layout.zero_stage:
        tensors = tuple(flat_tensor(size) for size in flat_parts(workload, candidate.layout))
    text = states_formula(optimizer, tensors, kinds.home)
    if kinds.master:
        held = sum(tensor.elements for tensor in tensors)
        text = f"{held:,} x {kinds.master} master; {text}"
    return Formula(
        part="optimizer states",
        formula=text,
        num_bytes=candidate.footprint.phases["optimizer_step"]["optimizer_states"],
        source=f"{optimizer.source} (presets/optimizers.yaml)",
    )


def _step_workspace(candidate: Candidate, kinds: Numerics) -> Formula:
    """What the update adds at its largest moment."""
    parts = candidate.footprint.phases["optimizer_step"]
    text = "cuBLAS workspaces" if candidate.cluster.device == "cuda" else "nothing of cuBLAS"
    source = "CUDABlas.cpp, clip_grad.py and the optimizer (planner/memory/optimizer_step.py)"
    if candidate.layout.zero_stage:
        text, source = _of_deepspeed(candidate, "workspace")
    else:
        step = step_of(candidate.workload, width=kinds.home, device=candidate.cluster.device)
        made = [f"{row.count:,} x {row.name}, {row.num_bytes:,} bytes" for row in _alive(step.log)]
        text = "; ".join([text, *made])
    return Formula(
        part="workspace",
        formula=f"at the update: {text}",
        num_bytes=parts["workspace"],
        source=source,
    )


def _weights(candidate: Candidate, kinds: Numerics) -> list[Formula]:
    workload, model = candidate.workload, candidate.workload.model
    parts = candidate.footprint.phases["optimizer_step"]
    shard = _shards(candidate, from_stage=3)
    source = "counted from the shape (planner/models/model_spec.py)"
    if workload.method == "full":
        text = f"{model.num_params:,} parameters x {kinds.trainable} bytes{shard}"
        return [Formula(part="weights", formula=text, num_bytes=parts["weights"], source=source)]
    quantization = workload.settings.quantization
    held = f"{model.matrix_params:,} x {kinds.frozen} bytes"
    if quantization is not None:
        packed = sum(
            count * quantized_bytes(matrix, quantization) for matrix, count in model.counted_linears
        )
        code = quantization.quant_type.upper()
        held = f"{model.matrix_params:,} weights as {packed:,} bytes of {code}"
        source = QUANTIZATION_SOURCES[quantization.quant_type]
    text = f"{held} + {model.unquantized_params:,} x {kinds.outside} bytes"
    if shard:
        text = f"({text}){shard}"
    adapters = f"{workload.adapter_params:,} x {kinds.trainable} bytes{shard}"
    return [
        Formula(part="weights", formula=text, num_bytes=parts["weights"], source=source),
        Formula(
            part="adapters",
            formula=adapters,
            num_bytes=parts["adapters"],
            source="r (in + out) a matrix, arXiv:2106.09685, section 4.1 (planner/workload)",
        ),
    ]


def alive_at_the_peak(candidate: Candidate) -> list[AliveTensors]:
    """Largest first; what the step holds all the time is not among them."""
    layout, workload = candidate.layout, candidate.workload
    run = ModelPass(
        workload,
        worst_batch(workload, layout, candidate.cluster.device),
        numerics_of(candidate.workload, candidate.layout),
        layers=passed_layers(workload.model, layout.checkpointing),
        sink=gradient_sink(layout),
    )
    return _alive(run.tape.log)


def _alive(log: Sequence[StorageEvent]) -> list[AliveTensors]:
    """What the largest moment of a log is made of, largest first."""
    sizes: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for num_bytes, owner, _, name in log[: largest_moment(log)]:
        key = (owner, name)
        sizes[key] += num_bytes
        counts[key] += 1 if num_bytes > 0 else -1
    found = [
        AliveTensors(owner=owner, name=name, count=counts[owner, name], num_bytes=size)
        for (owner, name), size in sizes.items()
        if size
    ]
    return sorted(found, key=lambda row: -row.num_bytes)


def _shards(candidate: Candidate, *, from_stage: int) -> str:
    """The words for a division among ranks, where the ZeRO stage divides."""
    divides = candidate.layout.zero_stage >= from_stage
    return f" / {candidate.layout.world_size} ranks" if divides else ""
