"""Settings that contradict the model, the machine or one another are refused in one line.

The options of ``plan`` and the keys of a plan that somebody has edited go through the same checks:
both are stated settings, which differ in their names.
"""

from collections.abc import Mapping

from msgspec import Struct

from planner.base.errors import InvalidRequestError, NoFormulasError, UnknownNameError
from planner.base.phrases import Phrase
from planner.hardware.cluster import Cluster
from planner.models.adapter_targets import (
    Targets,
    divided,
    expert_targets,
    misunderstood_targets,
)
from planner.models.model_spec import ModelSpec
from planner.models.traced_model import TracedSpec
from planner.plan.bounds import FEWEST_TOKENS
from planner.plan.schema import Plan
from planner.plan.vocabulary import (
    OFFLOADS_WITH,
    PURE,
    SHARES_SAMPLES,
    WITHOUT_STAGE,
    ZERO_STAGE,
    AttentionName,
    Loss,
    Offload,
    Strategy,
    TrainingPrecision,
)
from planner.search.loss_attention_variants import admitted_attention
from planner.search.repredict import cluster_of, workload_of
from planner.workload.workload import Workload


class StatedSettings(Struct, frozen=True, kw_only=True):
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
    activation_offloading: bool = False
    tiled_mlp: bool = False
    strategy: Strategy | None = None
    zero_stage: int | None = None
    sequence_parallel_size: int = 1
    offload: Offload | None = None
    precision: TrainingPrecision | None = None
    loss: Loss | None = None
    attention: AttentionName | None = None
    targets: Targets | None = None
    workloads: tuple[Workload, ...] = ()
    """Workloads of which one is trained: ``attention`` must be possible in all."""

    def said(self, setting: str) -> str:
        """Return a setting as it was written: ``--zero-stage 3``."""
        return f"{self.names[setting]} {getattr(self, setting)}"


def check_stated(stated: StatedSettings) -> None:
    """Raise InvalidRequestError or UnknownNameError for the first setting that cannot be met."""
    _check_ranks(stated)
    _check_strategy(stated)
    _check_shared_sequences(stated)
    _check_offload(stated)
    _check_activation_offloading(stated)
    _check_tiled_mlp(stated)
    _check_targets(stated)
    _check_beginning(stated)
    _check_shared(stated)
    _check_precision(stated)
    _check_loss(stated)
    _check_attention(stated)
    _check_checkpointing(stated)
    _check_length(stated)


