"""A small ChatGLM3 in its original layout, and its forward pass in a few lines.

Names, shapes and arithmetic are written from the architecture's description (RMSNorm, SwiGLU,
multi-query attention, rotary embeddings on half of each head), apart from the converter's tables.
"""

import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

HIDDEN, INNER, HEADS, GROUPS, HEAD_DIM, LAYERS, EPSILON = 64, 96, 4, 2, 16, 2, 1e-5
Tensors = dict[str, torch.Tensor]


def config(vocab_size: int, **changes: Any) -> dict[str, Any]:
    """The keys of THUDM/chatglm3-6b's ``config.json``, with small sizes."""
    return {
        "_name_or_path": "THUDM/chatglm3-6b",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": INNER,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": HIDDEN,
        "kv_channels": HEAD_DIM,
        "layernorm_epsilon": EPSILON,
        "multi_query_attention": True,
        "multi_query_group_num": GROUPS,
        "num_attention_heads": HEADS,
        "num_layers": LAYERS,
        "original_rope": True,
        "padded_vocab_size": vocab_size,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": 8192,
        "use_cache": True,
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **changes,
    }


def random_tensors(vocab_size: int, dtype: torch.dtype = torch.float32) -> Tensors:
    random = torch.Generator().manual_seed(0)

    def some(*shape: int, scale: float = 0.2, offset: float = 0.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=random) * scale + offset).to(dtype)

    fused = (HEADS + 2 * GROUPS) * HEAD_DIM
    tensors = {
        "transformer.embedding.word_embeddings.weight": some(vocab_size, HIDDEN, scale=1.0),
        "transformer.encoder.final_layernorm.weight": some(HIDDEN, offset=1.0),
        "transformer.output_layer.weight": some(vocab_size, HIDDEN, scale=0.05),
        "transformer.rotary_pos_emb.inv_freq": (
            1 / 10000 ** (torch.arange(0, HEAD_DIM // 2, 2) / (HEAD_DIM // 2))
        ).to(dtype),
    }
    for layer in range(LAYERS):
        prefix = f"transformer.encoder.layers.{layer}."
        tensors |= {
            prefix + "input_layernorm.weight": some(HIDDEN, offset=1.0),
            prefix + "self_attention.query_key_value.weight": some(fused, HIDDEN),
            prefix + "self_attention.query_key_value.bias": some(fused),
            prefix + "self_attention.dense.weight": some(HIDDEN, HEADS * HEAD_DIM),
            prefix + "post_attention_layernorm.weight": some(HIDDEN, offset=1.0),
            prefix + "mlp.dense_h_to_4h.weight": some(2 * INNER, HIDDEN),
            prefix + "mlp.dense_4h_to_h.weight": some(HIDDEN, INNER),
        }
    return tensors


def reference_logits(
    tensors: Tensors, ids: list[int], *, base: float = 10_000.0, divisor: float = 1.0
) -> torch.Tensor:
    """fp32 logits of one sequence. ``base`` and ``divisor`` are the rotary embedding's: the 32k
    versions of ChatGLM3 and ChatGLM2 change one each."""
    states = tensors["transformer.embedding.word_embeddings.weight"][ids]
    turn = _turns(len(ids), base, divisor)
    mask = torch.full((len(ids), len(ids)), -math.inf).triu(1)
    for layer in range(LAYERS):
        weights = {
            name.split(f"layers.{layer}.")[1]: tensor
            for name, tensor in tensors.items()
            if f"layers.{layer}." in name
        }
        normed = _norm(states, weights["input_layernorm.weight"])
        fused = functional.linear(
            normed,
            weights["self_attention.query_key_value.weight"],
            weights["self_attention.query_key_value.bias"],
        ).reshape(len(ids), -1, HEAD_DIM)
        query, key, value = torch.split(fused, [HEADS, GROUPS, GROUPS], dim=1)
        query, key = _rotated(query, turn), _rotated(key, turn)
        key, value = (each.repeat_interleave(HEADS // GROUPS, dim=1) for each in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(HEAD_DIM) + mask
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)
        states = states + mixed @ weights["self_attention.dense.weight"].T
        normed = _norm(states, weights["post_attention_layernorm.weight"])
        gate, up = (normed @ weights["mlp.dense_h_to_4h.weight"].T).chunk(2, dim=-1)
        states = states + (functional.silu(gate) * up) @ weights["mlp.dense_4h_to_h.weight"].T
    normed = _norm(states, tensors["transformer.encoder.final_layernorm.weight"])
    return normed @ tensors["transformer.output_layer.weight"].T


def _norm(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + EPSILON) * weight


def _turns(length: int, base: float, divisor: float) -> torch.Tensor:
    """Complex rotations, one for each position and pair of the rotated half."""
    half = HEAD_DIM // 2
    speeds = 1 / base ** (torch.arange(0, half, 2) / half)
    angles = torch.outer(torch.arange(length) / divisor, speeds)
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def _rotated(heads: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Neighbouring numbers of the first half are a point in the plane each."""
    first, second = heads.chunk(2, dim=-1)
    points = torch.view_as_complex(first.reshape(*first.shape[:-1], -1, 2))
    return torch.cat([torch.view_as_real(points * turn).flatten(-2), second], dim=-1)


def write_original(
    folder: Path,
    tensors: Tensors,
    *,
    kind: str = "safetensors",
    num_shards: int = 1,
    tokenizer: bytes | None = None,
    **changes: Any,
) -> None:
    folder.mkdir(parents=True)
    vocab_size = tensors["transformer.output_layer.weight"].shape[0]
    (folder / "config.json").write_text(json.dumps(config(vocab_size, **changes)), encoding="utf-8")
    code = "raise SystemExit('remote code was run')\n"
    (folder / "modeling_chatglm.py").write_text(code, encoding="utf-8")
    if tokenizer is not None:
        (folder / "tokenizer.model").write_bytes(tokenizer)
    single, numbered = {
        "safetensors": ("model.safetensors", "model-{:05}-of-{:05}.safetensors"),
        "bin": ("pytorch_model.bin", "pytorch_model-{:05}-of-{:05}.bin"),
    }[kind]
    names = sorted(tensors)
    places: dict[str, str] = {}
    for shard in range(num_shards):
        held = names[shard::num_shards]
        file = numbered.format(shard + 1, num_shards) if num_shards > 1 else single
        places |= dict.fromkeys(held, file)
        content = {name: tensors[name].contiguous() for name in held}
        if kind == "bin":
            torch.save(content, folder / file)
        else:
            save_file(content, folder / file, metadata={"format": "pt"})
    if num_shards > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / f"{single}.index.json").write_text(json.dumps(index), encoding="utf-8")


TEXTS = (
    "hi, who are you? The soprano sings an opera; the quick brown fox jumps over the lazy dog.",
    "你好\uff0c世界\uff01我是一个语言模型\uff0c今天天气很好\u3002北京是中国的首都\u3002",
    "def forward(self, x):\n    return self.norm(x) + 1.0  # residual",
    "for (int i = 0; i < 10; ++i) { sum += a[i] * b[i]; }",
    "In 2023, 6 243 584 000 parameters were trained on text and code.",
    "<|user|> system assistant observation [gMASK] sop eop </s> <s> <unk>",
)


def train_sentencepiece(vocab_size: int = 500) -> bytes:
    """A model with the settings of ChatGLM3's ``tokenizer.model``."""
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=written,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.999,
        pad_id=-1,
        minloglevel=2,
    )
    return written.getvalue()


def of_real_size(trained: bytes) -> bytes:
    """A model of 64,789 pieces with what ``▁hi`` needs where ChatGLM3's has it.

    A message of sentencepiece_model.proto: pieces are field 1, each a text (1), a score (2) and a
    type (3: 1 normal, 2 unknown, 3 control, 6 byte). The other fields are those of ``trained``.
    """
    pieces: list[tuple[str, int]] = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    pieces += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    placed = {14_980: "▁hi", 30_910: "▁", 40_000: "h", 40_001: "i", 10_000: "hi"}
    others = (chr(0x20000 + index) for index in range(64_789))
    pieces += [(placed.get(index) or next(others), 1) for index in range(259, 64_789)]
    parts = []
    for index, (text, kind) in enumerate(pieces):
        word = text.encode()
        score = struct.pack("<f", -float(index))
        message = b"\x0a" + _varint(len(word)) + word + b"\x15" + score + bytes([0x18, kind])
        parts.append(b"\x0a" + _varint(len(message)) + message)
    return b"".join(parts) + _other_fields(trained)


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _other_fields(trained: bytes) -> bytes:
    """All but the pieces; every field of the message is a length and that many bytes."""
    kept, position = b"", 0
    while position < len(trained):
        begin, size, shift = position, 0, 0
        position += 1
        while True:
            byte = trained[position]
            size |= (byte & 127) << shift
            position, shift = position + 1, shift + 7
            if byte < 128:
                break
        position += size
        if trained[begin] != 0x0A:
            kept += trained[begin:position]
    return kept
