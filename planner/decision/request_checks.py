"""Options that contradict each other, the model or the machine are refused in one line."""

from planner.base.errors import InvalidRequestError
from planner.base.units import round_up
from planner.decision.request import Request
from planner.decision.requested_workload import workload
from planner.plan.bounds import MOST_SAMPLES
from planner.search.setting_checks import StatedSettings, check_stated, check_understood
from planner.workload.workload import Workload

_OPTIONS = {
    "sequence_length": "--sequence-length",
    "checkpoint_every": "--checkpoint-every",
    "activation_checkpointing": "--no-activation-checkpointing",
    "zero_stage": "--zero-stage",
    "offload": "--offload",
    "precision": "--precision",
    "loss": "--loss",
    "attention": "--attention",
    "targets": "--lora-targets",
}
"""Options by the settings that they state."""


def check(request: Request) -> None:
    """Raise InvalidRequestError or UnknownNameError where options contradict each other, the model
    or the machine."""
    _check_adapter(request)
    spec = request.model.spec
    check_stated(
        StatedSettings(
            cluster=request.cluster,
            model_name=request.model.name,
            model=spec,
            positions=spec.max_position_embeddings,
            names=_OPTIONS,
            way_out="leave it out",
            sequence_length=request.sequence_length,
            checkpoint_every=request.checkpoint_every,
            activation_checkpointing=request.activation_checkpointing,
            zero_stage=request.zero_stage,
            offload=request.offload,
            precision=request.precision,
            loss=request.loss,
            attention=request.attention,
            targets=request.lora_targets,
            workloads=_workloads(request),
        )
    )
    _check_batch(request)


def _workloads(request: Request) -> tuple[Workload, ...]:
    """Return the methods' workloads, which only an attention that is stated is held against."""
    if request.attention is None:
        return ()
    return tuple(workload(request, method) for method in request.methods)


def _check_batch(request: Request) -> None:
    total, micro = request.global_batch_size, request.micro_batch_size
    ranks = request.cluster.world_size
    for method in request.methods:
        samples = workload(request, method).settings.global_batch_size
        if samples > MOST_SAMPLES:
            raise InvalidRequestError(
                f"a step of {ranks:,} GPUs would have {samples:,} samples, and at most "
                f"{MOST_SAMPLES:,} are planned: choose a smaller --micro-batch-size"
            )
    if total is not None and total % ranks:
        below, above = total - total % ranks, round_up(total, ranks)
        choices = f"{below} or {above}" if below else f"{above}"
        raise InvalidRequestError(
            f"--global-batch-size {total} cannot be shared equally by {ranks} GPUs: "
            f"choose a multiple of {ranks}, such as {choices}"
        )
    if micro is not None and total is not None and total % (micro * ranks):
        raise InvalidRequestError(
            f"--global-batch-size {total} is not a multiple of --micro-batch-size {micro} "
            f"times {ranks} GPU{'s' if ranks > 1 else ''}: "
            f"choose {round_up(total, micro * ranks)}, or another micro-batch size"
        )


def _check_adapter(request: Request) -> None:
    """Refuse rank and targets where no adapter trains, and a recipe's targets that the model lacks.

    peft skips a name without a matrix as long as another name has one, so a recipe for another
    architecture may have some, but must have one that is here.
    """
    for option, value in (
        ("--lora-rank", request.lora_rank),
        ("--lora-targets", request.lora_targets),
    ):
        if value is not None and request.methods == ("full",):
            raise InvalidRequestError(f"{option} has no meaning for full fine-tuning: leave it out")
    adapter = request.recipe.adapter if request.recipe is not None else None
    if adapter is None or request.lora_targets is not None:
        return
    model, targets = request.model.spec, adapter.target_modules
    known = {linear.name for linear, _ in model.adaptable_linears}
    if isinstance(targets, tuple) and known.isdisjoint(targets):
        raise InvalidRequestError(
            f"the recipe adapts {', '.join(targets)}, and {request.model.name} has none of these: "
            "give --lora-targets all-linear, or its own names"
        )
    check_understood(model, request.model.name, targets)
