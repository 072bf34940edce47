"""The errors that a person should read: one message that says what is wrong, where, and what to do."""

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


class MsdError(Exception):
    """Base of every error that the commands print as a message instead of a traceback."""


class ContractError(MsdError):
    """Something that crosses between offline and online breaks the contract."""


class SchemaError(ContractError):
    """A schema is not valid, or a value does not fit the field that it is given for."""


class BundleError(ContractError):
    """A bundle, or a file of it, is missing, damaged, of another format, or of another bundle."""
