"""A language model that is asked at request time whether a user would like each candidate: a model's folder or a GGUF
file on this machine.

What all candidates share, the question up to the candidate, is read once and kept; the candidates follow in batches,
and nothing is written: the likelihoods of "Yes" and "No" as the next word are compared. Asked for an answer in words,
or for each candidate anew, it would take longer.
"""

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging

from msd.contract.errors import MsdError

_BATCH = 25


class LoadedLanguageModel:
    """A model loaded in fp32 on the CPU. Raises MsdError if there is none."""

    def __init__(self, path: Path) -> None:
        if not (path.is_file() and path.suffix == ".gguf") and not (path / "config.json").is_file():
            raise MsdError(f"{path} is neither a GGUF file nor a model's folder with a config.json")
        folder, options = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, **options
            )
        except Exception as error:  # A damaged file, or one of another version, can fail in any way.
            raise MsdError(f"{path} cannot be loaded: {error}") from None
        self._model = loaded.eval()
        self._body: Any = self._model.base_model
        # Renamed within transformers 5.
        self._cache = "cache" if "cache" in inspect.signature(self._body.forward).parameters else "past_key_values"
        self._yes, self._no = (self._first_token(word) for word in (" Yes", " No"))

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(weights.numel() for weights in self._model.parameters())

    @torch.inference_mode()
    def scores(self, liked: Sequence[str], candidates: Sequence[str]) -> NDArray[np.float64]:
        """The likelihood of "Yes", of "Yes" and "No", for each candidate [N]; all are described by their titles."""
        opening = "A viewer liked these: " + "; ".join(liked) + ".\nWould the same viewer like this one: "
        shared, read = self._tokens(opening), DynamicCache()
        self._read(torch.tensor([shared]), read, len(shared))
        ends = [self._tokens(f"{title}? Answer Yes or No.\nAnswer:") for title in candidates]
        found = [self._batch(read, len(shared), ends[start : start + _BATCH]) for start in range(0, len(ends), _BATCH)]
        likelihoods: NDArray[np.float64] = 1 / (1 + np.exp(-np.concatenate(found)))
        return likelihoods

    def _batch(self, read: DynamicCache, shared: int, ends: Sequence[list[int]]) -> NDArray[np.float64]:
        """log p("Yes") − log p("No") [B] of candidates whose questions end so, after what `read` holds."""
        longest = max(map(len, ends))
        # Tokens after an end do not affect it, so any will do.
        tokens_BE = torch.tensor([end + [0] * (longest - len(end)) for end in ends])
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(len(ends))
        states_BED = self._read(tokens_BE, cache, shared + longest)
        last_BD = states_BED[torch.arange(len(ends)), torch.tensor([len(end) - 1 for end in ends])]
        # Only two words of the vocabulary matter, but a model has one product for all.
        logits_BV = self._model.get_output_embeddings()(last_BD)
        difference: NDArray[np.float64] = (logits_BV[:, self._yes] - logits_BV[:, self._no]).double().numpy()
        return difference

    def _read(self, tokens_BT: torch.Tensor, cache: DynamicCache, seen: int) -> torch.Tensor:
        """The last layer's states [B, T, D]; the cache holds these tokens too, afterwards."""
        mask_BS = torch.ones(len(tokens_BT), seen, dtype=torch.long)
        states: torch.Tensor = self._body(
            tokens_BT, attention_mask=mask_BS, use_cache=True, **{self._cache: cache}
        ).last_hidden_state
        return states

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    def _first_token(self, word: str) -> int:
        return self._tokens(word)[0]
