"""A model whose architecture has no forward pass here: its shape and its steps are traced.

What planner/forward/decoder_layers.py cannot mirror is never guessed: the real model is built from
its own configuration and run on fake tensors, by whatever is given as ``trace``
(planner/training_stack/trace_client.py).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from planner.models.layer_kinds import LayerKind
from planner.models.linear import Linear
from planner.models.model_spec import ModelSpec
from planner.plan.vocabulary import Loss

Phases = Mapping[str, Mapping[str, int]]


class Variety(Struct, frozen=True, kw_only=True):
    """The contents of the layers of one kind."""

    linears: tuple[Linear, ...]
    num_params: int


class TracedSpec(ModelSpec, dict=True):
    """Counts of the real model; ``trace`` runs one of its steps. Layers that hold the same
    matrices are of one kind."""

    config: str
    """The model's own ``config.json``."""
    native_class: str
    varieties: tuple[Variety, ...]
    varieties_in_order: tuple[int, ...]
    total_params: int
    never_trained_params: int
    """Parameters that the class keeps frozen, such as what corrects a router's choice."""
    table_params: int
    output_params: int
    """Parameters of the head; 0 where it is the embedding's own."""
    stacked_params: int
    """Weights of the largest tensor of a layer's experts that a load joins from stacks of single
    ones."""
    text_matrices: tuple[Linear, ...]
    """Matrices of the text model outside of its layers."""
    tower_matrices: tuple[Linear, ...]
    """Matrices of models of images or sound beside the text model; no adapter is on them."""
    towers: tuple[str, ...]
    """Names of the modules that hold those models."""
    unadaptable: tuple[str, ...]
    """Names that peft refuses, or takes for fused experts."""
    active_weights: int
    """Weights of matrices that one token of text is multiplied with."""
    attention: Literal["sdpa", "eager"]
    """The attention that is planned: ``eager`` where the class has no other."""
    loss: Loss
    """The loss that is planned where none is asked for: ``standard`` where trl's fused head does
    not support the class, which rules the fused one out."""
    recomputable: bool
    """Whether the class can recompute activations in backward."""

    def traced_by(self, trace: Callable[[Any, Any], Phases]) -> "TracedSpec":
        """Return the same model with ``trace``, which takes a workload and its layout; it is not a
        field, since it is not part of the shape."""
        vars(self)["trace"] = trace
        return self

    @property
    def trace(self) -> Callable[[Any, Any], Phases]:
        """The function that returns one step's phases by workload and layout."""
        found: Callable[[Any, Any], Phases] = vars(self)["trace"]
        return found

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        return tuple(LayerKind(variety=number) for number in self.varieties_in_order)

    @property
    def kinds(self) -> Mapping[LayerKind, int]:
        return Counter(self.layers)

    def linears(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the matrices of one layer of a kind."""
        return self.varieties[kind.variety].linears

    def layer_params(self, kind: LayerKind) -> int:
        """Return the parameters of one layer of a kind."""
        return self.varieties[kind.variety].num_params

    @property
    def only_loss(self) -> Loss | None:
        return None if self.loss == "fused" else self.loss

    @property
    def can_recompute(self) -> bool:
        return self.recomputable

    @property
    def outside_linears(self) -> tuple[Linear, ...]:
        return self.text_matrices

    @property
    def tower_linears(self) -> tuple[Linear, ...]:
        return self.tower_matrices

    @property
    def embedding_params(self) -> int:
        return self.table_params

    @property
    def head_params(self) -> int:
        return self.output_params

    @property
    def num_params(self) -> int:
        return self.total_params

    @property
    def untrained_params(self) -> int:
        return self.never_trained_params

    @property
    def fp32_params(self) -> int:
        """Parameters kept in fp32 beside all others: none, as a trace counts what there is."""
        return 0


def traced_spec(answer: Mapping[str, Any], model_type: str, config: str) -> TracedSpec:
    """Return the model whose shape launcher/rehearsal/trace_service.py reports."""
    layers = [_variety(layer) for layer in answer["layers"]]
    varieties = tuple(dict.fromkeys(layers))
    copied = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "native_class",
        "stacked_params",
        "active_weights",
        "attention",
        "loss",
        "recomputable",
    )
    return TracedSpec(
        **{name: answer[name] for name in copied},
        model_type=model_type,
        config=config,
        num_layers=len(layers),
        varieties=varieties,
        varieties_in_order=tuple(varieties.index(layer) for layer in layers),
        total_params=answer["num_params"],
        never_trained_params=answer["untrained_params"],
        table_params=answer["embedding_params"],
        output_params=answer["head_params"],
        text_matrices=tuple(Linear(**linear) for linear in answer["outside"]),
        tower_matrices=tuple(Linear(**linear) for linear in answer["in_towers"]),
        towers=tuple(answer["towers"]),
        left_out=tuple(answer["left_out"]),
        unadaptable=tuple(answer["unadaptable"]),
        tied_embeddings=answer["head_params"] == 0,
    )


def _variety(layer: Mapping[str, Any]) -> Variety:
    linears = tuple(Linear(**linear) for linear in layer["linears"])
    return Variety(linears=linears, num_params=layer["num_params"])
