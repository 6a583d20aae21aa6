"""Whether a plan's settings can be combined, by the same rules as the planner's own choice."""

from typing import get_args

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.plan.schema import Plan
from planner.search.repredict import cluster_of
from planner.search.setting_checks import check_plan
from planner.workload.rules import Combination, Pinned, broken_rule, has_even_parts


def require_possible(plan: Plan) -> None:
    """Raise ``InvalidRequestError`` for a plan that no planner would have made.

    That is one with a setting that its model or its machine cannot meet, or one against
    presets/rules.yaml on its own card.
    """
    check_plan(plan)
    on_gpu = plan.hardware.device == "cuda"
    require_rules_kept(plan, cluster_of(plan).accelerator.compute_capability if on_gpu else None)


def require_rules_kept(
    plan: Plan, compute_capability: str | None, card_name: str | None = None
) -> None:
    """Raise ``InvalidRequestError`` if a rule forbids the plan on a card of this capability.

    ``compute_capability`` is None if the device has none or it is unknown; ``card_name`` is the
    card's name for the message, if it is another card than the plan's.
    """
    combination = Combination(
        method=plan.method,
        strategy=plan.parallel.strategy,
        offload=plan.parallel.offload,
        optimizer=plan.optimizer.name,
        device=plan.hardware.device,
        model_type=plan.model.model_type,
        attention=plan.attention,
        compute=plan.precision.compute,
        packing=plan.batch.packing,
        pure=plan.precision.pure,
        adapts_experts=plan.adapter is not None and bool(plan.adapter.target_parameters),
        changes_base=plan.adapter is not None and plan.adapter.changes_base,
        trains_vectors=plan.adapter is not None and plan.adapter.vera,
        quant_type=None if plan.quantization is None else plan.quantization.quant_type,
        several_nodes=plan.parallel.num_nodes > 1,
        dora=plan.adapter is not None and plan.adapter.dora,
        even_parts=has_even_parts(
            plan.parallel.strategy, plan.model.config or {}, plan.parallel.world_size
        ),
        compute_capability=compute_capability,
        shares_sequences=plan.parallel.sequence_parallel_size > 1,
        tiled_mlp=plan.tiled_mlp,
    )
    rule = broken_rule(combination, pinned=frozenset(get_args(Pinned)))
    if rule is None:
        return
    offload = plan.parallel.offload
    under: str = plan.parallel.strategy
    if offload != "none":
        under += Phrase(" with offload {offload}", offload=offload)
    raise InvalidRequestError(
        Phrase(
            "{method} with {name} under {under} on {card} is refused: {reason}. Plan again",
            method=_method(plan),
            name=plan.optimizer.name,
            under=under,
            card=card_name or plan.hardware.device_name,
            reason=Phrase(rule.reason),
        )
    )


def _method(plan: Plan) -> str:
    quantization = plan.quantization
    return plan.method if quantization is None else f"{plan.method} ({quantization.quant_type})"
