"""Logits of small models on two gloo ranks that share sequences, beside those of one rank alone.

python -m torch.distributed.run ... -m tests.oracle.shared_attention_ranks FILE
"""

import json
import os
import sys
from pathlib import Path

import deepspeed
import torch

from launcher.compat.deepspeed import (
    SharedAttention,
    compile_no_collectives,
    form_sequence_groups,
)
from planner.models.model_spec import ModelSpec
from tests.oracle.small_models import SHAPES, build

RANKS, SAMPLES, TOKENS = 2, 2, 64


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
        with attention.alone():
            expected = model(input_ids=ids, use_cache=False).logits.chunk(RANKS, dim=1)[rank]
        try:
            found = model(input_ids=own, position_ids=positions, use_cache=False).logits
        except (AssertionError, RuntimeError):
            return None
    difference = (found - expected).abs().max()
    torch.distributed.all_reduce(difference, torch.distributed.ReduceOp.MAX)
    return float(difference)


if __name__ == "__main__":
    compile_no_collectives()
    deepspeed.init_distributed("gloo")
    form_sequence_groups(RANKS)
    shared = SharedAttention("sdpa")
    differences = {
        name: largest_difference(SHAPES[name], shared) for name in json.loads(sys.argv[2])
    }
    if os.environ["RANK"] == "0":
        Path(sys.argv[1]).write_text(json.dumps(differences))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may still wait
