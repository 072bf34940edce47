"""The `openai_compatible` teacher: any server with POST /v1/chat/completions, asked many questions at once.

What meets a fault of the server is asked again after a pause; what is answered wrongly, once more.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx

from msd.teachers.answer import ANSWER_SCHEMA, Written, read_answer
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import Example, Message, Prompt, repair, tokens_of, usage_of
from msd.teachers.teacher import Answered, Failed, Question, Reply, Usage

_LARGEST = 1_000_000
_SHOWN = 300
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_OURS = {400, 413, 422}
# A server that asks for more is told goodbye: the run can be started again.
LONGEST_WAIT = 600.0
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Server:
    """Where and how to ask.

    url: up to and with /v1. key_variable: the environment variable that holds the key, if there is one.
    timeout, pause: seconds for one reply, and before the second attempt (then doubled).
    """

    url: str
    model: str
    key_variable: str = "TEACHER_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0
    max_tokens: int = 1024


class _PassingFault(Exception):
    """Asking again may help. wait: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class _Refused(Exception):
    """The server will not take this request, however often."""


@dataclass(frozen=True)
class _Said:
    text: str
    usage: Usage


class OpenAICompatibleTeacher:
    """Asks a server. Raises TeacherError if the address is wrong, or as soon as the server refuses the key or model.

    sleep: how pauses, in seconds, are made.
    """

    def __init__(
        self,
        server: Server,
        environment: Mapping[str, str],
        prompt: Prompt | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._server, self._environment, self._sleep = server, environment, sleep
        self._prompt = prompt or Prompt()
        self._key = environment.get(server.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise TeacherError(f"{server.key_variable} holds characters that no key has")
        self._url = _checked(server.url)
        self._understood = False
        self._optional: dict[str, Any] = {
            "temperature": 0,
            "max_tokens": server.max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "knowledge", "strict": True, "schema": ANSWER_SCHEMA},
            },
        }

    @property
    def name(self) -> str:
        """The model's name, as the server knows it."""
        return self._server.model

    @property
    def prompt_version(self) -> str:
        """Of the wording, and of the examples shown."""
        return self._prompt.version

    @property
    def provenance(self) -> str:
        """Where the answers come from; on what terms they may be used, the server's owner knows."""
        return f"Answers of {self._server.model} at {self._url.host}, prompt {self.prompt_version}."

    def steered(self, examples: tuple[Example, ...]) -> Self:
        """The same teacher, shown examples."""
        return type(self)(self._server, self._environment, Prompt(examples), self._sleep)

    def input_of(self, question: Question) -> str:
        """The text: the id is not shown."""
        return question.text

    def estimate(self, question: Question) -> Usage:
        """The tokens that one question is expected to take."""
        return usage_of(self._prompt.messages(question))

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Replies as they come. Raises TeacherError where going on makes no sense; open requests are dropped then."""
        with asyncio.Runner() as runner:
            replies = self._replies(questions)
            while (reply := runner.run(_next(replies))) is not None:
                yield reply

    async def _replies(self, questions: Sequence[Question]) -> AsyncIterator[Reply]:
        """A window of requests moves over the questions; the next starts only when a reply has been taken."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        waiting = iter(questions)
        running: set[asyncio.Task[Reply]] = set()
        limits = httpx.Limits(max_connections=self._server.concurrency)
        async with httpx.AsyncClient(headers=headers, timeout=self._server.timeout, limits=limits) as client:
            try:
                while True:
                    while len(running) < self._server.concurrency and (one := next(waiting, None)):
                        running.add(asyncio.create_task(self._reply(client, one)))
                    if not running:
                        return
                    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    task = done.pop()
                    running.remove(task)
                    yield task.result()
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _reply(self, client: httpx.AsyncClient, question: Question) -> Reply:
        """One question, and the repair question if it is due."""
        chat = self._prompt.messages(question)
        usage, raw, reason = Usage(), None, ""
        for turn in range(2):
            try:
                said = await self._say(client, chat)
            except (_PassingFault, _Refused) as fault:
                reason = f"{reason}; then {fault}" if turn else str(fault)
                return Failed(question, raw, self._hidden(reason), usage)
            usage = Usage(usage.read + said.usage.read, usage.written + said.usage.written)
            written = read_answer(said.text)
            if isinstance(written, Written):
                return Answered(question, written.about(question.id), written.reasoning, usage)
            raw, reason = said.text, written
            chat = repair(self._prompt.messages(question), raw, reason)
        return Failed(question, raw, reason, usage)

    async def _say(self, client: httpx.AsyncClient, chat: Sequence[Message]) -> _Said:
        """What the server says, after as many attempts as are allowed."""
        for attempt in range(1, self._server.attempts + 1):
            try:
                return await self._attempt(client, chat)
            except _PassingFault as fault:
                if (fault.wait or 0) > LONGEST_WAIT:
                    raise TeacherError(
                        f"{self._url.host} asks to wait {fault.wait:.0f} seconds; run `msd teach` again then, "
                        "nothing answered is lost"
                    ) from None
                if attempt == self._server.attempts:
                    raise _PassingFault(f"{fault.reason} ({attempt} attempts)") from None
                await self._sleep(pause(attempt, self._server.pause, fault.wait))
        raise AssertionError("no attempt is allowed")

    async def _attempt(self, client: httpx.AsyncClient, chat: Sequence[Message]) -> _Said:
        """One request; again at once without an option that the server does not take."""
        while True:
            sent = dict(self._optional)
            body = {"model": self._server.model, "messages": list(chat), **sent}
            try:
                # httpx counts its seconds from byte to byte; a server that drips would hold a request for ever.
                async with asyncio.timeout(self._server.timeout):
                    status, headers, content = await _post(client, self._url, body)
            except (TimeoutError, httpx.TimeoutException):
                raise _PassingFault(f"no reply within {self._server.timeout:g} seconds") from None
            except httpx.HTTPError as error:
                raise _PassingFault(f"the connection failed: {error or type(error).__name__}") from None
            if status == 200:
                self._understood = True
                said = _said(content, headers, chat)
                return replace(said, text=self._hidden(said.text))
            if status not in _OURS or not self._give_up_option(sent, content):
                raise self._fault(status, headers, content)

    def _give_up_option(self, sent: Mapping[str, Any], content: bytes) -> bool:
        """Leaves out, from now on, the option that a refusal names (the schema, if none); False if that cannot help.

        An option that another request has given up meanwhile is worth a second try as well. Once a request has been
        understood, a refusal is about the question.
        """
        if sent.keys() != self._optional.keys():
            return True
        if self._understood:
            return False
        text = content.decode(errors="replace")
        named = [option for option in sent if option in text]
        option = named[0] if named else "response_format"
        if option not in self._optional:
            return False
        value = self._optional.pop(option)
        if option == "max_tokens":
            self._optional["max_completion_tokens"] = value
        return True

    def _fault(self, status: int, headers: httpx.Headers, content: bytes) -> Exception:
        text = " ".join(self._hidden(content.decode(errors="replace")).split())
        told = f"{self._url.host} answers {status}" + (f": {text[:_SHOWN]}" if text else "")
        if status in _PASSING or status >= 500:
            return _PassingFault(told, retry_after(headers))
        if status in _OURS:
            return _Refused(told)
        hint = {
            401: f"; is {self._server.key_variable} right?" if self._key else f"; set {self._server.key_variable}",
            404: "; are the address (up to /v1) and the model's name right?",
        }
        return TeacherError(told + hint.get(status, ""))

    def _hidden(self, text: str) -> str:
        """A text of the server's without the key, which some servers repeat."""
        return text.replace(self._key, "[key]") if self._key else text


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url.rstrip("/") + "/chat/completions")
    except httpx.InvalidURL as error:
        raise TeacherError(f"{url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise TeacherError(f"{url!r} is not an address of a server, such as http://localhost:8000/v1")
    if parsed.userinfo or parsed.query:
        raise TeacherError("the address should hold no name, password or query; the key belongs in the environment")
    return parsed


async def _next(replies: AsyncIterator[Reply]) -> Reply | None:
    return await anext(replies, None)


async def _post(client: httpx.AsyncClient, url: httpx.URL, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
    """Status, headers and content, of which no more is read than any honest answer has."""
    content = bytearray()
    async with client.stream("POST", url, json=body) as response:
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > _LARGEST:
                raise _Refused(f"the reply is larger than {_LARGEST:,} bytes")
        return response.status_code, response.headers, bytes(content)


def _said(content: bytes, headers: httpx.Headers, chat: Sequence[Message]) -> _Said:
    kind = headers.get("content-type", "of no type")
    try:
        reply = json.loads(content)
        text = reply["choices"][0]["message"]["content"]
    except (ValueError, RecursionError):
        raise _PassingFault(f"the reply ({kind[:_SHOWN]}) is not JSON: {content[:80]!r}") from None
    except (LookupError, TypeError):
        raise _PassingFault(f"the reply is not a chat completion: {content[:_SHOWN]!r}") from None
    # An empty or missing text, as when a model declines, is an answer too: a wrong one.
    text = text if isinstance(text, str) else ""
    text = text.encode("utf-8", "replace").decode()
    return _Said(text, _usage(reply.get("usage"), chat, text))


def _usage(told: object, chat: Sequence[Message], text: str) -> Usage:
    """The tokens that the server counts; where it does not, those that the rule of the estimate gives."""
    usage = replace(usage_of(chat), written=tokens_of(text))
    if not isinstance(told, dict):
        return usage
    read, written = told.get("prompt_tokens"), told.get("completion_tokens")
    return Usage(
        read if type(read) is int and read >= 0 else usage.read,
        written if type(written) is int and written >= 0 else usage.written,
    )


def pause(attempt: int, base: float, asked: float | None = None) -> float:
    """Seconds before the attempt after the `attempt`-th (from 1): doubled each time, at most 60, and spread at random.

    Never less than the server asked for. The spread keeps many requests from coming back at the same moment.
    """
    doubled = min(base * 2.0 ** (attempt - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
    return doubled if asked is None else asked + doubled * 0.25


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the header Retry-After asks for, given as a number or a date; None if it says nothing readable."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
