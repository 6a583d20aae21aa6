"""Settings that contradict the model, the machine or one another are refused in one line.

The options of ``plan`` and the keys of a plan that somebody has edited go through the same checks:
both are stated settings, which differ in their names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.base.errors import InvalidRequestError, NoFormulasError, UnknownNameError
from planner.hardware.cluster import Cluster
from planner.models.adapter_targets import Targets, misunderstood_targets
from planner.models.model_spec import ModelSpec
from planner.models.traced_model import TracedSpec
from planner.plan.bounds import FEWEST_TOKENS
from planner.plan.schema import Plan
from planner.plan.vocabulary import (
    OFFLOADS_FROM,
    PURE,
    AttentionName,
    Loss,
    Offload,
    TrainingPrecision,
)
from planner.search.loss_attention_variants import admitted_attention
from planner.search.repredict import cluster_of, workload_of
from planner.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedSettings:
    """The settings that somebody has stated; None for those that are left open."""

    cluster: Cluster
    model_name: str
    model: ModelSpec | None
    """Shape of the model; None if there are no formulas for it."""
    positions: int | None
    """Positions of the model; None if they are unknown."""
    names: Mapping[str, str]
    """Names of the settings as they were written, by the names of the fields below."""
    way_out: str
    """Words for what to do with a setting that is refused: ``leave it out``."""
    sequence_length: int | None = None
    checkpoint_every: int | None = None
    activation_checkpointing: bool | None = None
    zero_stage: int | None = None
    offload: Offload | None = None
    precision: TrainingPrecision | None = None
    loss: Loss | None = None
    attention: AttentionName | None = None
    targets: Targets | None = None
    workloads: tuple[Workload, ...] = field(default=())
    """Workloads of which one is trained: ``attention`` must be possible in all."""

    def said(self, setting: str) -> str:
        """Return a setting as it was written: ``--zero-stage 3``."""
        return f"{self.names[setting]} {getattr(self, setting)}"


def check_stated(stated: StatedSettings) -> None:
    """Raise InvalidRequestError or UnknownNameError for the first setting that cannot be met."""
    _check_ranks(stated)
    _check_offload(stated)
    _check_targets(stated)
    _check_precision(stated)
    _check_loss(stated)
    _check_attention(stated)
    _check_checkpointing(stated)
    _check_length(stated)


_KEYS = {
    "sequence_length": "batch.sequence_length",
    "checkpoint_every": "checkpoint_every",
    "activation_checkpointing": "activation_checkpointing",
    "zero_stage": "parallel.zero_stage",
    "offload": "parallel.offload",
    "precision": "precision.compute",
    "loss": "loss",
    "attention": "attention",
    "targets": "adapter.target_modules",
}
"""Keys of a plan by the settings that they state."""


def check_plan(plan: Plan) -> None:
    """Raise InvalidRequestError or UnknownNameError for a plan that ``plan`` would refuse to make.

    A plan without a model's shape, or of a model without formulas, is held against its machine and
    what its configuration says.
    """
    work = _workload(plan)
    check_stated(
        StatedSettings(
            cluster=cluster_of(plan),
            model_name=plan.model.name,
            model=None if work is None else work.model,
            positions=_positions(plan) if work is None else work.model.max_position_embeddings,
            names=_KEYS,
            way_out="change it, or plan again",
            sequence_length=plan.batch.sequence_length,
            checkpoint_every=plan.checkpoint_every if plan.activation_checkpointing else None,
            activation_checkpointing=plan.activation_checkpointing,
            zero_stage=plan.parallel.zero_stage,
            offload=plan.parallel.offload,
            precision=plan.precision.compute,
            loss=plan.loss,
            attention=plan.attention,
            targets=None if plan.adapter is None else plan.adapter.target_modules,
            workloads=() if work is None else (work,),
        )
    )


def _workload(plan: Plan) -> Workload | None:
    if plan.model.config is None:
        return None
    try:
        return workload_of(plan)
    except NoFormulasError:
        return None


def _positions(plan: Plan) -> int | None:
    """Return the positions that transformers' configuration states, if it does."""
    stated = (plan.model.config or {}).get("max_position_embeddings")
    return stated if isinstance(stated, int) else None


def _check_ranks(stated: StatedSettings) -> None:
    alone = stated.cluster.world_size == 1
    if stated.zero_stage and alone and stated.offload in (None, "none"):
        raise InvalidRequestError(
            f"{stated.said('zero_stage')} shards over several GPUs and there is one: "
            f"{stated.way_out}, or name more with --gpus"
        )


