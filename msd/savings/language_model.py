"""Language model as a scorer at request time (would this user like each candidate?), loaded from a local folder or GGUF
file.

The prompt's common prefix is read once and cached. Candidates follow in batches, and no text is generated: the
likelihoods of "Yes" and "No" as the next token are compared. Generated answers, or a full prompt per candidate, would
take longer.
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
    """Model loaded in fp32 on the CPU. Raises MsdError if it is missing or cannot be loaded."""

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
        except Exception as error:  # A file that is damaged or of another version can fail in any way.
            raise MsdError(f"{path} cannot be loaded: {error}") from None
        self._model = loaded.eval()
        self._body: Any = self._model.base_model
        # Renamed within transformers 5.
        self._cache = "cache" if "cache" in inspect.signature(self._body.forward).parameters else "past_key_values"
        self._yes, self._no = (self._first_token(word) for word in (" Yes", " No"))

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(weights.numel() for weights in self._model.parameters())

    @torch.inference_mode()
    def scores(self, liked: Sequence[str], candidates: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability of "Yes" against "No" for each candidate [N]; items are given by their titles."""
        opening = "A viewer liked these: " + "; ".join(liked) + ".\nWould the same viewer like this one: "
        shared, read = self._tokens(opening), DynamicCache()
        self._read(torch.tensor([shared]), read, len(shared))
        ends = [self._tokens(f"{title}? Answer Yes or No.\nAnswer:") for title in candidates]
        found = [self._batch(read, len(shared), ends[start : start + _BATCH]) for start in range(0, len(ends), _BATCH)]
        likelihoods: NDArray[np.float64] = 1 / (1 + np.exp(-np.concatenate(found)))
        return likelihoods

    def _batch(self, read: DynamicCache, shared: int, ends: Sequence[list[int]]) -> NDArray[np.float64]:
        """Return log p("Yes") − log p("No") [B] for prompts that continue the cached prefix `read` with each end."""
        longest = max(map(len, ends))
        # Tokens after an end do not affect it, so any value is valid padding.
        tokens_BE = torch.tensor([end + [0] * (longest - len(end)) for end in ends])
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(len(ends))
        states_BED = self._read(tokens_BE, cache, shared + longest)
        last_BD = states_BED[torch.arange(len(ends)), torch.tensor([len(end) - 1 for end in ends])]
        # Only two tokens matter, but the model computes the logits of its whole vocabulary.
        logits_BV = self._model.get_output_embeddings()(last_BD)
        difference: NDArray[np.float64] = (logits_BV[:, self._yes] - logits_BV[:, self._no]).double().numpy()
        return difference

    def _read(self, tokens_BT: torch.Tensor, cache: DynamicCache, seen: int) -> torch.Tensor:
        """Return the last layer's states [B, T, D]; add these tokens to the cache."""
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
