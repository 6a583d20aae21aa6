"""Rotary positions beyond those that a model was trained with, by YaRN.

Source: Peng et al., arXiv:2309.00071. Slow angles are divided by a factor and fast ones are not,
and what is turned is multiplied by a constant. Both are made once with the model, so that no tensor
of a step is another one; read: transformers/modeling_rope_utils.py at 5.23,
_compute_yarn_parameters.
"""

from msgspec import structs

from planner.base.units import ceil_div
from planner.models.model_presets import ModelPreset
from planner.models.traced_model import TracedSpec
from planner.plan.rope_scaling import UNSCALED
from planner.plan.schema import RopeScaling

WITHOUT_A_PLACE = frozenset({"glm"})
"""Architectures whose original files, which a result may be converted back to, cannot state it."""


def with_positions_for(model: ModelPreset, sequence_length: int | None) -> ModelPreset:
    """Return the model with positions for samples of this length: the model itself where it has so
    many, or where its positions cannot be scaled.

    The factor is the smallest whole one.
    """
    positions = model.spec.max_position_embeddings
    if sequence_length is None or sequence_length <= positions or not can_be_scaled(model):
        return model
    factor = ceil_div(sequence_length, positions)
    return structs.replace(
        model,
        spec=structs.replace(model.spec, max_position_embeddings=factor * positions),
        rope_scaling=RopeScaling(
            rope_type="yarn", factor=factor, original_max_position_embeddings=positions
        ),
    )


def can_be_scaled(model: ModelPreset) -> bool:
    """Return whether positions are rotary, alike in all layers, and not scaled already, and whether
    all files of a result can say that they are scaled."""
    spec = model.spec
    alike = not (spec.local_rotary or spec.towers or spec.latent or spec.recurrence)
    return (
        not isinstance(spec, TracedSpec)
        and spec.positions == "rotary"
        and spec.model_type not in WITHOUT_A_PLACE
        and alike
        and model.rope_type == UNSCALED
    )
