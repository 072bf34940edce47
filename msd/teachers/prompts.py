"""Prompts: wording and texts as messages, and their tokens. Sends nothing."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Literal, TypedDict

from msd.teachers.teacher import Question, Usage

# Increment with every change of a file in wording/: answers are stored under it, so changed questions are asked again.
PROMPT_VERSION = "3"
_QUOTED = 2000
# Rule of thumb without a tokenizer; some languages and tokenizers take half as much again.
ANSWER_TOKENS = 300
BYTES_A_TOKEN = 4
_MESSAGE_TOKENS = 4


class Message(TypedDict):
    """One turn of a chat, as chat templates and servers take it."""

    role: Literal["system", "user", "assistant"]
    content: str


def messages(question: Question) -> list[Message]:
    """Return the chat that asks one question. It has the question's text, and nothing else of the dataset."""
    return [
        Message(role="system", content=wording(question.level)),
        Message(role="user", content=f"<text>\n{question.text}\n</text>"),
    ]


def prompt_sha256() -> str:
    """Return a hash of the wording: everything that goes with a question's text."""
    # The empty list stands for examples, which earlier releases could add.
    return hashlib.sha256(json.dumps([[wording(name) for name in ("item", "user", "repair")], []]).encode()).hexdigest()


def repair(chat: Sequence[Message], raw: str, reason: str) -> list[Message]:
    """Return the chat that asks again after an unusable answer."""
    again = wording("repair").replace("{reason}", reason)
    # A server may refuse an empty turn. The beginning of a long wrong answer is enough.
    said = raw[:_QUOTED].strip() or "…"
    return [*chat, Message(role="assistant", content=said), Message(role="user", content=again)]


@cache
def wording(name: str) -> str:
    """Return a text of wording/, which ships with the package."""
    return resources.files("msd.teachers").joinpath("wording", f"{name}.txt").read_text(encoding="utf-8").strip()


def tokens_of(text: str) -> int:
    """Return the tokens of a text by the rule of thumb."""
    return -(-len(text.encode()) // BYTES_A_TOKEN)


def usage_of(chat: Sequence[Message]) -> Usage:
    """Return the tokens of a chat and its answer by the rule of thumb."""
    return Usage(sum(tokens_of(message["content"]) + _MESSAGE_TOKENS for message in chat), ANSWER_TOKENS)
