"""Errors of feedback: of a log, of events, or of their combination."""

from msd.contract.errors import MsdError


class FeedbackError(MsdError):
    """A log or events are unusable; the message says what is wrong and what to do."""
