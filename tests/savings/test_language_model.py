"""The question to a language model: what is kept of it changes no answer, and a model that is none is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from msd.contract.errors import MsdError
from msd.savings.language_model import LoadedLanguageModel
from tests.savings.small_model import WORDS, write_small_model

_TITLES = ["Fargo", "Alien Brazil", "Brazil", *["Alien"] * 30, "Fargo Fargo Fargo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights."""
    return write_small_model(tmp_path_factory.mktemp("model"))


def test_answers_are_those_to_whole_questions(folder: Path) -> None:
    model = LoadedLanguageModel(folder)
    liked = ["Alien", "Brazil"]
    scores = model.scores(liked, _TITLES)

    whole = LlamaForCausalLM.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]
    for title, score in zip(_TITLES, scores, strict=True):
        text = "A viewer liked these: Alien; Brazil.\nWould the same viewer like this one: "
        text += f"{title}? Answer Yes or No.\nAnswer:"
        tokens = model._tokenizer(text, add_special_tokens=False).input_ids
        with torch.inference_mode():
            logits = whole(torch.tensor([tokens])).logits[0, -1]
        expected = torch.sigmoid(logits[WORDS.index("Yes")] - logits[WORDS.index("No")])
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
        LoadedLanguageModel(tmp_path / name)
    assert str(tmp_path / name) in str(told.value)
