"""A language model of a few numbers, for those who ask one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["[UNK]", "Yes", "No", "A", "viewer", "liked", "these", "Would", "Fargo", "Alien", "Brazil", "Answer", ":", "?"]


def write_small_model(folder: Path) -> Path:
    """A model of random weights and its tokenizer, as a transformers folder."""
    core = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    wrap: Callable[..., Any] = PreTrainedTokenizerFast
    wrap(tokenizer_object=core, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=1.0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
