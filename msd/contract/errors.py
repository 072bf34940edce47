"""The errors that a person should read: one message that says what is wrong, where, and what to do."""


class MsdError(Exception):
    """Base of every error that the commands print as a message instead of a traceback."""


class ContractError(MsdError):
    """Something that crosses between offline and online breaks the contract."""


class SchemaError(ContractError):
    """A schema is not valid, or a value does not fit the field that it is given for."""


class BundleError(ContractError):
    """A bundle, or a file of it, is missing, damaged, of another format, or of another bundle."""
