"""Constrained decoding: a local model can only write a complete answer of the right form within its token limit."""

from typing import Any

import torch
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from transformers import LogitsProcessor

from msd.teachers.checks import FEWEST_TAGS, MOST_TAGS

# Shares of an answer's tokens for its three texts; a tag gets a twelfth of the rest.
_REASONING, _EXPLICIT, _IMPLICIT = 0.35, 0.15, 0.2
_KEYS = 60
FEWEST_TOKENS = 200


def grammar_of(max_tokens: int) -> str:
    """Return the answer's form in llguidance's dialect of Lark. A text ends when it reaches its share of the tokens."""
    free = max_tokens - _KEYS
    tag = max(3, int(free * (1 - _REASONING - _EXPLICIT - _IMPLICIT) / 12))
    return rf"""
start: "{{\"reasoning\": \"" reasoning "\", \"explicit\": \"" explicit "\", \"implicit\": \"" implicit "\", \"tags\": [\"" tags "\"], \"known\": " ("true" | "false") "}}"
reasoning[max_tokens={int(free * _REASONING)}]: TEXT
explicit[max_tokens={int(free * _EXPLICIT)}]: TEXT
implicit[max_tokens={int(free * _IMPLICIT)}]: TEXT
tags: tag ("\", \"" tag){{{FEWEST_TAGS - 1},{MOST_TAGS - 1}}}
tag[max_tokens={tag}]: /[^"\\\x00-\x20,;][^"\\\x00-\x1f,;]*/
TEXT: /[^"\\\x00-\x20][^"\\\x00-\x1f]*/
"""  # noqa: E501 - the dialect has no line continuation


class AnswerForm:
    """The form, compiled for one model's tokenizer. Raises ValueError if llguidance cannot read the tokenizer."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:  # noqa: ANN401
        self._tokenizer = from_tokenizer(tokenizer)
        self._end = tokenizer.eos_token_id
        self._matcher = LLMatcher(self._tokenizer, grammar_of(max_tokens))
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def processor(self, answers: int) -> "FormProcessor":
        """Return a processor that holds a batch of answers to the form."""
        return FormProcessor([self._matcher.deep_copy() for _ in range(answers)], self._end)


class FormProcessor(LogitsProcessor):
    """Logits processor that masks tokens that the form does not allow. For one call of `generate`."""

    def __init__(self, matchers: list[LLMatcher], end: int) -> None:
        self._matchers, self._end = matchers, end
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores [B, V] with masked tokens. input_ids [B, T]: the last token was chosen by the previous call's
        scores."""
        for row, matcher in enumerate(self._matchers):
            if self._begun and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
            if matcher.is_stopped():
                allowed[self._end] = True
            else:
                bias = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8) != 0
                allowed[: len(bias)] = bias[: len(allowed)]
            scores[row, ~allowed.to(scores.device)] = -torch.inf
        self._begun = True
        return scores
