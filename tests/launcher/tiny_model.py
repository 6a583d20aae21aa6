"""A Llama of a few thousand parameters with a byte-level tokenizer, written by the tests."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

END = "<|end|>"
ROLE = "<|role|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|role|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|role|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token, and two special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([END, ROLE, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, ROLE])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_tiny_model(folder: Path, **changes: int) -> int:
    """The checkpoint in a folder, with other sizes if asked; gives its number of parameters."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    sizes = {**CONFIG, "vocab_size": len(tokenizer), **changes}
    config = LlamaConfig(eos_token_id=0, pad_token_id=0, bos_token_id=None, **sizes)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def write_tiny_mixture(folder: Path) -> int:
    """The same of a Mixtral, whose files hold the matrices of its experts one by one."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    sizes = {name: size for name, size in CONFIG.items() if name != "head_dim"}
    config = MixtralConfig(
        num_local_experts=4, eos_token_id=0, bos_token_id=None, vocab_size=len(tokenizer), **sizes
    )
    model = MixtralForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def write_model_that_says_a(checkpoint: Path, folder: Path) -> Any:
    """Write a checkpoint's model with weights by which it says the letter a for ever; return its
    tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.model.embed_tokens.weight.fill_(1)
        model.model.norm.weight.fill_(1)
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("a")] = 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
