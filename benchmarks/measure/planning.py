"""Plans of rows, made by the planner for the machine at hand, whether they fit there or not."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import ValidationError, convert, structs, to_builtins

from benchmarks.measure.matrix import Row
from planner.base.errors import InvalidRequestError, UserError
from planner.base.phrases import Reason
from planner.base.validation_messages import problem_of
from planner.decision.assemble import plan_of
from planner.decision.choose import Decision
from planner.decision.request import Request
from planner.decision.requested_workload import workload
from planner.hardware.cluster import Cluster, Device
from planner.hardware.detect import detect, parse_gpus
from planner.models.model_presets import ModelPreset, load_model
from planner.plan.schema import Plan
from planner.recipes.load_recipe import load_recipe
from planner.recipes.recipe import Recipe
from planner.search.candidate import Candidate
from planner.workload.layout import Layout

NO_GPU = "h100-sxm-80gb"
"""Card whose predictions are listed if this machine has none."""


class NotPlannableError(Exception):
    """An error for a row that the planner cannot express; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan with its prediction of each reading."""

    plan: Plan
    candidate: Candidate

    @property
    def predicted_bytes(self) -> dict[str, int]:
        memory = self.candidate.memory
        if self.plan.hardware.device == "cpu":
            return {"allocated": memory.peak_allocated_bytes}
        return {
            "allocated": memory.peak_allocated_bytes,
            "reserved": self.candidate.expected.reserved_bytes,
            "device_used": self.candidate.expected.device_used_bytes,
        }


def one_device(device: Device, environ: Mapping[str, str], *, listing: bool) -> Cluster:
    """Return the first GPU of this machine, or its CPU; for a listing, a card that is not here is
    enough."""
    if device == "cpu":
        return parse_gpus("cpu")
    found = detect(environ)
    if found.device == "cuda":
        return structs.replace(found, gpus_per_node=1, link="none", link_bytes_per_s=None)
    if listing:
        return parse_gpus(NO_GPU)
    reason = " ".join(found.notes) or "none was found."
    raise InvalidRequestError(
        f"--device cuda needs a GPU: {reason} --list shows what would be run, and --device cpu "
        "runs small shapes."
    )


def plan_row(row: Row, cluster: Cluster) -> Planned:
    """Return the plan of a row. Raises :class:`NotPlannableError` with the reason."""
    try:
        candidate, request = _candidate(row, cluster)
        plan = plan_of(_decision(request, candidate))
    except (UserError, ValueError) as error:
        raise NotPlannableError(str(error)) from error
    return Planned(plan=plan, candidate=candidate)


def _candidate(row: Row, cluster: Cluster) -> tuple[Candidate, Request]:
    request = Request(
        model=_model(row),
        cluster=cluster,
        recipe=_recipe(row),
        sequence_length=row.sequence_length,
        micro_batch_size=row.micro_batch_size,
        activation_checkpointing=row.activation_checkpointing,
        offload=row.offload,
        sequence_parallel_size=row.sequence_parallel_size,
    )
    work = workload(request, row.method)
    if work.attention != row.attention:
        device = cluster.device
        raise NotPlannableError(f"a plan for the {device} takes {work.attention} attention")
    layout = Layout(
        strategy=row.strategy,
        world_size=row.world_size,
        micro_batch_size=row.micro_batch_size,
        gradient_accumulation_steps=row.gradient_accumulation_steps,
        activation_checkpointing=row.activation_checkpointing,
        offload=row.offload,
        copies=row.copies,
        sequence_ranks=row.sequence_parallel_size,
    )
    return Candidate(workload=work, layout=layout, cluster=cluster), request


def _model(row: Row) -> ModelPreset:
    preset = load_model(row.model)
    if row.num_layers is None:
        return preset
    spec = structs.replace(preset.spec, num_layers=row.num_layers)
    return structs.replace(preset, spec=spec)


def _recipe(row: Row) -> Recipe:
    recipe = load_recipe(row.method)
    optimizer = to_builtins(recipe.optimizer) | {"name": row.optimizer}
    changes = {
        "loss": row.loss,
        "attention": row.attention,
        "optimizer": optimizer,
        "sequence_length": row.sequence_length,
        "packing": row.packing,
        "global_batch_size": row.global_batch_size,
    }
    content = to_builtins(recipe) | changes
    try:
        return convert(content, Recipe)
    except ValidationError as error:
        raise NotPlannableError(problem_of(error, Recipe, content).text) from error


def _decision(request: Request, candidate: Candidate) -> Decision:
    """Return the decision of a planner that chose this candidate."""
    return Decision(
        request=request,
        chosen=candidate,
        why=Reason("measured", "a row of the matrix"),
        alternatives=(),
        fallbacks=(),
        rejected=Counter(),
        richer=None,
        packed=None,
    )
