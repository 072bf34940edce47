"""The available teachers, and their construction from options. A backend is imported only if it is chosen."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from msd.dataset.config import DatasetConfig
from msd.teachers.allowance import Allowance, Budget, RateLimit
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import Example, tokens_of
from msd.teachers.recorded import RecordedTeacher
from msd.teachers.teacher import Prices, Teacher


class Backend(StrEnum):
    """The teachers to choose from."""

    RECORDED = "recorded"
    OPENAI_COMPATIBLE = "openai_compatible"
    LOCAL = "local"


@dataclass(frozen=True)
class TeacherChoice:
    """A teacher's options. `prefix`: of these options, for messages."""

    backend: Backend
    url: str | None
    model: str | None
    key_variable: str
    prefix: str = "--"


@dataclass(frozen=True)
class Limits:
    """Limits of concurrency, rates and waits: see `ModelServer`, `RateLimit`, `LocalTeacher`. `tokenizer`: a
    tokenizer.json, or a folder with one, for estimates of a server's tokens."""

    concurrency: int
    timeout: float
    attempts: int
    batch: int
    max_tokens: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    tokenizer: Path | None = None


@runtime_checkable
class LanguageModel(Teacher, Protocol):
    """A teacher that can be shown examples."""

    def steered(self, examples: tuple[Example, ...]) -> Teacher:
        """Return the same teacher, shown examples."""
        ...


def teacher_of(
    choice: TeacherChoice,
    config: DatasetConfig,
    limits: Limits,
    budget: Budget | None = None,
    prices: Prices | None = None,
) -> Teacher:
    """Return the chosen teacher. Raises TeacherError if an option is missing, or does not apply to it. `budget`: of the
    whole run, shared by all its teachers, at these prices."""
    needs = {
        Backend.RECORDED: (),
        Backend.OPENAI_COMPATIBLE: ("url", "model"),
        Backend.LOCAL: ("model",),
    }[choice.backend]
    for name, value in {"url": choice.url, "model": choice.model}.items():
        if (name in needs) != bool(value):
            verb = "needs" if name in needs else "takes no"
            raise TeacherError(f"the teacher {choice.backend} {verb} {choice.prefix}{name}")
    if choice.backend is Backend.RECORDED:
        return RecordedTeacher(config)
    assert choice.model
    try:
        if choice.backend is Backend.LOCAL:
            from msd.teachers.local import LocalTeacher

            return LocalTeacher(Path(choice.model), limits.batch, limits.max_tokens)
        from msd.teachers.openai_compatible import ModelServer, OpenAICompatibleTeacher
    except ModuleNotFoundError as error:
        raise TeacherError(
            f"the teacher {choice.backend} needs the module {error.name!r}; in the checkout: "
            "pip install -e '.[train,teach]'"
        ) from error
    assert choice.url
    if budget and budget.is_set and not (prices and prices.written):
        raise TeacherError(
            f"--budget needs the prices of the teacher: {choice.prefix}price-in and {choice.prefix}price-out"
        )
    server = ModelServer(
        url=choice.url,
        model=choice.model,
        key_variable=choice.key_variable,
        concurrency=limits.concurrency,
        timeout=limits.timeout,
        attempts=limits.attempts,
        max_tokens=limits.max_tokens,
    )
    allowance = Allowance(RateLimit(limits.requests_per_minute, limits.tokens_per_minute), budget, prices)
    count = counter_of(limits.tokenizer) if limits.tokenizer else tokens_of
    return OpenAICompatibleTeacher(server, os.environ, None, allowance, count)


def counter_of(tokenizer: Path) -> Callable[[str], int]:
    """Return a token counter by a tokenizer.json, or the one in a folder. Raises TeacherError."""
    from tokenizers import Tokenizer

    path = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    try:
        loaded = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # The library raises plain Exception for an unreadable file.
        raise TeacherError(f"--tokenizer {tokenizer}: not a tokenizer.json: {error}") from None
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def steerable(teacher: Teacher) -> LanguageModel:
    """Return the teacher if it can be shown examples. Raises TeacherError if its answers are recorded."""
    if isinstance(teacher, LanguageModel):
        return teacher
    raise TeacherError("the teacher recorded has answered already; seeds are for openai_compatible and local")
