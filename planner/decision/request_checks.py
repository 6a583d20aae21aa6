"""Options that contradict each other, the model or the machine are refused in one line."""

from planner.base.errors import InvalidRequestError, UnknownNameError
from planner.base.units import round_up
from planner.decision.request import Request
from planner.decision.requested_workload import workload
from planner.models.adapter_targets import Targets, misunderstood_targets
from planner.models.traced_model import TracedSpec
from planner.plan.bounds import FEWEST_TOKENS, MOST_SAMPLES
from planner.plan.vocabulary import OFFLOADS_FROM
from planner.search.loss_attention_variants import admitted_attention


def check(request: Request) -> None:
    """Raise InvalidRequestError or UnknownNameError where options contradict each other, the model
    or the machine."""
    ranks = request.cluster.world_size
    _check_offload(request)
    if request.zero_stage and ranks == 1 and request.offload in (None, "none"):
        raise InvalidRequestError(
            f"--zero-stage {request.zero_stage} shards over several GPUs and there is one: "
            "leave it out, or name more with --gpus"
        )
    _check_adapter(request)
    _check_numerics(request)
    _check_checkpointing(request)
    _check_length(request)
    _check_batch(request, ranks)


def _check_checkpointing(request: Request) -> None:
    every, num_layers = request.checkpoint_every, request.model.spec.num_layers
    if every is None:
        return
    if request.activation_checkpointing is False:
        raise InvalidRequestError(
            f"--checkpoint-every {every} recomputes activations and --no-activation-checkpointing "
            "keeps them: leave one of the two out"
        )
    if every > num_layers:
        raise InvalidRequestError(
            f"--checkpoint-every {every} is beyond the {num_layers} layers of "
            f"{request.model.name}: choose at most {num_layers}"
        )


def _check_offload(request: Request) -> None:
    offload, stage = request.offload or "none", request.zero_stage
    if offload != "none" and request.cluster.device == "cpu":
        raise InvalidRequestError(
            f"--offload {offload} moves what a GPU holds to host memory, and there is no GPU: "
            "leave it out, or name a card with --gpus"
        )
    if stage is not None and stage not in OFFLOADS_FROM[offload]:
        stages = " or ".join(map(str, OFFLOADS_FROM[offload]))
        raise InvalidRequestError(
            f"--offload {offload} cannot be combined with --zero-stage {stage}: "
            f"choose stage {stages}"
        )


def _check_length(request: Request) -> None:
    longest = request.model.spec.max_position_embeddings
    if longest < FEWEST_TOKENS:
        raise InvalidRequestError(
            f"{request.model.name} has {longest} position, and training needs {FEWEST_TOKENS}: "
            "a token, and one that it is predicted from. Choose another --model"
        )
    if request.sequence_length is not None and request.sequence_length > longest:
        raise InvalidRequestError(
            f"--sequence-length {request.sequence_length} is beyond the {longest:,} positions "
            f"of {request.model.name}: choose at most {longest}"
        )


def _check_batch(request: Request, ranks: int) -> None:
    total, micro = request.global_batch_size, request.micro_batch_size
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
    """Refuse rank and targets where no adapter trains, and targets that the model lacks."""
    for option, value in (
        ("--lora-rank", request.lora_rank),
        ("--lora-targets", request.lora_targets),
    ):
        if value is not None and request.methods == ("full",):
            raise InvalidRequestError(f"{option} has no meaning for full fine-tuning: leave it out")
    adapter = request.recipe.adapter if request.recipe is not None else None
    recipes = adapter.target_modules if adapter is not None else None
    _check_names(request, recipes)
    targets = request.lora_targets or recipes
    names = misunderstood_targets(request.model.spec, targets) if targets is not None else ()
    if names:
        raise InvalidRequestError(
            f"peft adapts the fused experts of {request.model.name} for {', '.join(names)}, which "
            "is not planned: leave these names out of the targets"
        )


def _check_names(request: Request, recipes: Targets | None) -> None:
    """Refuse names that no matrix of the model has.

    peft skips a name without a matrix as long as another name has one, so a recipe for another
    architecture may have some, but must have one that is here.
    """
    known = {linear.name for linear, _ in request.model.spec.counted_linears}
    if isinstance(request.lora_targets, tuple):
        for name in request.lora_targets:
            if name not in known:
                see = "config.json's architecture"
                raise UnknownNameError(f"matrix of {request.model.name}", name, known, see=see)
    elif request.lora_targets is None and isinstance(recipes, tuple) and known.isdisjoint(recipes):
        raise InvalidRequestError(
            f"the recipe adapts {', '.join(recipes)}, and {request.model.name} has none of these: "
            "give --lora-targets all-linear, or its own names"
        )


def _check_numerics(request: Request) -> None:
    """Refuse a precision that the device lacks, and a loss or attention that the model lacks."""
    cluster, model = request.cluster, request.model.spec
    if request.precision == "bf16" and not cluster.accelerator.supports_bf16:
        raise InvalidRequestError(
            f"--precision bf16 needs compute capability 8.0, which "
            f"{cluster.accelerator.device_name} does not have: take fp16, or leave it out"
        )
    if request.precision == "fp16" and cluster.device == "cpu":
        raise InvalidRequestError(
            "--precision fp16 needs a GPU: accelerate refuses it on the CPU. "
            "Take fp32, or leave it out"
        )
    if isinstance(model, TracedSpec) and request.loss not in (None, model.loss):
        raise InvalidRequestError(
            f"--loss {request.loss} cannot be combined with {model.model_type}, which trl "
            f"trains only with the {model.loss} loss: leave it out"
        )
    for method in request.methods if request.attention is not None else ():
        only = admitted_attention(workload(request, method), cluster.device)
        if request.attention not in only:
            where = " on the CPU" if cluster.device == "cpu" else ""
            raise InvalidRequestError(
                f"--attention {request.attention} cannot be combined with {model.model_type}, "
                f"which is planned only with {only[0]}{where}: leave it out"
            )
