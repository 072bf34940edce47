"""Errors for users: one message that says what is wrong, where, and what to do."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    # Imported late, so that `msd --help` loads no package.
    from pydantic import ValidationError

_PYDANTIC = (
    ("Value error, ", ""),
    ("Field required", "is missing"),
    ("Extra inputs are not permitted", "is not known here"),
    ("Input should", "should"),
    ("String should", "should"),
    ("List should", "should"),
    ("Tuple should", "should"),
    ("Dictionary should", "should"),
)


def plain_words(message: str) -> str:
    """Return pydantic's message, phrased to follow the value's name: "should be less than 1", "is missing"."""
    for theirs, ours in _PYDANTIC:
        message = message.replace(theirs, ours, 1) if message.startswith(theirs) else message
    return message.partition(" after validation, not ")[0]


class Fault(NamedTuple):
    """A fault of a value: its dotted path (empty for the whole), the message after its name, and pydantic's error
    type."""

    place: str
    words: str
    kind: str

    def __str__(self) -> str:
        return f"{self.place}: {self.words}" if self.place else self.words


def faults_of(error: "ValidationError") -> list[Fault]:
    """Return pydantic's faults, without the values."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [Fault(".".join(map(str, one["loc"])), plain_words(one["msg"]), one["type"]) for one in found]


def first_fault(error: "ValidationError") -> Fault:
    """Return pydantic's first fault, without the value."""
    return faults_of(error)[0]


class MsdError(Exception):
    """Base of all errors that commands print as a message instead of a traceback."""


class ContractError(MsdError):
    """Something exchanged between offline and online violates the contract."""


class SchemaError(ContractError):
    """A schema is invalid, or a value does not fit its field."""


class BundleError(ContractError):
    """A bundle, or a file of it, is missing, damaged, of another format, or of another bundle."""
