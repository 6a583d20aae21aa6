"""What stands behind every row of the memory report: formulas with their numbers, and tensors.

Model states are formulas; activations, loss and workspace are the tensors that are alive at
the largest moment of a step, found by running every layer on the tape.
"""

from collections import Counter
from dataclasses import dataclass

from planner.memory import gradient_sink, worst_batch
from planner.micro_batch import largest_moment
from planner.model_pass import ModelPass
from planner.model_states import ADAM_MOMENTS_BYTES
from planner.numerics import Numerics, numerics
from planner.quantization import nf4_bytes
from planner.search import Candidate

STATES_SOURCE = "arXiv:1910.02054, section 3.1 (planner/model_states.py)"


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
    kinds = _numerics(candidate)
    parts = candidate.footprint.phases["optimizer_step"]
    trained = candidate.workload.trainable_params
    rows = [
        Formula(
            part="gradients",
            formula=(
                f"{trained:,} trained x {kinds.gradient} bytes{_shards(candidate, from_stage=2)}"
            ),
            num_bytes=parts["gradients"],
            source=STATES_SOURCE,
        ),
        Formula(
            part="optimizer states",
            formula=(
                f"{trained:,} trained x ({kinds.master} master + {ADAM_MOMENTS_BYTES} moments) "
                f"bytes{_shards(candidate, from_stage=1)}"
            ),
            num_bytes=parts["optimizer_states"],
            source=STATES_SOURCE,
        ),
        Formula(
            part="communication",
            formula="buckets and gathered parameters of the strategy",
            num_bytes=parts["communication"],
            source="DeepSpeed 0.19.8, torch's reducer.cpp (planner/buffers.py)",
        ),
    ]
    return [row for row in (*_weights(candidate, kinds), *rows) if row.num_bytes]


def _weights(candidate: Candidate, kinds: Numerics) -> list[Formula]:
    workload, model = candidate.workload, candidate.workload.model
    parts = candidate.footprint.phases["optimizer_step"]
    shard = _shards(candidate, from_stage=3)
    source = "counted from the shape (planner/model.py)"
    if workload.method == "full":
        text = f"{model.num_params:,} parameters x {kinds.trainable} bytes{shard}"
        return [Formula(part="weights", formula=text, num_bytes=parts["weights"], source=source)]
    quantization = workload.recipe.quantization
    held = f"{model.matrix_params:,} x {kinds.frozen} bytes"
    if quantization is not None:
        packed = sum(
            count * nf4_bytes(num_weights=x.weight_params, double_quant=quantization.double_quant)
            for x, count in model.counted_linears
        )
        held = f"{model.matrix_params:,} weights as {packed:,} bytes of NF4"
        source = "arXiv:2305.14314, section 3 (planner/quantization.py)"
    text = f"{held} + {model.unquantized_params:,} x {kinds.outside} bytes{shard}"
    adapters = f"{workload.adapter_params:,} x {kinds.trainable} bytes{shard}"
    return [
        Formula(part="weights", formula=text, num_bytes=parts["weights"], source=source),
        Formula(
            part="adapters",
            formula=adapters,
            num_bytes=parts["adapters"],
            source="r (in + out) a matrix, arXiv:2106.09685, section 4.1 (planner/recipe.py)",
        ),
    ]


def alive_at_the_peak(candidate: Candidate) -> list[AliveTensors]:
    """Largest first; what the step holds all the time is not among them."""
    layout, workload = candidate.layout, candidate.workload
    run = ModelPass(
        workload,
        worst_batch(workload, layout, candidate.cluster.device),
        _numerics(candidate),
        layers=workload.model.layers,
        checkpointing=layout.activation_checkpointing,
        sink=gradient_sink(layout),
    )
    sizes: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for num_bytes, owner, _, name in run.tape.log[: largest_moment(run.tape.log)]:
        key = (owner, name)
        sizes[key] += num_bytes
        counts[key] += 1 if num_bytes > 0 else -1
    found = [
        AliveTensors(owner=owner, name=name, count=counts[owner, name], num_bytes=size)
        for (owner, name), size in sizes.items()
        if size
    ]
    return sorted(found, key=lambda row: -row.num_bytes)


def _numerics(candidate: Candidate) -> Numerics:
    return numerics(
        method=candidate.method,
        compute=candidate.workload.compute,
        zero_stage=candidate.layout.zero_stage,
    )


def _shards(candidate: Candidate, *, from_stage: int) -> str:
    """The words for a division among ranks, where the ZeRO stage divides."""
    divides = candidate.layout.zero_stage >= from_stage
    return f" / {candidate.layout.world_size} ranks" if divides else ""
