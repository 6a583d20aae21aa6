"""Logits of small models on two gloo ranks that share sequences, beside those of one rank alone.

python -m torch.distributed.run ... -m tests.oracle.shared_attention_ranks FILE
"""

import json
import os
import sys
from pathlib import Path

import deepspeed
import torch
from msgspec import structs

from launcher.compat.deepspeed import (
    SharedAttention,
    compile_no_collectives,
    form_sequence_groups,
)
from planner.models.model_spec import ModelSpec
from tests.oracle.small_models import SHAPES, build

RANKS, SAMPLES, TOKENS = 2, 2, 64
SHARED = {**SHAPES, "one-key": structs.replace(SHAPES["llama"], num_key_value_heads=1)}
"""Small models, one of which has fewer heads of keys and values than there are ranks."""


def largest_difference(spec: ModelSpec, attention: SharedAttention) -> float | None:
    """The largest difference of a logit on any rank; None where the model cannot run so."""
    torch.manual_seed(0)
    model = build(spec).eval()
    model.set_attn_implementation("sdpa")
    ids = torch.randint(1, spec.vocab_size, (SAMPLES, TOKENS))
    rank = torch.distributed.get_rank()
    own, positions = (
        whole.chunk(RANKS, dim=1)[rank].contiguous() for whole in (ids, torch.arange(TOKENS)[None])
    )
    with torch.no_grad():
        try:
            found = model(input_ids=own, position_ids=positions, use_cache=False).logits
        except (AssertionError, RuntimeError):
            return None
        with attention.alone():
            expected = model(input_ids=ids, use_cache=False).logits.chunk(RANKS, dim=1)[rank]
    difference = (found - expected).abs().max()
    torch.distributed.all_reduce(difference, torch.distributed.ReduceOp.MAX)
    return float(difference)


if __name__ == "__main__":
    compile_no_collectives()
    deepspeed.init_distributed("gloo")
    form_sequence_groups(RANKS)
    shared = SharedAttention("sdpa")
    differences = {
        name: largest_difference(SHARED[name], shared) for name in json.loads(sys.argv[2])
    }
    if os.environ["RANK"] == "0":
        Path(sys.argv[1]).write_text(json.dumps(differences))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may still wait
