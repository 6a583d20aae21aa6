"""Options that contradict each other, the model or the machine are refused in one line."""

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.units import round_up
from planner.decision.request import Request
from planner.decision.requested_workload import adapted_experts, workload
from planner.models.adapter_targets import EXPERTS, Targets, expert_targets
from planner.plan.bounds import MOST_SAMPLES, RANKS_OF_EXPERTS
from planner.search.setting_checks import StatedSettings, check_stated, check_understood
from planner.workload.workload import Workload

_OPTIONS = {
    "sequence_length": "--sequence-length",
    "checkpoint_every": "--checkpoint-every",
    "activation_checkpointing": "--no-activation-checkpointing",
    "activation_offloading": "--activation-offloading",
    "tiled_mlp": "--tiled-mlp",
    "strategy": "--strategy",
    "zero_stage": "--zero-stage",
    "sequence_parallel_size": "--sequence-parallel-size",
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
            way_out=Phrase("leave it out"),
            sequence_length=request.sequence_length,
            checkpoint_every=request.checkpoint_every,
            activation_checkpointing=request.activation_checkpointing,
            activation_offloading=bool(request.activation_offloading),
            tiled_mlp=bool(request.tiled_mlp),
            strategy=request.strategy,
            zero_stage=request.zero_stage,
            sequence_parallel_size=request.sequence_ranks,
            offload=request.offload,
            precision=request.precision,
            loss=request.loss,
            attention=request.attention,
            targets=_named_targets(request),
            workloads=_workloads(request),
        )
    )
    _check_batch(request)


def _workloads(request: Request) -> tuple[Workload, ...]:
    """Return the methods' workloads, which only an attention that is stated is held against, and
    some kinds of adapters."""
    adapter = None if request.recipe is None else request.recipe.adapter
    of_a_kind = adapter is not None and (adapter.changes_base or adapter.vera)
    if request.attention is None and request.lora_init is None and not of_a_kind:
        return ()
    return tuple(workload(request, method) for method in request.methods)


def _named_targets(request: Request) -> Targets | None:
    """Return the targets that are stated, with the model's tensors in the place of the word for
    all that its experts hold."""
    targets = request.lora_targets
    known = expert_targets(request.model.spec)
    if targets is None or EXPERTS not in targets or not known:
        return targets
    return (*(name for name in targets if name != EXPERTS), *known)


def _check_batch(request: Request) -> None:
    total, micro = request.global_batch_size, request.micro_batch_size
    ranks, shared = request.data_ranks, request.sequence_ranks
    for method in request.methods:
        samples = workload(request, method).settings.global_batch_size
        if samples > MOST_SAMPLES:
            raise InvalidRequestError(
                Phrase(
                    "a step of {ranks:,} GPUs would have {samples:,} samples, and at most "
                    "{most:,} are planned: choose a smaller --micro-batch-size",
                    ranks=request.cluster.world_size,
                    samples=samples,
                    most=MOST_SAMPLES,
                )
            )
    if total is not None and total % ranks:
        below, above = total - total % ranks, round_up(total, ranks)
        choices = Phrase("{below} or {above}", below=below, above=above) if below else f"{above}"
        groups = Phrase("groups of {ranks} GPUs", ranks=shared)
        raise InvalidRequestError(
            Phrase(
                "--global-batch-size {total} cannot be shared equally by {ranks} {readers}: "
                "choose a multiple of {ranks}, such as {choices}",
                total=total,
                ranks=ranks,
                readers=groups if shared > 1 else Phrase("GPUs"),
                choices=choices,
            )
        )
    if micro is not None and total is not None and total % (micro * ranks):
        raise InvalidRequestError(
            Phrase(
                "--global-batch-size {total} is not a multiple of --micro-batch-size "
                "{micro}{each}: choose {multiple}, or another micro-batch size",
                total=total,
                micro=micro,
                each=_times(ranks, shared),
                multiple=round_up(total, micro * ranks),
            )
        )


def _times(readers: int, shared: int) -> str:
    """Return the words for what a micro-batch is multiplied by: nothing where one reads alone."""
    if readers == 1:
        return ""
    if shared == 1:
        return Phrase(" times {ranks} GPUs", ranks=readers)
    return Phrase(" times {readers} groups of {ranks} GPUs", readers=readers, ranks=shared)


def _check_adapter(request: Request) -> None:
    """Refuse options of adapters where none trains, and a recipe's targets that the model lacks.

    peft skips a name without a matrix as long as another name has one, so a recipe for another
    architecture may have some, but must have one that is here.
    """
    for option, value in (
        ("--lora-rank", request.lora_rank),
        ("--lora-dropout", request.lora_dropout),
        ("--lora-targets", request.lora_targets),
        ("--lora-init", request.lora_init),
    ):
        if value is not None and request.methods == ("full",):
            raise InvalidRequestError(
                Phrase("{option} has no meaning for full fine-tuning: leave it out", option=option)
            )
    _check_expert_adapters(request)
    adapter = request.recipe.adapter if request.recipe is not None else None
    if adapter is None or request.lora_targets is not None:
        return
    model, targets = request.model.spec, adapter.target_modules
    known = {linear.name for linear, _ in model.adaptable_linears}
    tensors = expert_targets(model, adapter.target_parameters)
    if isinstance(targets, tuple) and known.isdisjoint(targets) and not tensors:
        raise InvalidRequestError(
            Phrase(
                "the recipe adapts {targets}, and {model} has none of these: give "
                "--lora-targets all-linear, or its own names",
                targets=", ".join(targets),
                model=request.model.name,
            )
        )
    check_understood(model, request.model.name, targets)


def _check_expert_adapters(request: Request) -> None:
    """Refuse what adapters of routed experts cannot have, as the section of a plan does
    (planner/plan/schema.py:refuse_adapter)."""
    for method in request.methods:
        recipe = request.recipe_for(method)
        adapter = recipe.adapter
        if adapter is None or not adapted_experts(request, adapter):
            continue
        if adapter.dora:
            raise InvalidRequestError(
                Phrase(
                    "peft adapts routed experts without DoRA, which {recipe} has: leave experts "
                    "out of the targets",
                    recipe=recipe.name,
                )
            )
        if request.lora_dropout or (request.lora_dropout is None and adapter.dropout):
            raise InvalidRequestError(
                Phrase(
                    "peft adapts routed experts without dropout, and {method} has {dropout:g}: "
                    "give --lora-dropout 0, or leave experts out of the targets",
                    method=method,
                    dropout=request.lora_dropout or adapter.dropout,
                )
            )
        rank = request.lora_rank or adapter.rank
        if rank % RANKS_OF_EXPERTS:
            raise InvalidRequestError(
                Phrase(
                    "adapters of routed experts need a rank that {ranks} divides, and {method} has "
                    "{rank}: give --lora-rank, or leave experts out of the targets",
                    ranks=RANKS_OF_EXPERTS,
                    method=method,
                    rank=rank,
                )
            )
