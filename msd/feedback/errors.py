"""What can be wrong with feedback: a log, events, or how they fit together."""

from msd.contract.errors import MsdError


class FeedbackError(MsdError):
    """A log or events that cannot be used as they are; the message says what is wrong and what to do."""
