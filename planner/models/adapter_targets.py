"""Which matrices of a model carry an adapter, as peft would have it.

read: peft/utils/transformers_weight_conversion.py at 0.21.2: for models whose experts were
``nn.Linear`` before transformers 5, ``all-linear``, ``gate_proj``, ``up_proj`` and ``down_proj``
come to mean the fused experts, with twice the rank for gate and up, and the router, where peft
refuses dropout (peft/tuners/lora/layer.py, ParamWrapper). Routed experts therefore get adapters
only where they are asked for by the names of their tensors, and the matrices that remain are named.
"""

from collections.abc import Collection, Mapping
from typing import Literal

from planner.models.model_spec import ModelSpec
from planner.models.traced_model import TracedSpec

Targets = Literal["all-linear"] | tuple[str, ...]

RENAMED_FOR = (
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "dots1",
    "ernie4_5_moe",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "hunyuan_v1_moe",
    "minimax_m2",
    "mixtral",
    "olmoe",
    "qwen3_moe",
    "qwen3_next",
    "solar_open",
)
"""Architectures of which peft takes these names for the fused experts."""
RENAMED = ("gate", "gate_proj", "up_proj", "down_proj")
REFUSED_FOR = ("falcon_h1", "mamba2", "nemotron_h")
"""Architectures with Mamba mixers whose output matrix peft refuses to adapt; read:
peft/tuners/tuners_utils.py at 0.21.2, _check_lora_target_modules_mamba."""
REFUSED = ("out_proj",)
INDEXER = ("wq_b", "wk", "weights_proj")
"""Matrices of an indexer, which no gradient passes (planner/forward/indexer.py)."""
ROUTERS: Mapping[str, tuple[str, ...]] = {"llama4_text": ("router",), "phimoe": ("router",)}
"""Names of routers that are an ``nn.Linear`` which returns several tensors, so that no adapter can
be on it, by architecture."""

WITHOUT_GRADIENT: Mapping[str, tuple[str, ...]] = {
    "falcon_mamba": ("dt_proj",),
    "gemma3n": ("correction_coefs",),
    "gemma3n_text": ("correction_coefs",),
    "jamba": ("dt_proj",),
    "mamba": ("dt_proj",),
    "zamba2": ("0", "1"),
}
"""Names of matrices whose adapter would get no gradient, for which DDP waits, by architecture: a
mixer multiplies with the weight itself (read: JambaMambaMixer.forward in transformers 5.23), or a
block that layers share has matrices for each of them, of which a layer passes its own
(Zamba2MLP.forward)."""

EXPERTS = "experts"
"""The target that stands for all tensors of routed experts, whose names begin with it."""


def divided(targets: Targets) -> tuple[Targets, tuple[str, ...]]:
    """Return the matrices among targets, and the tensors of routed experts.

    >>> divided(("all-linear", "experts"))
    ('all-linear', ('experts',))
    >>> divided(("q_proj", "experts.down_proj"))
    (('q_proj',), ('experts.down_proj',))
    """
    if targets == "all-linear":
        return targets, ()
    tensors = tuple(name for name in targets if name.partition(".")[0] == EXPERTS)
    matrices = tuple(name for name in targets if name not in tensors)
    return ("all-linear" if matrices == ("all-linear",) else matrices), tensors


def expert_targets(model: ModelSpec, tensors: Collection[str] = (EXPERTS,)) -> tuple[str, ...]:
    """Return the tensors of the model's routed experts that are meant, in the model's order."""
    names = (matrix.name for kind in model.kinds for matrix in model.adaptable_experts(kind))
    found = tuple(dict.fromkeys(names))
    return found if EXPERTS in tensors else tuple(name for name in found if name in tensors)


def lora_targets(model: ModelSpec, targets: Targets) -> Targets:
    """Return the names to give to peft: those of the recipe, or the matrices that can be named."""
    unadaptable = _unadaptable(model)
    if targets != "all-linear" or not unadaptable:
        return targets
    names = (linear.name for linear, _ in model.adaptable_linears)
    return tuple(dict.fromkeys(name for name in names if name not in unadaptable))


def misunderstood_targets(model: ModelSpec, targets: Targets) -> tuple[str, ...]:
    """Return the names of the recipe that would adapt the fused experts, or that peft refuses."""
    if targets == "all-linear":
        return ()
    return tuple(name for name in targets if name in _unadaptable(model))


def left_out_names(model: ModelSpec, targets: Targets) -> tuple[str, ...]:
    """Return the names of matrices that ``all-linear`` would mean and that get no adapter, since
    peft takes them for something else or refuses them."""
    names = (linear.name for linear, _ in model.adaptable_linears)
    found = (name for name in names if name in _unadaptable(model) and name not in targets)
    return tuple(dict.fromkeys(found))


def _unadaptable(model: ModelSpec) -> tuple[str, ...]:
    if isinstance(model, TracedSpec) or model.model_type in WITHOUT_GRADIENT:
        return _unadaptable_and_numbers(model)
    if model.model_type in REFUSED_FOR:
        return REFUSED
    if model.model_type in RENAMED_FOR:
        has_indexer = model.latent is not None and model.latent.indexer is not None
        return (*RENAMED, *(INDEXER if has_indexer else ()))
    return ROUTERS.get(model.model_type, ())


def _unadaptable_and_numbers(model: ModelSpec) -> tuple[str, ...]:
    """Return those names, and numbers, where others must be named: a number means layers, too."""
    refused = model.unadaptable if isinstance(model, TracedSpec) else ()
    found = (*refused, *WITHOUT_GRADIENT.get(model.model_type, ()))
    numbers = (linear.name for linear, _ in model.adaptable_linears if linear.name.isdigit())
    return tuple(dict.fromkeys((*found, *numbers))) if found else ()
