"""The `openai_compatible` teacher: any server with POST /v1/chat/completions, asked concurrently.

Faults of the server are retried after a pause; a wrong answer gets one repair question.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx

from msd.teachers.allowance import Allowance
from msd.teachers.completion import BadCompletion, Completion, CompletionOptions, read_completion
from msd.teachers.dialogue import Dialogue
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import Example, Message, Prompt, tokens_of, usage_of
from msd.teachers.teacher import AnswerSource, Question, Reply, Usage

_LARGEST = 1_000_000
_SHOWN = 300
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
# After these statuses, and whenever a server sends a wait time, all requests pause.
_OVERLOADED = {429, 503, 529}
_OURS = {400, 413, 422}
# If a server asks for a longer pause, the run ends; it can be started again.
LONGEST_WAIT = 600.0
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class ModelServer:
    """Address and options of a server. `url`: up to and including /v1. `key_variable`: the environment variable with
    the key, if any. `timeout`, `pause`: seconds for one reply, and before the second attempt (then doubled)."""

    url: str
    model: str
    key_variable: str = "TEACHER_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0
    max_tokens: int = 1024


class _PassingFault(Exception):
    """A retry may help. `wait`: seconds that the server requested. `everybody`: whether all requests should pause."""

    def __init__(self, reason: str, wait: float | None = None, everybody: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.everybody = reason, wait, everybody


class _Refused(Exception):
    """The server rejects this request permanently."""


class OpenAICompatibleTeacher:
    """A server as a teacher. Raises TeacherError if the address is wrong, or as soon as the server refuses the key or
    model.

    `allowance`: the run's limits, shared by all its requests. `count`: counts the tokens of a text, for estimates.
    """

    def __init__(
        self,
        server: ModelServer,
        environment: Mapping[str, str],
        prompt: Prompt | None = None,
        allowance: Allowance | None = None,
        count: Callable[[str], int] = tokens_of,
    ) -> None:
        self._server, self._environment = server, environment
        self._prompt = prompt or Prompt()
        self._allowance = allowance or Allowance()
        self._key = environment.get(server.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise TeacherError(f"{server.key_variable} contains characters that a key cannot have")
        self._url = _checked(server.url)
        self._understood = False
        self._options, self._count = CompletionOptions(server.max_tokens), count
        self._sending: set[asyncio.Task[Any] | None] = set()
        self._ending = False

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self._server.model

    @property
    def prompt_version(self) -> str:
        """Version of the wording and the examples."""
        return self._prompt.version

    @property
    def provenance(self) -> str:
        """Origin of the answers; the server's owner knows the terms of their use."""
        return f"Answers of {self._server.model} at {self._url.host}, prompt {self.prompt_version}."

    @property
    def prompt(self) -> Prompt:
        """The wording and the examples."""
        return self._prompt

    @property
    def sampling(self) -> dict[str, Any]:
        """Options of a request, for the record."""
        return self._options.sampling()

    @property
    def prompt_sha256(self) -> str:
        """Hash of the wording and the examples."""
        return self._prompt.sha256

    def steered(self, examples: tuple[Example, ...]) -> Self:
        """Return the same teacher, shown examples."""
        return type(self)(self._server, self._environment, Prompt(examples), self._allowance, self._count)

    def input_of(self, question: Question) -> str:
        """Return the question's text; its ID is not shown."""
        return question.text

    def estimate(self, question: Question) -> Usage:
        """Return the expected tokens of one question."""
        return usage_of(self._prompt.messages(question), self._count)

    def body(self, chat: Sequence[Message]) -> dict[str, Any]:
        """Return a request's body."""
        return self._options.body(self._server.model, chat)

    def most(self, body: Mapping[str, Any]) -> Usage:
        """Return the maximum tokens of a request. Raises TeacherError if its answer has no limit, but there is a
        budget."""
        most = self._options.most(body)
        if most is None and self._allowance.budget.is_set:
            raise TeacherError(f"{self._url.host} accepts no limit on tokens, so --budget cannot be enforced")
        return most or self._options.expected(body["messages"])

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield replies as they arrive. Raises TeacherError, after the requests in progress, if continuing makes no
        sense."""
        with asyncio.Runner() as runner:
            replies = self._replies(questions)
            while (reply := runner.run(_next(replies))) is not None:
                yield reply

    async def _replies(self, questions: Sequence[Question]) -> AsyncIterator[Reply]:
        """Move a window of requests over the questions; the next starts only when a reply has been taken.

        After a fault that ends the run, wait for the requests already sent, because they are paid for.
        """
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        waiting = iter(questions)
        running: set[asyncio.Task[Reply]] = set()
        fault: TeacherError | None = None
        self._ending = False
        limits = httpx.Limits(max_connections=self._server.concurrency)
        async with httpx.AsyncClient(headers=headers, timeout=self._server.timeout, limits=limits) as client:
            try:
                while True:
                    while not fault and len(running) < self._server.concurrency and (one := next(waiting, None)):
                        running.add(asyncio.create_task(self._reply(client, one)))
                    if not running:
                        break
                    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    task = done.pop()
                    running.remove(task)
                    if task.cancelled():
                        continue
                    if isinstance(error := task.exception(), TeacherError):
                        fault = fault or error
                        self._ending = True
                        for other in running - self._sending:
                            other.cancel()
                        continue
                    yield task.result()
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        if fault:
            raise fault

    async def _reply(self, client: httpx.AsyncClient, question: Question) -> Reply:
        """Ask one question, and its repair question if due."""
        dialogue = Dialogue(question, self._prompt)
        while (chat := dialogue.due) is not None:
            try:
                said = await self._say(client, chat)
            except (_PassingFault, _Refused) as fault:
                return dialogue.broken_off(self._hidden(str(fault)))
            except TeacherError:
                if dialogue.usable:
                    break
                raise
            dialogue.hear(said.text, said.usage, AnswerSource(said.model, self.sampling))
        return dialogue.reply

    async def _say(self, client: httpx.AsyncClient, chat: Sequence[Message]) -> Completion:
        """Return the server's answer, after at most the allowed number of attempts."""
        for attempt in range(1, self._server.attempts + 1):
            try:
                return await self._attempt(client, chat)
            except _PassingFault as fault:
                if (fault.wait or 0) > LONGEST_WAIT:
                    raise TeacherError(
                        f"{self._url.host} asks to wait {fault.wait:.0f} seconds; run `msd teach` again then, "
                        "nothing answered is lost"
                    ) from None
                if attempt == self._server.attempts or self._ending:
                    raise _PassingFault(f"{fault.reason} ({attempt} attempts)") from None
                await self._rest(pause(attempt, self._server.pause, fault.wait), fault.everybody)
        raise AssertionError("no attempt is allowed")

    async def _rest(self, seconds: float, everybody: bool) -> None:
        pace = self._allowance.pace
        if everybody:
            pace.cool_down(seconds)
        else:
            await pace.sleep(seconds)

    async def _attempt(self, client: httpx.AsyncClient, chat: Sequence[Message]) -> Completion:
        """Send one request; repeat it at once without an option that the server rejects."""
        while True:
            body = self.body(chat)
            status, headers, content = await self._allowed(client, chat, body)
            if status == 200:
                self._understood = True
                return self._said(content, headers, chat)
            if status not in _OURS or not self._gives_up(body, content):
                raise self._fault(status, headers, content)

    async def _allowed(
        self, client: httpx.AsyncClient, chat: Sequence[Message], body: dict[str, Any]
    ) -> tuple[int, httpx.Headers, bytes]:
        """Send one request as soon as it may start. Without a reply that counts its tokens, the maximum counts."""
        if self._ending:
            raise TeacherError("the run is ending")
        held = await self._allowance(self._options.expected(chat), self.most(body))
        taken = held.most
        self._sending.add(asyncio.current_task())
        try:
            status, headers, content = await self._sent(client, body)
            taken = _billed(status, content, chat, taken)
            return status, headers, content
        except httpx.ConnectError as error:
            taken = Usage()
            raise _PassingFault(f"the connection failed: {error or type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise _PassingFault(f"the connection failed: {error or type(error).__name__}") from None
        finally:
            self._sending.discard(asyncio.current_task())
            held.settle(taken)

    async def _sent(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        try:
            # httpx's timeout restarts with each byte: a slow server could hold a request for ever.
            async with asyncio.timeout(self._server.timeout):
                return await _post(client, self._url, body)
        except (TimeoutError, httpx.TimeoutException):
            raise _PassingFault(f"no reply within {self._server.timeout:g} seconds") from None

    def _gives_up(self, body: Mapping[str, Any], content: bytes) -> bool:
        """Return whether to try again without an option. Once a request has been understood, a refusal is about the
        question, unless an option has been given up meanwhile."""
        if self._understood and body.keys() == self._options.body("", []).keys():
            return False
        return self._options.give_up(body, content.decode(errors="replace"))

    def _said(self, content: bytes, headers: httpx.Headers, chat: Sequence[Message]) -> Completion:
        try:
            said = read_completion(json.loads(content), chat)
        except (ValueError, RecursionError):
            kind = headers.get("content-type", "of no type")[:_SHOWN]
            raise _PassingFault(f"the reply ({kind}) is not JSON: {content[:80]!r}") from None
        except BadCompletion as error:
            raise _PassingFault(str(error)) from None
        return replace(said, text=self._hidden(said.text), model=self._hidden(said.model))

    def _fault(self, status: int, headers: httpx.Headers, content: bytes) -> Exception:
        text = " ".join(self._hidden(content.decode(errors="replace")).split())
        told = f"{self._url.host} answers {status}" + (f": {text[:_SHOWN]}" if text else "")
        if status in _PASSING or status >= 500:
            wait = retry_after(headers)
            return _PassingFault(told, wait, everybody=status in _OVERLOADED or wait is not None)
        if status in _OURS:
            return _Refused(told)
        hint = {
            401: f"; is {self._server.key_variable} right?" if self._key else f"; set {self._server.key_variable}",
            404: "; are the address (up to /v1) and the model's name right?",
        }
        return TeacherError(told + hint.get(status, ""))

    def _hidden(self, text: str) -> str:
        """Return a server's text without the key, which some servers repeat."""
        return text.replace(self._key, "[key]") if self._key else text


def _billed(status: int, content: bytes, chat: Sequence[Message], most: Usage) -> Usage:
    """Return the tokens billed for a reply: none for an error, the maximum if it does not count them."""
    if status != 200:
        return Usage()
    try:
        said = read_completion(json.loads(content), chat)
    except (ValueError, RecursionError, BadCompletion):
        return most
    return said.usage if said.counted else most


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url.rstrip("/") + "/chat/completions")
    except httpx.InvalidURL as error:
        raise TeacherError(f"{url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise TeacherError(f"{url!r} is not an address of a server, such as http://localhost:8000/v1")
    if parsed.userinfo or parsed.query:
        raise TeacherError("the address must not hold a user name, password or query; pass the key in the environment")
    return parsed


async def _next(replies: AsyncIterator[Reply]) -> Reply | None:
    return await anext(replies, None)


async def _post(client: httpx.AsyncClient, url: httpx.URL, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
    """Return status, headers and content. Raises _Refused if the content is larger than any honest answer."""
    content = bytearray()
    async with client.stream("POST", url, json=body) as response:
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > _LARGEST:
                raise _Refused(f"the reply is larger than {_LARGEST:,} bytes")
        return response.status_code, response.headers, bytes(content)


def pause(attempt: int, base: float, asked: float | None = None) -> float:
    """Return the seconds before the attempt after the `attempt`-th (from 1): doubled each time, at most 60, with
    jitter.

    Never less than the server asked for. The jitter keeps many requests from returning at the same moment.
    """
    doubled = min(base * 2.0 ** (attempt - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
    return doubled if asked is None else asked + doubled * 0.25


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds in the header Retry-After, from a number or a date; None if it is unreadable."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
