"""One matrix of a base model with its adapter merged in.

    LoRA     W + s B A                                        (arXiv:2106.09685, section 4.1)
    rsLoRA   the same with s = alpha / sqrt(rank)             (arXiv:2312.03732)
    DoRA     m / |W + s B A| by rows, times W + s B A         (arXiv:2402.09353, equation 5)
    VeRA     W + b B d A, b and d by rows of B and of A       (arXiv:2310.11454, equation 2)

An adapter that began as a part of its base, A0 and B0, is stored as [B, -B0] and [A, A0]; W is then
what was left of the base in its precision, so that the merged weights are those that were trained
(launcher/adapters/parted_base.py).

W is (out, in); GPT-2's Conv1D stores it transposed. The base of a QLoRA run is the 4-bit one: its
adapter was trained on the dequantized weights, not on those that were quantized. peft's own merge
starts there, too (peft/tuners/lora/bnb.py at 0.21), but quantizes the sum again and warns of the
rounding; here it stays in 16 bit.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from launcher.adapters.parted_base import without_part
from launcher.storage import adapter_files
from launcher.storage.json_files import read_json
from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase
from planner.plan.schema import QuantizationSection

PREFIX = "base_model.model."
KINDS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_magnitude_vector": "magnitude",
}
SHARED = ("base_model.vera_A", "base_model.vera_B")
"""Names of the matrices that VeRA's adapters share, as wide and as long as the largest needs."""
VECTORS = ("vera_lambda_d", "vera_lambda_b")
"""What each of these adapters multiplies the rows of one and of the other with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Adapter of one matrix."""

    scaling: float
    """s."""
    down: torch.Tensor | None = None
    """A, of shape (rank, in) or wider."""
    up: torch.Tensor | None = None
    """B, of shape (out, rank)."""
    magnitude: torch.Tensor | None = None
    """m of DoRA, of shape (out,); None without DoRA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """All of an adapter's matrices."""

    pairs: Mapping[str, Pair]
    """Pairs by the name of the module that they adapt, or of peft's wrapper around experts."""
    transposed: bool
    """Whether the base stores its matrices as (in, out)."""


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter of a folder, read whole: it is small beside its base.

    Raises ``InvalidFileError`` if it has settings or tensors that are not merged here.
    """
    path = folder / adapter_files.CONFIG
    settings = read_json(path)
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if settings.get(key):
            raise InvalidFileError(
                path, None, Phrase("{key} is set: an adapter with it cannot be merged", key=key)
            )
    if settings.get("peft_type") == "VERA":
        transposed = bool(settings.get("fan_in_fan_out"))
        return Adapter(pairs=_vera_pairs(folder / adapter_files.WEIGHTS), transposed=transposed)
    divisor = math.sqrt(settings["r"]) if settings.get("use_rslora") else settings["r"]
    scaling = settings["lora_alpha"] / divisor
    pairs: dict[str, Pair] = {}
    for module, kind, tensor in _tensors(folder / adapter_files.WEIGHTS):
        before = pairs.get(module, Pair(scaling=scaling))
        pairs[module] = replace(before, **{kind: tensor})  # type: ignore[arg-type]
    return Adapter(pairs=pairs, transposed=bool(settings.get("fan_in_fan_out")))


def _vera_pairs(path: Path) -> dict[str, Pair]:
    """Return VeRA's adapters as A and B of each matrix."""
    weights = load_file(path)
    first, last = (weights.pop(name).float() for name in SHARED)
    modules = {key.rpartition(".")[0] for key in weights}
    pairs = {}
    for module in sorted(modules):
        rows_of_a, rows_of_b = (weights[f"{module}.{name}"].float() for name in VECTORS)
        pairs[module.removeprefix(PREFIX)] = Pair(
            scaling=1.0,
            down=rows_of_a.unsqueeze(1) * first,
            up=rows_of_b.unsqueeze(1) * last[: len(rows_of_b)],
        )
    return pairs


def _tensors(path: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  (not a mapping)
            kind = next((suffix for suffix in KINDS if key.endswith(f".{suffix}")), None)
            if kind is None:
                raise InvalidFileError(
                    path,
                    None,
                    Phrase(
                        "{key} is not a LoRA of a linear layer, which is all that can be merged",
                        key=key,
                    ),
                )
            module = key.removesuffix(f".{kind}").removeprefix(PREFIX)
            yield module, KINDS[kind], file.get_tensor(key)


def parted(pair: Pair) -> tuple[Pair, Pair]:
    """Return an adapter as it was trained and as it began, of one for the base as it was.

    Raises ``ValueError`` if A or B is missing.
    """
    up, down = _halves(pair, torch.device("cpu"))
    rank = len(down) // 2
    trained = replace(pair, down=down[:rank], up=up[:, :rank])
    return trained, Pair(scaling=pair.scaling, down=down[rank:], up=-up[:, rank:])


def less_part(weight: torch.Tensor, began: Pair, *, transposed: bool) -> torch.Tensor:
    """Return the matrix that was left of the base, as training had it, on its device."""
    up, down = _halves(began, weight.device)
    rest = without_part(weight.t() if transposed else weight, (down, up), began.scaling)
    return rest.t() if transposed else rest


def with_delta(weight: torch.Tensor, pair: Pair, *, transposed: bool = False) -> torch.Tensor:
    """Return the adapted matrix in fp32, of the shape that it came in, on its device.

    ``transposed`` says that this is (in, out). Raises ``ValueError`` if A or B is missing.
    """
    up, down = _halves(pair, weight.device)
    base = weight.float().t() if transposed else weight.float()
    merged = torch.addmm(base, up, down[:, : base.shape[1]], alpha=pair.scaling)
    if pair.magnitude is not None:
        rows = pair.magnitude.to(base.device, torch.float32)
        merged *= (rows / torch.linalg.norm(merged, dim=1)).unsqueeze(1)
    return merged.t() if transposed else merged


def with_stack_delta(stack: torch.Tensor, pair: Pair, *, transposed: bool) -> torch.Tensor:
    """Return all experts' adapted matrices in fp32, on their device; ``transposed`` says that each
    is (in, out).

    The rows of A are one expert's after another's; the columns of B are those of all experts for
    the first rank, then for the next (peft/tuners/lora/layer.py at 0.21.2,
    ParamWrapper.get_delta_factors). Raises ``ValueError`` if A or B is missing.
    """
    up, down = _halves(pair, stack.device)
    count = len(stack)
    down = down.reshape(count, -1, down.shape[-1])
    up = up.reshape(len(up), -1, count).permute(2, 0, 1)
    base = stack.float().transpose(1, 2) if transposed else stack.float()
    merged = torch.baddbmm(base, up, down, alpha=pair.scaling)
    return merged.transpose(1, 2) if transposed else merged


def _halves(pair: Pair, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return B and A in fp32 on a device."""
    if pair.down is None or pair.up is None:
        raise ValueError(Phrase("an adapter needs both A and B"))
    return pair.up.to(device, torch.float32), pair.down.to(device, torch.float32)


def as_trained_on(
    weight: torch.Tensor, quantization: QuantizationSection, *, transposed: bool = False
) -> torch.Tensor:
    """Return the matrix quantized and dequantized, as training multiplied with it."""
    from launcher.compat.bitsandbytes import packed_and_unpacked

    whole = packed_and_unpacked(
        (weight.t() if transposed else weight).contiguous(),
        quant_type=quantization.quant_type,
        double_quant=quantization.double_quant,
    )
    return whole.t() if transposed else whole
