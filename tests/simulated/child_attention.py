"""Which kernels PyTorch chooses for scaled dot-product attention on the first simulated card."""

import json

import torch
from torch.nn.attention import SDPBackend

from launcher.training.attention_backends import pin_attention_backends

NAMES = {int(backend.value): name for name, backend in SDPBackend.__members__.items()}


def choice(dtype: torch.dtype, *, masked: bool) -> str:
    query, key, value = (
        torch.empty(2, 8, 1024, 128, device="cuda", dtype=dtype, requires_grad=True)
        for _ in range(3)
    )
    mask = torch.ones(2, 1, 1024, 1024, device="cuda", dtype=torch.bool) if masked else None
    return NAMES[torch._fused_sdp_choice(query, key, value, mask, 0.0, not masked)]


def choices() -> dict[str, list[str]]:
    return {
        name: [choice(dtype, masked=masked) for masked in (False, True)]
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16))
    }


if __name__ == "__main__":
    by_default = choices()
    pin_attention_backends()
    print(json.dumps({"default": by_default, "pinned": choices()}))
