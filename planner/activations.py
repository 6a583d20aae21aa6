"""Activations that autograd keeps from forward to backward, on one device.

A ledger has one row for each tensor kept, so that a row is checked against the forward
code of transformers' layers and a sum against autograd (tests/oracle/test_activations.py
holds every ledger to ``saved_tensors_hooks``, to the byte).

    s  sequence_length     b  micro_batch_size     t  tokens = s b
    h  hidden_size         i  intermediate_size    a  num_attention_heads
    c  bytes of the compute dtype                  r  bytes of the residual stream

What makes the ledgers differ from the closed forms in the literature:

* A frozen linear layer keeps no input, since only its weight's gradient would need it.
* RMSNorm computes in fp32: the fp32 copy of its input is kept, and the reciprocal root.
* Under autocast each consumer of an fp32 tensor keeps its own 16-bit cast of it.
* LoRA's dropout keeps a mask of one byte an element on CUDA, and its output.
"""

from dataclasses import dataclass
from typing import Literal

from planner.gpu import Device
from planner.model import Linear
from planner.numerics import Numerics
from planner.recipe import Workload

FP32_BYTES = 4
INT64_BYTES = 8
CUDA_DROPOUT_MASK_BYTES = 1
"""read: aten/src/ATen/native/cuda/Dropout.cu, native_dropout's mask is bool. On the CPU the
mask has the input's dtype."""


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor, or several alike, that must live from forward to backward."""

    name: str
    num_bytes: int


Ledger = tuple[SavedTensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch on one rank."""

    micro_batch_size: int
    sequence_length: int
    padded: bool = False
    """Shorter samples are padded, so attention takes a mask and every head its own keys."""
    device: Device = "cuda"

    @property
    def tokens(self) -> int:
        return self.micro_batch_size * self.sequence_length


def total_bytes(ledger: Ledger) -> int:
    return sum(row.num_bytes for row in ledger)


def layer_ledger(
    workload: Workload, batch: Batch, numerics: Numerics, *, input_needs_gradient: bool = True
) -> Ledger:
    """All that one decoder layer keeps when nothing is recomputed.

    The first layer's input needs no gradient where the embedding is frozen: its norm keeps
    nothing then, and dropout before its first adapters no mask. (Checkpointing makes the
    input require one.)
    """
    before = _norm("input norm", workload, batch, numerics) if input_needs_gradient else ()
    return (
        *before,
        *_linear_inputs(
            "input norm",
            ("q_proj", "k_proj", "v_proj"),
            workload,
            batch,
            numerics,
            needs_gradient=input_needs_gradient,
        ),
        *_attention(workload, batch, numerics),
        *_linear_inputs("attention", ("o_proj",), workload, batch, numerics),
        *_norm("post-attention norm", workload, batch, numerics),
        *_linear_inputs(
            "post-attention norm",
            ("gate_up_proj", "gate_proj", "up_proj"),
            workload,
            batch,
            numerics,
        ),
        *_swiglu(workload, batch, numerics),
        *_linear_inputs("swiglu", ("down_proj",), workload, batch, numerics),
    )


def checkpointed_layer_ledger(workload: Workload, batch: Batch, numerics: Numerics) -> Ledger:
    """What one layer keeps when it is recomputed in backward: its input."""
    hidden = batch.tokens * workload.model.hidden_size
    return (SavedTensor("layer input", hidden * numerics.residual),)


def model_ledger(workload: Workload, batch: Batch, numerics: Numerics) -> Ledger:
    """What is kept once, outside the layers: ids, rotary tables and the last norm."""
    model = workload.model
    rotary = int(model.head_dim * model.rotary_fraction)
    tables = 0 if model.model_type == "glm" else 2 * batch.sequence_length * rotary
    return (
        SavedTensor("token ids, labels and attention mask", 3 * batch.tokens * INT64_BYTES),
        SavedTensor("rotary cosines and sines", tables * numerics.residual),
        *_norm("final norm", workload, batch, numerics),
    )


def _norm(name: str, workload: Workload, batch: Batch, numerics: Numerics) -> Ledger:
    """``weight * (x32 * rsqrt(mean(x32^2) + eps)).to(x.dtype)``."""
    hidden = batch.tokens * workload.model.hidden_size
    rows = (
        SavedTensor(f"{name}: input in fp32", hidden * FP32_BYTES),
        SavedTensor(f"{name}: reciprocal root mean square", batch.tokens * FP32_BYTES),
    )
    if workload.method != "full":
        return rows
    return (*rows, SavedTensor(f"{name}: normalised input", hidden * numerics.residual))


def _linear_inputs(
    source: str,
    names: tuple[str, ...],
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    needs_gradient: bool = True,
) -> Ledger:
    """What the linear layers that share one input keep of it, by the rules below.

    full, autocast, fp32 input     a cast for each layer, and a cast of each weight
    full otherwise                 the input, once
    LoRA with dropout              a mask and the dropped-out input for each adapter
    LoRA, 16-bit base, autocast    a cast for each adapter: peft casts to fp32, autocast back
    LoRA otherwise                 the input, once

    The attention output is kept by attention itself; only GLM's is copied to be contiguous
    (its queries come from a concatenation, and the fused kernel keeps their layout).
    """
    linears = [x for x in workload.model.layer_linears if x.name in names]
    if workload.method == "full":
        return _trained_inputs(source, workload.model.model_type, linears, batch, numerics)
    adapted = [x for x in workload.adapted if x.name in names]
    rows = _adapter_inputs(source, adapted, workload, batch, numerics)
    if not needs_gradient:
        return rows
    return (
        *rows,
        *_dropout_masks(adapted, workload, batch, numerics),
        *_cast_adapters("lora_A", adapted, workload, numerics),
    )