def _check_offload(stated: StatedSettings) -> None:
    offload, stage = stated.offload or "none", stated.zero_stage
    if offload != "none" and stated.cluster.device == "cpu":
        raise InvalidRequestError(
            f"{stated.said('offload')} moves what a GPU holds to host memory, and there is no GPU: "
            f"{stated.way_out}, or name a card with --gpus"
        )
    if stage is not None and stage not in OFFLOADS_FROM[offload]:
        stages = " or ".join(map(str, OFFLOADS_FROM[offload]))
        raise InvalidRequestError(
            f"{stated.said('offload')} cannot be combined with {stated.said('zero_stage')}: "
            f"choose stage {stages}"
        )


def _check_targets(stated: StatedSettings) -> None:
    """Refuse names that no matrix of the model has, and those that peft understands otherwise."""
    if stated.model is None or not isinstance(stated.targets, tuple):
        return
    known = {linear.name for linear, _ in stated.model.adaptable_linears}
    for name in stated.targets:
        if name not in known:
            see = "config.json's architecture"
            raise UnknownNameError(f"matrix of {stated.model_name}", name, known, see=see)
    check_understood(stated.model, stated.model_name, stated.targets)


def check_understood(model: ModelSpec, model_name: str, targets: Targets) -> None:
    """Raise InvalidRequestError for names that peft takes for a model's fused experts."""
    names = misunderstood_targets(model, targets)
    if names:
        raise InvalidRequestError(
            f"peft adapts the fused experts of {model_name} for {', '.join(names)}, which "
            "is not planned: leave these names out of the targets"
        )


def _check_precision(stated: StatedSettings) -> None:
    cluster = stated.cluster
    on_gpu = cluster.device == "cuda"
    if stated.precision in ("bf16", PURE) and on_gpu and not cluster.accelerator.supports_bf16:
        raise InvalidRequestError(
            f"{stated.said('precision')} needs compute capability 8.0, which "
            f"{cluster.accelerator.device_name} does not have: take fp16, or {stated.way_out}"
        )
    if stated.precision == "fp16" and not on_gpu:
        raise InvalidRequestError(
            f"{stated.said('precision')} needs a GPU: accelerate refuses it on the CPU. "
            f"Take fp32, or {stated.way_out}"
        )


def _check_loss(stated: StatedSettings) -> None:
    model = stated.model
    if isinstance(model, TracedSpec) and stated.loss == "fused" and model.loss != "fused":
        raise InvalidRequestError(
            f"{stated.said('loss')} cannot be combined with {model.model_type}, which trl has no "
            f"fused head for: {stated.way_out}"
        )


def _check_attention(stated: StatedSettings) -> None:
    """Refuse an attention that transformers lacks for the model."""
    device = stated.cluster.device
    for work in stated.workloads if stated.attention is not None else ():
        only = admitted_attention(work, device)
        if stated.attention not in only:
            where = " on the CPU" if device == "cpu" else ""
            raise InvalidRequestError(
                f"{stated.said('attention')} cannot be combined with {work.model.model_type}, "
                f"which is planned only with {only[0]}{where}: {stated.way_out}"
            )


def _check_checkpointing(stated: StatedSettings) -> None:
    every = stated.checkpoint_every
    if every is None:
        return
    if stated.activation_checkpointing is False:
        raise InvalidRequestError(
            f"{stated.said('checkpoint_every')} recomputes activations and "
            f"{stated.names['activation_checkpointing']} keeps them: leave one of the two out"
        )
    if stated.model is not None and every > stated.model.num_layers:
        raise InvalidRequestError(
            f"{stated.said('checkpoint_every')} is beyond the {stated.model.num_layers} layers of "
            f"{stated.model_name}: choose at most {stated.model.num_layers}"
        )


def _check_length(stated: StatedSettings) -> None:
    length, longest = stated.sequence_length, stated.positions
    if longest is not None and longest < FEWEST_TOKENS:
        raise InvalidRequestError(
            f"{stated.model_name} has {longest} position, and training needs {FEWEST_TOKENS}: "
            "a token, and one that it is predicted from. Choose another --model"
        )
    if length is not None and longest is not None and length > longest:
        raise InvalidRequestError(
            f"{stated.said('sequence_length')} is beyond the {longest:,} positions "
            f"of {stated.model_name}: choose at most {longest}"
        )
