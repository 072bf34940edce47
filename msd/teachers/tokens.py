"""How many tokens a text is taken for where nobody counts them: one for 4 bytes of UTF-8, and 4 for each message.

An answer with its reasoning is taken for 300. The rule is rough: languages and tokenizers differ by half as much again.
"""

from collections.abc import Sequence

from msd.teachers.prompts import Message
from msd.teachers.teacher import Usage

ANSWER_TOKENS = 300
BYTES_A_TOKEN = 4
_MESSAGE_TOKENS = 4


def tokens_of(text: str) -> int:
    """The tokens of a text, by the rule."""
    return -(-len(text.encode()) // BYTES_A_TOKEN)


def usage_of(chat: Sequence[Message]) -> Usage:
    """The tokens that a chat and its answer take, by the rule."""
    return Usage(sum(tokens_of(message["content"]) + _MESSAGE_TOKENS for message in chat), ANSWER_TOKENS)
