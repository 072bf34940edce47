"""A chat completion of the OpenAI protocol: the request's body and the reply's content. Sends nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msd.teachers.answer import ANSWER_SCHEMA
from msd.teachers.prompts import Message, tokens_of, usage_of
from msd.teachers.teacher import Usage

_SHOWN = 300


class BadCompletion(Exception):
    """The reply is not a chat completion."""


@dataclass(frozen=True)
class Completion:
    """A model's answer and its tokens.

    `counted`: by the server, not by the rule of thumb. `model`: the one that answered, as the server names it.
    """

    text: str
    usage: Usage
    counted: bool
    model: str = ""


class CompletionOptions:
    """A request's body: the model, temperature 0, a token limit, JSON by a schema.

    Not every server accepts all of these options; a rejected one is no longer sent.
    """

    def __init__(self, model: str, max_tokens: int) -> None:
        self._model, self._max_tokens = model, max_tokens
        self._sent: dict[str, Any] = {
            "temperature": 0,
            "max_tokens": max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "knowledge", "strict": True, "schema": ANSWER_SCHEMA},
            },
        }

    def sampling(self) -> dict[str, Any]:
        """Return the sampling options, for the record."""
        return {name: "json_schema" if name == "response_format" else value for name, value in self._sent.items()}

    def body(self, chat: Sequence[Message]) -> dict[str, Any]:
        """Return a request's body."""
        return {"model": self._model, "messages": list(chat), **self._sent}

    def give_up(self, body: Mapping[str, Any], refusal: str, understood: bool) -> bool:
        """Stop sending the option that a refusal of `body` names (the schema, if none); return whether to try again.

        A retry is also worthwhile if another request has given up an option meanwhile. Once the server has understood a
        request, a refusal is about the question.
        """
        if body.keys() - {"model", "messages"} != self._sent.keys():
            return True
        option = next((option for option in self._sent if option in refusal), "response_format")
        if understood or option not in self._sent:
            return False
        del self._sent[option]
        if option == "max_tokens":
            self._sent["max_completion_tokens"] = self._max_tokens
        return True

    def most(self, body: Mapping[str, Any]) -> Usage | None:
        """Return the maximum tokens of a request, at one byte per token; None if nothing limits its answer."""
        if not body.keys() & {"max_tokens", "max_completion_tokens"}:
            return None
        return Usage(len(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")), self._max_tokens)


def read_completion(reply: object, chat: Sequence[Message]) -> Completion:
    """Return the completion in a reply. Raises BadCompletion. An empty text, as when a model declines, is a wrong
    answer, not a bad completion."""
    try:
        text = reply["choices"][0]["message"]["content"]  # type: ignore[index]
    except (LookupError, TypeError):
        raise BadCompletion(f"the reply is not a chat completion: {json.dumps(reply).encode()[:_SHOWN]!r}") from None
    assert isinstance(reply, dict)
    parts = text, reply.get("model")
    text, model = (part.encode("utf-8", "replace").decode() if isinstance(part, str) else "" for part in parts)
    usage = _counted(reply.get("usage"))
    return Completion(
        text,
        usage or Usage(usage_of(chat).read, tokens_of(text)),
        counted=usage is not None,
        model=model[:_SHOWN],
    )


def _counted(usage: object) -> Usage | None:
    """Return the tokens as counted by the server; None if it does not count them."""
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(read) is int and read >= 0 and type(written) is int and written >= 0:
        return Usage(read, written)
    return None