_KEYS = {
    "sequence_length": "batch.sequence_length",
    "checkpoint_every": "checkpoint_every",
    "activation_checkpointing": "activation_checkpointing",
    "activation_offloading": "activation_offloading",
    "tiled_mlp": "tiled_mlp",
    "strategy": "parallel.strategy",
    "zero_stage": "parallel.zero_stage",
    "sequence_parallel_size": "parallel.sequence_parallel_size",
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
            way_out=Phrase("change it, or plan again"),
            sequence_length=plan.batch.sequence_length,
            checkpoint_every=plan.checkpoint_every if plan.activation_checkpointing else None,
            activation_checkpointing=plan.activation_checkpointing,
            activation_offloading=plan.activation_offloading,
            tiled_mlp=plan.tiled_mlp,
            strategy=plan.parallel.strategy,
            zero_stage=plan.parallel.zero_stage,
            sequence_parallel_size=plan.parallel.sequence_parallel_size,
            offload=plan.parallel.offload,
            precision=plan.precision.compute,
            loss=plan.loss,
            attention=plan.attention,
            targets=None if plan.adapter is None else plan.adapter.targets,
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
    of_several = stated.strategy not in (None, "single")
    setting = "zero_stage" if stated.zero_stage else "strategy"
    if alone and (of_several or stated.zero_stage) and stated.offload in (None, "none"):
        raise InvalidRequestError(
            Phrase(
                "{said} shards over several GPUs and there is one: {way_out}, or name more "
                "with --gpus",
                said=stated.said(setting),
                way_out=stated.way_out,
            )
        )


def _check_strategy(stated: StatedSettings) -> None:
    if stated.strategy in SHARES_SAMPLES:
        _require_formulas(stated, stated.said("strategy"))
    if stated.strategy is None or stated.zero_stage is None:
        return
    if ZERO_STAGE[stated.strategy] != stated.zero_stage:
        raise InvalidRequestError(
            Phrase(
                "{said} and {zero_stage} are two strategies: choose one",
                said=stated.said("strategy"),
                zero_stage=stated.said("zero_stage"),
            )
        )


def _require_formulas(stated: StatedSettings, said: str) -> None:
    """Raise ``InvalidRequestError`` if ``said`` is stated for a model without formulas."""
    if isinstance(stated.model, TracedSpec):
        raise InvalidRequestError(
            Phrase(
                "{said} is planned for models with formulas, and {model_name} has none: {way_out}",
                said=said,
                model_name=stated.model_name,
                way_out=stated.way_out,
            )
        )


def _check_shared_sequences(stated: StatedSettings) -> None:
    if stated.sequence_parallel_size == 1:
        return
    from planner.search.shared_sequences import obstacle  # few plans share sequences

    found = obstacle(
        stated.model,
        stated.sequence_parallel_size,
        sequence_length=stated.sequence_length,
        gpus_per_node=stated.cluster.gpus_per_node,
    )
    if found is not None:
        raise InvalidRequestError(
            Phrase(
                "{said}: {obstacle}: {way_out}",
                said=stated.said("sequence_parallel_size"),
                obstacle=found,
                way_out=stated.way_out,
            )
        )


def _check_offload(stated: StatedSettings) -> None:
    offload, stage = stated.offload or "none", stated.zero_stage
    if offload != "none" and stated.cluster.device == "cpu":
        raise InvalidRequestError(
            Phrase(
                "{said} moves what a GPU holds to host memory, and there is no GPU: "
                "{way_out}, or name a card with --gpus",
                said=stated.said("offload"),
                way_out=stated.way_out,
            )
        )
    possible = OFFLOADS_WITH[offload]
    stages = [ZERO_STAGE[each] for each in possible if each not in WITHOUT_STAGE]
    if stage is not None and stated.strategy not in WITHOUT_STAGE and stage not in stages:
        raise InvalidRequestError(
            Phrase(
                "{said} cannot be combined with {zero_stage}: choose stage {stages}",
                said=stated.said("offload"),
                zero_stage=stated.said("zero_stage"),
                stages=" or ".join(map(str, stages)),
            )
        )


def _require_recomputation(stated: StatedSettings, said: str) -> None:
    """Raise ``InvalidRequestError`` if activations are to be kept; ``said`` recomputes them."""
    if stated.activation_checkpointing is False:
        raise InvalidRequestError(
            Phrase(
                "{said} recomputes activations and {option} keeps them: leave one of the two out",
                said=said,
                option=stated.names["activation_checkpointing"],
            )
        )


def _check_tiled_mlp(stated: StatedSettings) -> None:
    """Refuse tiles where the layers' MLPs are not modules of their own that take tokens alone."""
    if not stated.tiled_mlp:
        return
    name = stated.names["tiled_mlp"]
    _require_formulas(stated, name)
    if stated.model is not None and not stated.model.can_tile_mlp:
        raise InvalidRequestError(
            Phrase(
                "{said} cuts the tokens of an MLP, and the layers of {model_type} have experts, or "
                "an MLP that also reads or drops something else: {way_out}",
                said=name,
                model_type=stated.model.model_type,
                way_out=stated.way_out,
            )
        )


def _check_activation_offloading(stated: StatedSettings) -> None:
    """Refuse to offload activations where no device has them, or where they would be kept."""
    if not stated.activation_offloading:
        return
    name, card = stated.names["activation_offloading"], stated.cluster.accelerator
    if stated.cluster.device == "cpu" or card.unified_memory:
        raise InvalidRequestError(
            Phrase(
                "{said} moves what a GPU holds to host memory, and {device} has one memory for "
                "both: {way_out}",
                said=name,
                device=card.device_name,
                way_out=stated.way_out,
            )
        )
    _require_recomputation(stated, name)
    _require_formulas(stated, name)
    if stated.model is not None and not stated.model.can_recompute:
        raise InvalidRequestError(
            Phrase(
                "{said} recomputes activations, which transformers cannot do for {model_type}: "
                "{way_out}",
                said=name,
                model_type=stated.model.model_type,
                way_out=stated.way_out,
            )
        )


def _check_targets(stated: StatedSettings) -> None:
    """Refuse names that no matrix of the model has, and those that peft understands otherwise."""
    if stated.model is None or stated.targets is None:
        return
    targets, tensors = divided(stated.targets)
    if tensors:
        _check_experts(stated.model, stated.model_name, tensors)
    if not isinstance(targets, tuple):
        return
    known = {linear.name for linear, _ in stated.model.adaptable_linears}
    for name in targets:
        if name not in known:
            see = Phrase("config.json's architecture")
            raise UnknownNameError(
                Phrase("matrix of {model_name}", model_name=stated.model_name), name, known, see=see
            )
    check_understood(stated.model, stated.model_name, targets)


def _check_beginning(stated: StatedSettings) -> None:
    """Refuse adapters that begin as a part of a matrix that has fewer rows or columns than they, or
    that two modules share, which would be parted twice."""
    for work in stated.workloads:
        adapter = work.settings.adapter
        if adapter is None or not adapter.changes_base:
            continue
        for matrix, _ in work.counted_adapted:
            smaller = min(matrix.in_features, matrix.out_features)
            if smaller < adapter.rank:
                raise InvalidRequestError(
                    Phrase(
                        "adapters that begin as {init} have at most the rank of their matrix, and "
                        "{matrix} of {model_name} has {smaller}: choose a rank of at most "
                        "{smaller}",
                        init=adapter.init,
                        matrix=matrix.name,
                        model_name=stated.model_name,
                        smaller=smaller,
                    )
                )
            if matrix.tied:
                raise InvalidRequestError(
                    Phrase(
                        "adapters that begin as {init} would part {matrix} of {model_name} twice, "
                        "since modules share it: leave adapter.init at default",
                        init=adapter.init,
                        matrix=matrix.name,
                        model_name=stated.model_name,
                    )
                )


def _check_shared(stated: StatedSettings) -> None:
    """Refuse VeRA where no formulas say what it takes, and where peft would adapt models of images
    and of sound, too: its VeraConfig has no exclude_modules."""
    if not any(work.trains_vectors for work in stated.workloads):
        return
    model = stated.model
    if isinstance(model, TracedSpec) or (model is not None and model.towers):
        raise InvalidRequestError(
            Phrase(
                "VeRA is planned for text models with formulas, and {model_name} is not one: leave "
                "adapter.vera at false",
                model_name=stated.model_name,
            )
        )


def _check_experts(model: ModelSpec, model_name: str, tensors: tuple[str, ...]) -> None:
    """Refuse tensors of routed experts that the model lacks, or that are multiplied otherwise than
    expert by expert."""
    known = expert_targets(model)
    if not known:
        raise InvalidRequestError(
            Phrase(
                "{model_name} has no routed experts that adapters are planned on: leave {targets} "
                "out of the targets",
                model_name=model_name,
                targets=", ".join(tensors),
            )
        )
    for name in tensors:
        if name not in known:
            noun = Phrase("tensor of the experts of {model_name}", model_name=model_name)
            raise UnknownNameError(noun, name, known, see=", ".join(known))


def check_understood(model: ModelSpec, model_name: str, targets: Targets) -> None:
    """Raise InvalidRequestError for names that peft takes for a model's fused experts."""
    names = misunderstood_targets(model, targets)
    if names:
        raise InvalidRequestError(
            Phrase(
                "peft adapts the fused experts of {model_name} for {targets}, which is not "
                "planned: leave these names out of the targets{instead}",
                model_name=model_name,
                targets=", ".join(names),
                instead=Phrase(", and name experts for all that they hold")
                if expert_targets(model)
                else "",
            )
        )


def _check_precision(stated: StatedSettings) -> None:
    cluster = stated.cluster
    on_gpu = cluster.device == "cuda"
    if stated.precision in ("bf16", PURE) and on_gpu and not cluster.accelerator.supports_bf16:
        raise InvalidRequestError(
            Phrase(
                "{said} needs compute capability 8.0, which {device_name} does not have: "
                "take fp16, or {way_out}",
                said=stated.said("precision"),
                device_name=cluster.accelerator.device_name,
                way_out=stated.way_out,
            )
        )
    if stated.precision == "fp16" and not on_gpu:
        raise InvalidRequestError(
            Phrase(
                "{said} needs a GPU: accelerate refuses it on the CPU. Take fp32, or {way_out}",
                said=stated.said("precision"),
                way_out=stated.way_out,
            )
        )


def _check_loss(stated: StatedSettings) -> None:
    model = stated.model
    if stated.loss == "fused" and model is not None and model.only_loss is not None:
        raise InvalidRequestError(
            Phrase(
                "{said} cannot be combined with {model_type}, which trl has no fused head "
                "for: {way_out}",
                said=stated.said("loss"),
                model_type=model.model_type,
                way_out=stated.way_out,
            )
        )


def _check_attention(stated: StatedSettings) -> None:
    """Refuse an attention that transformers lacks for the model."""
    device = stated.cluster.device
    for work in stated.workloads if stated.attention is not None else ():
        only = admitted_attention(work, device)
        if stated.attention not in only:
            where = Phrase(" on the CPU") if device == "cpu" else ""
            raise InvalidRequestError(
                Phrase(
                    "{said} cannot be combined with {model_type}, which is planned only with "
                    "{only}{where}: {way_out}",
                    said=stated.said("attention"),
                    model_type=work.model.model_type,
                    only=only[0],
                    where=where,
                    way_out=stated.way_out,
                )
            )


def _check_checkpointing(stated: StatedSettings) -> None:
    every, model = stated.checkpoint_every, stated.model
    if (every or stated.activation_checkpointing) and model and not model.can_recompute:
        raise InvalidRequestError(
            Phrase(
                "transformers cannot recompute activations of {model_type}: keep them ({option})",
                model_type=model.model_type,
                option=stated.names["activation_checkpointing"],
            )
        )
    if every is None:
        return
    _require_recomputation(stated, stated.said("checkpoint_every"))
    if model is not None and every > model.num_layers:
        raise InvalidRequestError(
            Phrase(
                "{said} is beyond the {num_layers} {num_layers[layer|layers]} of {model_name}: "
                "choose at most {num_layers}",
                said=stated.said("checkpoint_every"),
                num_layers=model.num_layers,
                model_name=stated.model_name,
            )
        )


def _check_length(stated: StatedSettings) -> None:
    length, longest = stated.sequence_length, stated.positions
    if longest is not None and longest < FEWEST_TOKENS:
        raise InvalidRequestError(
            Phrase(
                "{model_name} has {longest} position, and training needs {fewest}: a "
                "token, and one that it is predicted from. Choose another --model",
                model_name=stated.model_name,
                longest=longest,
                fewest=FEWEST_TOKENS,
            )
        )
    if length is not None and longest is not None and length > longest:
        raise InvalidRequestError(
            Phrase(
                "{said} is beyond the {longest:,} positions of {model_name}: choose at most "
                "{longest}",
                said=stated.said("sequence_length"),
                longest=longest,
                model_name=stated.model_name,
            )
        )
