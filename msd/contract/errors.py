"""The errors that a person should read: one message that says what is wrong, where, and what to do."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    # Whoever asks `msd` for help waits for no package.
    from pydantic import ValidationError

_PYDANTIC = (
    ("Value error, ", ""),
    ("Field required", "is missing"),
    ("Extra inputs are not permitted", "is not known here"),
    ("Input should", "should"),
    ("String should", "should"),
    ("List should", "should"),
    ("Tuple should", "should"),
)


def plain_words(message: str) -> str:
    """What pydantic says of a value, as it follows the value's name: "should be less than 1", "is missing"."""
    for theirs, ours in _PYDANTIC:
        message = message.replace(theirs, ours, 1) if message.startswith(theirs) else message
    return message.partition(" after validation, not ")[0]


class Fault(NamedTuple):
    """What is wrong with a value: the dotted path to it, empty for the whole, what follows its name, and pydantic's
    name for the kind of error."""

    place: str
    words: str
    kind: str


def first_fault(error: "ValidationError") -> Fault:
    """The first of the faults that pydantic found, without the value at fault."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return Fault(".".join(map(str, first["loc"])), plain_words(first["msg"]), first["type"])


class MsdError(Exception):
    """Base of every error that the commands print as a message instead of a traceback."""


class ContractError(MsdError):
    """Something that crosses between offline and online breaks the contract."""


class SchemaError(ContractError):
    """A schema is not valid, or a value does not fit the field that it is given for."""


class BundleError(ContractError):
    """A bundle, or a file of it, is missing, damaged, of another format, or of another bundle."""
