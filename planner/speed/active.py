"""What routed experts make different from the sum of all parameters."""

from planner.models.model_spec import ModelSpec


def active_weights(model: ModelSpec) -> int:
    """Weights of all layers' matrices that one token is multiplied with."""
    if model.experts is None:
        return model.matrix_params
    return model.matrix_params + routed_layers(model) * model.experts.active_weights(
        model.hidden_size
    )


def active_params(model: ModelSpec) -> int:
    """Parameters that one token meets: of the routed experts only those it is sent to."""
    if model.experts is None:
        return model.num_params
    idle = model.experts.num_experts - model.experts.experts_per_token
    stored = sum(model.experts.expert_tensors(model.hidden_size).values())
    idle_params = stored // model.experts.num_experts * idle
    return model.num_params - routed_layers(model) * idle_params


def routed_layers(model: ModelSpec) -> int:
    return sum(count for kind, count in model.kinds.items() if kind.routed)
