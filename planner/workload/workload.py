"""What is trained: a model with its training settings, and one micro-batch of it."""

from msgspec import Struct, structs

from planner.base.phrases import Phrase
from planner.base.strict_yaml import Spec
from planner.base.units import format_count
from planner.hardware.cluster import Device
from planner.models.adapter_targets import left_out_names, lora_targets
from planner.models.layer_kinds import LayerKind
from planner.models.linear import Linear
from planner.models.model_spec import ModelSpec
from planner.models.module_names import ONLY_ATTENTION
from planner.plan.vocabulary import (
    SHARES_SAMPLES,
    Attention,
    AttentionName,
    Loss,
    Method,
    Precision,
)
from planner.workload.layout import Layout
from planner.workload.settings import TrainingSettings


class Workload(Spec):
    """A model and the settings it is trained with, on one kind of device."""

    model: ModelSpec
    settings: TrainingSettings
    compute: Precision
    """Precision that matrices are multiplied in: bf16, fp16 on cards without bf16, fp32 on
    the CPU."""
    pure: bool = False
    """Whether parameters, gradients and optimizer states are all in the compute precision, without
    an fp32 copy of what trains."""
    tensor_ranks: int = 1
    """Number of ranks that each layer is cut over; the model is then one rank's."""

    def of_a_rank(self, layout: Layout) -> "Workload":
        """Return what one rank of a layout computes: all of it, unless layers are to be cut
        (planner/workload/tensor_slice.py)."""
        if layout.strategy not in SHARES_SAMPLES or self.tensor_ranks > 1:
            return self
        from planner.workload.tensor_slice import sliced  # only layers that are cut need it

        ranks = layout.world_size
        return structs.replace(self, model=sliced(self.model, ranks), tensor_ranks=ranks)

    def with_settings(self, **changes: object) -> "Workload":
        """Return the same workload with some of its settings replaced."""
        return structs.replace(self, settings=structs.replace(self.settings, **changes))

    @property
    def only_attention(self) -> Attention | None:
        """The only implementation that transformers has for the model, such as eager where scores
        are capped or have sinks; None if there are several."""
        if self.model.attn_logit_softcapping is not None or self.model.attention_sinks:
            return "eager"
        return ONLY_ATTENTION.get(self.model.model_type)

    @property
    def attention(self) -> AttentionName:
        """The only implementation the model has, or the one in the settings."""
        return self.only_attention or self.settings.attention

    @property
    def loss(self) -> Loss:
        """Implementation of the loss."""
        return self.settings.loss

    @property
    def packing(self) -> bool:
        """Whether several samples share a row."""
        return self.settings.packing

    @property
    def method(self) -> Method:
        """Name of the method: QLoRA, LoRA or full fine-tuning."""
        return self.settings.method

    def adapted(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the matrices of one layer of this kind that carry an adapter."""
        return self._targeted(self.model.linears(kind))

    def adapted_experts(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the matrices that carry an adapter in each routed expert of a layer of this kind,
        by the name of the tensor that holds those of all experts."""
        adapter = self.settings.adapter
        if adapter is None or not adapter.target_parameters:
            return ()
        experts = self.model.adaptable_experts(kind)
        return tuple(x for x in experts if x.name in adapter.target_parameters)

    @property
    def adapted_outside(self) -> tuple[Linear, ...]:
        """Matrices outside of the layers that carry an adapter."""
        return self._targeted(self.model.outside_linears)

    def _targeted(self, matrices: tuple[Linear, ...]) -> tuple[Linear, ...]:
        if self.settings.adapter is None:
            return ()
        targets = lora_targets(self.model, self.settings.adapter.target_modules)
        return tuple(x for x in matrices if targets == "all-linear" or x.name in targets)

    def packed(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the quantized matrices of one layer of this kind, a tensor of all experts counted
        as one."""
        if self.settings.quantization is None:
            return ()
        return self.model.packed_linears(kind) + self.packed_experts(kind)

    def packed_experts(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return those of a layer's routed experts."""
        quantization = self.settings.quantization
        packs = quantization is not None and quantization.experts
        return self.model.packable_experts(kind) if packs else ()

    @property
    def packed_outside(self) -> tuple[Linear, ...]:
        """Quantized matrices outside of the layers."""
        return self._packed(self.model.outside_linears)

    @property
    def packed_towers(self) -> tuple[Linear, ...]:
        """Quantized matrices of models of images or of sound beside the text model."""
        return self._packed(self.model.tower_linears)

    def _packed(self, matrices: tuple[Linear, ...]) -> tuple[Linear, ...]:
        if self.settings.quantization is None:
            return ()
        return tuple(each for each in matrices if not each.whole)

    @property
    def counted_packed(self) -> list[tuple[Linear, int]]:
        """All quantized matrices, with how many there are of each."""
        if self.settings.quantization is None:
            return []
        return self.model.counted_linears + self._counted_packed_experts

    @property
    def packed_expert_params(self) -> int:
        """Weights of routed experts that are quantized."""
        return sum(count * x.weight_params for x, count in self._counted_packed_experts)

    @property
    def _counted_packed_experts(self) -> list[tuple[Linear, int]]:
        return [
            (x, count)
            for kind, count in self.model.kinds.items()
            for x in self.packed_experts(kind)
        ]

    @property
    def counted_adapted(self) -> list[tuple[Linear, int]]:
        """Matrices that carry an adapter, with how many there are of each."""
        num_experts = 0 if self.model.experts is None else self.model.experts.num_experts
        found = list[tuple[Linear, int]]()
        for kind, count in self.model.kinds.items():
            found += [(x, count) for x in self.adapted(kind)]
            found += [(x, count * num_experts) for x in self.adapted_experts(kind)]
        return [*found, *((x, 1) for x in self.adapted_outside)]

    @property
    def trains_vectors(self) -> bool:
        """Whether the adapters' matrices are frozen."""
        return self.settings.adapter is not None and self.settings.adapter.vera

    @property
    def adapter_products(self) -> int:
        """Weights of all adapters that a token is multiplied with."""
        adapter = self.settings.adapter
        if adapter is None or not adapter.vera:
            return self.adapter_params
        sides = sum(count * (x.in_features + x.out_features) for x, count in self.counted_adapted)
        return adapter.rank * sides

    @property
    def shared_matrices(self) -> tuple[int, int]:
        """Elements of VeRA's two frozen matrices, of which each target takes the columns and rows
        that it has; read: peft/tuners/vera/model.py at 0.21.2, _find_dim. 0 for other adapters."""
        adapter = self.settings.adapter
        if adapter is None or not adapter.vera:
            return 0, 0
        widest = max(x.in_features for x, _ in self.counted_adapted)
        longest = max(x.out_features for x, _ in self.counted_adapted)
        return adapter.rank * widest, adapter.rank * longest

    @property
    def adapter_params(self) -> int:
        """Parameters of all adapters that train: LoRA's two matrices beside each target,
        ``r (in + out)`` (arXiv:2106.09685, 4.1), and DoRA's magnitudes, ``out`` (arXiv:2402.09353,
        4.1); VeRA's two vectors alone, ``r + out`` (arXiv:2310.11454, 3.2)."""
        if self.settings.adapter is None:
            return 0
        if self.settings.adapter.vera:
            rank = self.settings.adapter.rank
            return sum(count * (rank + x.out_features) for x, count in self.counted_adapted)
        rank, dora = self.settings.adapter.rank, self.settings.adapter.dora
        return sum(
            count * (rank * (x.in_features + x.out_features) + (x.out_features if dora else 0))
            for x, count in self.counted_adapted
        )

    @property
    def experts_note(self) -> str | None:
        """Note on routed experts that do not train; None if there are none."""
        params, quantization = self.model.routed_params, self.settings.quantization
        if self.method == "full" or not params:
            return None
        frozen = Phrase(
            "{params} parameters of routed experts are frozen", params=format_count(params)
        )
        adapter = self.settings.adapter
        if adapter is not None and adapter.target_parameters:
            frozen = Phrase(
                "{frozen}, each expert with adapters on {targets}",
                frozen=frozen,
                targets=", ".join(adapter.target_parameters),
            )
        if quantization is None:
            return frozen
        if self.model.too_large_expert_params and quantization.quant_type == "nf4":
            return Phrase(
                "{frozen}, {whole} of them in 16 bit: bitsandbytes packs no tensor of 2^31 weights "
                "or more",
                frozen=frozen,
                whole=format_count(self.model.too_large_expert_params),
            )
        if quantization.experts:
            return Phrase("{frozen}, in 4 bit, and unpacked for each product", frozen=frozen)
        return Phrase(
            "{frozen}, in 16 bit: bitsandbytes quantizes only nn.Linear, which they are not",
            frozen=frozen,
        )

    @property
    def adapter_note(self) -> str | None:
        """Note on matrices that get no adapter; None if there are none."""
        if self.settings.adapter is None:
            return None
        names = left_out_names(self.model, self.settings.adapter.target_modules)
        if not names:
            return None
        return Phrase(
            "no adapter on {matrices}, in any layer: peft takes these names for fused "
            "experts, or refuses them, or no gradient reaches them",
            matrices=", ".join(names),
        )

    @property
    def dropout_note(self) -> str | None:
        """Note on dropout in adapters that hold a part of the base; None where they have none."""
        adapter = self.settings.adapter
        if adapter is None or not adapter.changes_base or not adapter.dropout:
            return None
        return Phrase(
            "the adapters hold a part of the base's weights, of which dropout leaves some out in "
            "every step: --lora-dropout 0 keeps all"
        )

    @property
    def loop_note(self) -> str | None:
        """Note on mixers whose recurrence is a loop over all tokens; None without any."""
        if self.model.mamba_1 is None:
            return None
        return Phrase(
            "Mamba mixers are planned as PyTorch runs them, a slow loop over every token; where "
            "mamba-ssm and causal-conv1d are installed, transformers runs their kernels, faster "
            "and in less memory"
        )

    @property
    def rounding_note(self) -> str | None:
        """Note on updates that bf16 does not hold; None if fp32 is updated.

        Of 8 significant bits, a sum rounds away what is less than half of the last one: 1/512 of
        the number at most (Zamirai et al., arXiv:2010.06192). AdamW and Lion move a
        parameter by about the learning rate.
        """
        if not self.pure:
            return None
        rate = self.settings.optimizer.learning_rate
        return Phrase(
            "bf16 rounds away what is below 1/512 of a weight: at a learning rate of {rate:g} "
            "those above {limit:.2g} may stand still (arXiv:2010.06192)",
            rate=rate,
            limit=512 * rate,
        )

    @property
    def trainable_params(self) -> int:
        """Number of parameters that train."""
        if self.method != "full":
            return self.adapter_params
        return self.model.num_params - self.model.untrained_params


class Batch(Struct, frozen=True):
    """One micro-batch on one rank."""

    micro_batch_size: int
    sequence_length: int
    masked: bool = False
    """Whether attention takes a mask, and every head its own keys: shorter samples are padded, or
    several are packed in a row."""
    device: Device = "cuda"
    compute_capability: str | None = None
    """What the card's kernels and workspaces are chosen by, such as ``9.0``; None where it is not
    known, which is taken for a card of the Ampere generation or newer."""
    multiprocessors: int | None = None
    """The card's, by which flash attention splits keys in passes that no backward pass follows; in
    training it never has the largest moment, so that cards do not differ there. None where they are
    not known, or do not count."""
    sequence_ranks: int = 1
    """Number of ranks that share each sequence; this one has ``sequence_length`` of its tokens."""

    @property
    def tokens(self) -> int:
        """Number of tokens, padding included."""
        return self.micro_batch_size * self.sequence_length

    @property
    def scores(self) -> int:
        """Number of elements of a mask, and of one head's scores."""
        return self.micro_batch_size * self.sequence_length**2
