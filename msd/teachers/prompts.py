"""Prompts: wording, examples and texts as messages, and their tokens. Sends nothing."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, TypedDict

from msd.teachers.knowledge import Knowledge
from msd.teachers.teacher import Level, Question, Usage

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


@dataclass(frozen=True)
class Example:
    """A question that a strong model has answered, shown to the bulk teacher."""

    level: Level
    text: str
    reasoning: str
    knowledge: Knowledge


@dataclass(frozen=True)
class Prompt:
    """Wording of questions. Examples are shown with questions of their own level."""

    examples: tuple[Example, ...] = ()

    @property
    def version(self) -> str:
        """Version of the wording, with a short hash of the examples: `2`, or `2+1f3a9c04`."""
        if not self.examples:
            return PROMPT_VERSION
        shown = json.dumps([[one.level, one.text, _answer_of(one)] for one in self.examples])
        return f"{PROMPT_VERSION}+{hashlib.sha256(shown.encode()).hexdigest()[:8]}"

    @property
    def sha256(self) -> str:
        """Hash of the wording and the examples: everything that goes with a question's text."""
        words = [wording(name) for name in ("item", "user", "repair")]
        shown = [[one.level, one.text, _answer_of(one)] for one in self.examples]
        return hashlib.sha256(json.dumps([words, shown]).encode()).hexdigest()

    def messages(self, question: Question) -> list[Message]:
        """Return the chat that asks one question. It has the question's text, and nothing else of the dataset."""
        chat = [Message(role="system", content=wording(question.level))]
        for example in self.examples:
            if example.level == question.level:
                chat.append(Message(role="user", content=_quoted(example.text)))
                chat.append(Message(role="assistant", content=_answer_of(example)))
        chat.append(Message(role="user", content=_quoted(question.text)))
        return chat


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


def _quoted(text: str) -> str:
    return f"<text>\n{text}\n</text>"


def _answer_of(example: Example) -> str:
    one = example.knowledge
    answer = {
        "reasoning": example.reasoning,
        "explicit": one.explicit,
        "implicit": one.implicit,
        "tags": list(one.tags),
        "known": one.known,
    }
    return json.dumps(answer, ensure_ascii=False)


def tokens_of(text: str) -> int:
    """Return the tokens of a text by the rule of thumb."""
    return -(-len(text.encode()) // BYTES_A_TOKEN)


def usage_of(chat: Sequence[Message], count: Callable[[str], int] = tokens_of) -> Usage:
    """Return the tokens of a chat and its answer: the chat's by `count`, the answer's by the rule of thumb."""
    return Usage(sum(count(message["content"]) + _MESSAGE_TOKENS for message in chat), ANSWER_TOKENS)
