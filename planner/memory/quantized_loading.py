"""Memory to load a model whose matrices are quantized on the way, one whole matrix after the other.

read: transformers/core_model_loading.py at 5.23.0, convert_and_load_state_dict_in_model: nothing is
read ahead of a quantization, and the tensors of the files come in the order of their names
(dot_natural_key), so that tables and head come before the layers, and the parts of a layer by name:
``mlp`` before ``self_attn``. Adapters are made when all is there. A matrix that is whole therefore
stands beside what comes before it alone. Where the tables come after the layers, in
``transformer.h``, they are counted as if they came before. What is not quantized of a layer is
counted with its first matrix.

A tensor of all experts is packed when it is whole, and the next one is read then. Where a
checkpoint stores expert by expert it is whole twice before that: while its single matrices are
joined (planner/memory/expert_loading.py).
"""

from planner.base.units import FP32_BYTES, ceil_div
from planner.models.layer_kinds import LayerKind
from planner.models.linear import Linear
from planner.plan.schema import QuantizationSection
from planner.workload.dtypes import Numerics
from planner.workload.quantization import BLOCK_SIZE, loading_copy_width, quantized_bytes
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload

ATTENTION_FIRST = ("gpt2", "gpt_neox", "granitemoehybrid")
"""Architectures whose attention, ``attn``, ``attention`` or ``mamba``, comes before ``mlp`` or
``shared_mlp``."""
STORED_STACKED = ("gpt_oss", "granitemoe", "granitemoehybrid", "llama4_text")
"""Architectures whose files hold one tensor for all experts; read:
transformers/conversion_mapping.py at 5.23.0. The other mixtures that are planned go by "mixtral",
"qwen2_moe" or "phimoe". Of a traced model that table itself is asked
(launcher/rehearsal/trace_service.py)."""
STACKED_BEFORE_DOWN = ("lfm2_moe", "mixtral", "phimoe")
"""Architectures whose expert matrices are called w1, w2 and w3."""
FEED_FORWARD = ("gate", "up_proj", "down_proj")
"""Parts of the keys of feed-forward matrices."""
EXPERTS = "experts."
"""Beginning of the names of what holds all experts of a layer."""


@cached_by_settings(*TRAINED)
def quantized_from(workload: Workload, kinds: Numerics, *, from_files: bool = True) -> int:
    """Return the bytes by which a load exceeds all weights and adapters at its largest moment, when
    a matrix is whole in the compute precision; 0 without quantization.

    ``from_files`` is false for weights that are made on the device, which joins no experts.
    """
    quantization, model = workload.settings.quantization, workload.model
    if quantization is None:
        return 0
    width = kinds.compute + loading_copy_width(quantization)
    after = workload.trainable_params * kinds.trainable
    most = 0
    sizes = {
        kind: _sizes_of(workload, kind, quantization, width, from_files=from_files)
        for kind in model.kinds
    }
    beside = {kind: _beside(workload, kind) * kinds.outside for kind in model.kinds}
    for kind in reversed(model.layers):
        for whole_bytes, kept_bytes in reversed(sizes[kind]):
            most = max(most, whole_bytes - after)
            after += kept_bytes
        after += beside[kind]
    return most


def _sizes_of(
    workload: Workload,
    kind: LayerKind,
    quantization: QuantizationSection,
    width: int,
    *,
    from_files: bool,
) -> list[tuple[int, int]]:
    """Return the bytes of each matrix of a layer while it is quantized, and afterwards."""
    joins = from_files and workload.model.model_type not in STORED_STACKED
    found: list[tuple[int, int]] = []
    for matrix in in_order_of_names(workload, kind, from_files=from_files):
        whole = matrix.weight_params * width
        packed = quantized_bytes(matrix, quantization)
        at_most = whole + _scales_bytes(matrix, quantization)
        if joins and matrix.name.startswith(EXPERTS):
            at_most = max(at_most, 2 * whole - packed)
        found.append((at_most, packed))
    return found


def _beside(workload: Workload, kind: LayerKind) -> int:
    """Return the parameters of a layer that are not quantized."""
    inside = sum(matrix.weight_params for matrix in workload.packed(kind))
    return workload.model.layer_params(kind) - inside


def _scales_bytes(matrix: Linear, quantization: QuantizationSection) -> int:
    """Return the bytes of scales in fp32, and of the same less their mean, while they are quantized
    themselves; read: bitsandbytes/functional.py at 0.50.2, quantize_4bit."""
    if quantization.quant_type == "int8" or not quantization.double_quant:
        return 0
    return 2 * FP32_BYTES * ceil_div(matrix.weight_params, BLOCK_SIZE)


def in_order_of_names(
    workload: Workload, kind: LayerKind, *, from_files: bool = True
) -> list[Linear]:
    """Return a layer's quantized matrices as they are loaded; experts that are made on the device
    come in their module's order, the first matrices first."""
    model = workload.model
    convolves = kind.recurrent and model.convolution is not None  # in ``conv``
    comes_last = model.model_type in ATTENTION_FIRST or convolves

    by_name = from_files and model.model_type not in STACKED_BEFORE_DOWN
    first = "down_proj" if by_name else "gate_up_proj"

    def place(matrix: Linear) -> tuple[bool, bool, bool, str]:
        feeds_forward = any(part in matrix.key for part in FEED_FORWARD)
        is_stack = matrix.name.startswith(EXPERTS)
        is_first = matrix.name == f"{EXPERTS}{first}"
        return feeds_forward == comes_last, not is_stack, not is_first, matrix.name

    return sorted(workload.packed(kind), key=place)
