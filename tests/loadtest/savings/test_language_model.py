"""The question to a language model: what is kept of it changes no answer, and a model that is none is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from loadtest.savings.language_model import LanguageModel
from msd.contract.errors import MsdError

_WORDS = [
    "[UNK]",
    "Yes",
    "No",
    "A",
    "viewer",
    "liked",
    "these",
    "Would",
    "Fargo",
    "Alien",
    "Brazil",
    "Answer",
    ":",
    "?",
]
_TITLES = ["Fargo", "Alien Brazil", "Brazil", *["Alien"] * 30, "Fargo Fargo Fargo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights."""
    made = tmp_path_factory.mktemp("model")
    core = Tokenizer(WordLevel({word: place for place, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    wrap: Callable[..., Any] = PreTrainedTokenizerFast
    wrap(tokenizer_object=core, unk_token="[UNK]").save_pretrained(made)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(_WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=1.0,
    )
    LlamaForCausalLM(config).save_pretrained(made)
    return made


def test_answers_are_those_to_whole_questions(folder: Path) -> None:
    model = LanguageModel(folder)
    liked = ["Alien", "Brazil"]
    scores = model.scores(liked, _TITLES)

    whole = LlamaForCausalLM.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]
    for title, score in zip(_TITLES, scores, strict=True):
        text = "A viewer liked these: Alien; Brazil.\nWould the same viewer like this one: "
        text += f"{title}? Answer Yes or No.\nAnswer:"
        tokens = model._tokenizer(text, add_special_tokens=False).input_ids
        with torch.inference_mode():
            logits = whole(torch.tensor([tokens])).logits[0, -1]
        expected = torch.sigmoid(logits[_WORDS.index("Yes")] - logits[_WORDS.index("No")])
        assert score == pytest.approx(float(expected), abs=1e-5)
    assert len(np.unique(scores.round(4))) == 5


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none", None, "neither a GGUF file nor a model's folder"),
        ("model.gguf", b"GGUF and no more", "cannot be loaded"),
        ("model.bin", b"", "neither a GGUF file nor a model's folder"),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(MsdError, match=said) as told:
        LanguageModel(tmp_path / name)
    assert str(tmp_path / name) in str(told.value)