def _shares_attention_output(source: str, model_type: str) -> bool:
    return source == "attention" and model_type != "glm"


def _trained_inputs(
    source: str, model_type: str, linears: list[Linear], batch: Batch, numerics: Numerics
) -> Ledger:
    elements = batch.tokens * linears[0].in_features
    # The norms' output has the residual stream's dtype; attention and SwiGLU compute in 16 bit.
    input_is_fp32 = source.endswith("norm") and numerics.residual == FP32_BYTES
    casts = len(linears) if numerics.autocast and input_is_fp32 else 1
    if _shares_attention_output(source, model_type):
        casts = 0
    rows = [
        SavedTensor(f"{source}: input of {_names(linears)}", casts * elements * numerics.compute)
    ]
    if numerics.autocast:
        weights = sum(x.weight_params for x in linears)
        rows.append(SavedTensor(f"{_names(linears)}: weights cast", weights * numerics.compute))
    return tuple(rows)


def _adapter_inputs(
    source: str, adapted: list[Linear], workload: Workload, batch: Batch, numerics: Numerics
) -> Ledger:
    adapter = workload.recipe.adapter
    if adapter is None or not adapted:
        return ()
    width = numerics.compute
    elements = batch.tokens * adapted[0].in_features
    own_copy = adapter.dropout > 0 or _casts_to_fp32(workload, batch, numerics)
    shared = 0 if _shares_attention_output(source, workload.model.model_type) else 1
    copies = len(adapted) if own_copy else shared
    outputs = len(adapted) * batch.tokens * adapter.rank
    return (
        SavedTensor(f"{source}: input of lora_A", copies * elements * width),
        SavedTensor("output of lora_A", outputs * width),
        *_cast_adapters("lora_B", adapted, workload, numerics),
    )


def _cast_adapters(
    matrix: Literal["lora_A", "lora_B"],
    adapted: list[Linear],
    workload: Workload,
    numerics: Numerics,
) -> Ledger:
    """Autocast's 16-bit copy of a matrix, kept for the gradient of its input."""
    adapter = workload.recipe.adapter
    if adapter is None or not numerics.autocast:
        return ()
    widths = sum(x.in_features if matrix == "lora_A" else x.out_features for x in adapted)
    name = f"{_names(adapted)}: {matrix} cast"
    return (SavedTensor(name, adapter.rank * widths * numerics.compute),)


def _dropout_masks(
    adapted: list[Linear], workload: Workload, batch: Batch, numerics: Numerics
) -> Ledger:
    adapter = workload.recipe.adapter
    if adapter is None or adapter.dropout == 0 or not adapted:
        return ()
    mask = CUDA_DROPOUT_MASK_BYTES
    if batch.device == "cpu":
        mask = FP32_BYTES if _casts_to_fp32(workload, batch, numerics) else numerics.compute
    elements = len(adapted) * batch.tokens * adapted[0].in_features
    return (SavedTensor(f"{_names(adapted)}: dropout masks", elements * mask),)


def _casts_to_fp32(workload: Workload, batch: Batch, numerics: Numerics) -> bool:
    """Whether peft casts an adapter's input to the adapter's fp32 first.

    read: peft/tuners/lora at 0.21.2: layer.py, Linear.forward always casts; bnb.py,
    Linear4bit.forward does not under autocast, but asks for CUDA's alone.
    """
    return numerics.autocast and (workload.method == "lora" or batch.device == "cpu")


def _attention(workload: Workload, batch: Batch, numerics: Numerics) -> Ledger:
    """Scaled dot product attention, fused: scores are never kept, their log-sum-exp is."""
    model, t, c = workload.model, batch.tokens, numerics.compute
    kv_size = model.query_size if batch.padded else model.key_value_size
    rows = [
        SavedTensor("query, rotated", t * model.query_size * c),
        SavedTensor("key, rotated", t * kv_size * c),
        SavedTensor("value", t * kv_size * c),
        SavedTensor("attention output", t * model.query_size * c),
        SavedTensor("log-sum-exp of the scores", t * model.num_attention_heads * FP32_BYTES),
    ]
    if batch.padded:
        scores = batch.micro_batch_size * batch.sequence_length**2
        rows.append(SavedTensor("attention mask as a bias", scores * c))
    if model.model_type == "glm":
        # GLM interleaves the rotary tables anew in every layer.
        rotary = int(model.head_dim * model.rotary_fraction)
        tables = 2 * batch.sequence_length * rotary * numerics.residual
        rows.append(SavedTensor("rotary cosines and sines, interleaved", tables))
    return tuple(rows)


def _swiglu(workload: Workload, batch: Batch, numerics: Numerics) -> Ledger:
    """``silu(gate) * up``: silu keeps its input, the product both factors."""
    elements = batch.tokens * workload.model.intermediate_size
    return (
        SavedTensor("gate and up", 2 * elements * numerics.compute),
        SavedTensor("silu(gate)", elements * numerics.compute),
    )


def _names(linears: list[Linear]) -> str:
    return ", ".join(x.name for x in linears)
