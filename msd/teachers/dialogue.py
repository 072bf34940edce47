"""A question and, if the answer is wrong, one repair question: what to send next, and the outcome. Sends nothing."""

from msd.teachers.answer import Written, read_answer
from msd.teachers.checks import doubts_of
from msd.teachers.prompts import Message, Prompt, repair
from msd.teachers.teacher import Answered, AnswerSource, Failed, Question, Reply, Usage

_TURNS = 2


class Dialogue:
    """The dialogue about one question. A doubtful answer is kept if no better one follows."""

    def __init__(self, question: Question, prompt: Prompt) -> None:
        self._question, self._chat = question, prompt.messages(question)
        self._said: list[str] = []
        self._usage = Usage()
        self._reason = ""
        self._written: Written | None = None
        self._source = AnswerSource()

    @property
    def due(self) -> list[Message] | None:
        """The chat to send next; None if the dialogue is over."""
        if not self._said:
            return self._chat
        if self._reason and len(self._said) < _TURNS:
            return repair(self._chat, self._said[-1], self._reason)
        return None

    @property
    def turn(self) -> int:
        """Number of the next chat, from 1."""
        return len(self._said) + 1

    @property
    def usable(self) -> bool:
        """Whether there is a usable answer."""
        return self._written is not None

    def hear(self, text: str, usage: Usage, source: AnswerSource) -> None:
        """Take the model's reply to the chat."""
        self._said.append(text)
        self._usage += usage
        found = read_answer(text)
        if isinstance(found, str):
            self._reason = found
            return
        doubts = doubts_of(self._question, found.about(self._question.id))
        self._reason = "; ".join(doubt.value for doubt in doubts)
        self._written, self._source = found, source

    def broken_off(self, reason: str, unsaid: str | None = None) -> Reply:
        """Return the outcome if the next chat could not be sent.

        `unsaid`: stands for the answer if there is none; None if the question may be asked again.
        """
        raw = self._said[-1] if self._said else unsaid
        told = f"{self._reason}; then {reason}" if self._said else reason
        return self._answered() or Failed(self._question, raw, told, self._usage)

    @property
    def reply(self) -> Reply:
        """The outcome."""
        answered = self._answered()
        repairable = len(self._said) < _TURNS
        return answered or Failed(self._question, self._said[-1], self._reason, self._usage, repairable)

    def _answered(self) -> Answered | None:
        if self._written is None:
            return None
        knowledge = self._written.about(self._question.id)
        return Answered(self._question, knowledge, self._written.reasoning, self._usage, self._source)
