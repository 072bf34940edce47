"""The `openai_compatible` teacher: any server with POST /v1/chat/completions, asked concurrently.

Faults of the server are retried after a pause; a wrong answer gets one repair question.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from msd.teachers.allowance import Allowance
from msd.teachers.answer import Dialogue
from msd.teachers.completion import BadCompletion, Completion, CompletionOptions, read_completion
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import PROMPT_VERSION, Message, prompt_sha256, usage_of
from msd.teachers.teacher import AnswerSource, ModelServer, Question, Reply, Usage

KEY_VARIABLE = "TEACHER_API_KEY"
_LARGEST = 1_000_000
_SHOWN = 300
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
# After these statuses, and whenever a server sends a wait time, all requests pause.
_OVERLOADED = {429, 503, 529}
_OURS = {400, 413, 422}
# If a server asks for a longer pause, the run ends; it can be started again.
LONGEST_WAIT = 600.0
_LONGEST_PAUSE = 60.0


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

    `environment`: has the key, if the server wants one. `allowance`: the run's limits, shared by all its requests.
    """

    def __init__(self, server: ModelServer, environment: Mapping[str, str], allowance: Allowance | None = None) -> None:
        self._server, self.allowance = server, allowance or Allowance()
        self._key = environment.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise TeacherError(f"{KEY_VARIABLE} contains characters that a key cannot have")
        self._url = _checked(server.url)
        self.name, self.prompt_version, self.prompt_sha256 = server.model, PROMPT_VERSION, prompt_sha256()
        self.provenance = f"Answers of {self.name} at {self._url.host}, prompt {PROMPT_VERSION}."
        self.options = CompletionOptions(server.model, server.max_tokens)
        self._understood = self._ending = False
        self._sending: set[asyncio.Task[Any] | None] = set()

    def input_of(self, question: Question) -> str:
        """Return the question's text; its ID is not shown."""
        return question.text

    def most(self, body: Mapping[str, Any]) -> Usage:
        """Return the maximum tokens of a request. Raises TeacherError if its answer has no limit, but there is a
        budget."""
        most = self.options.most(body)
        if most is None and self.allowance.budget.is_set:
            raise TeacherError(f"{self._url.host} accepts no limit on tokens, so --budget cannot be enforced")
        return most or usage_of(body["messages"])

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
        dialogue = Dialogue(question)
        while (chat := dialogue.due) is not None:
            try:
                completion = await self._ask(client, chat)
            except (_PassingFault, _Refused) as fault:
                return dialogue.broken_off(self._redacted(str(fault)))
            except TeacherError:
                if answered := dialogue.answered:
                    return answered
                raise
            dialogue.hear(completion.text, completion.usage, AnswerSource(completion.model, self.options.sampling()))
        return dialogue.reply

    async def _ask(self, client: httpx.AsyncClient, chat: Sequence[Message]) -> Completion:
        """Return the server's answer, after at most the allowed number of attempts."""
        attempt = 1
        while True:
            try:
                if completion := await self._attempt(client, chat):
                    return completion
            except _PassingFault as fault:
                if (fault.wait or 0) > LONGEST_WAIT:
                    raise TeacherError(
                        f"{self._url.host} asks to wait {fault.wait:.0f} seconds; run `msd teach` again then, "
                        "nothing answered is lost"
                    ) from None
                if attempt == self._server.attempts or self._ending:
                    raise _PassingFault(f"{fault.reason} ({attempt} attempts)") from None
                seconds, cool_down = pause(attempt, self._server.pause, fault.wait), self.allowance.cool_down
                if fault.everybody:
                    cool_down.begin(seconds)
                else:
                    await cool_down.sleep(seconds)
                attempt += 1

    async def _attempt(self, client: httpx.AsyncClient, chat: Sequence[Message]) -> Completion | None:
        """Send one request as soon as it may start; None if it is to be repeated without an option that the server
        rejects. Without a reply that counts its tokens, the maximum counts."""
        if self._ending:
            raise TeacherError("the run is ending")
        body = self.options.body(chat)
        most = self.most(body)
        await self.allowance.reserve(most)
        taken = most
        self._sending.add(asyncio.current_task())
        try:
            status, headers, content = await self._post(client, body)
            if status == 200:
                self._understood = True
                completion = self._completion(content, headers, chat)
                taken = completion.usage if completion.counted else most
                return completion
            taken = Usage()
        except httpx.HTTPError as error:
            if isinstance(error, httpx.ConnectError):
                taken = Usage()
            raise _PassingFault(f"the connection failed: {error or type(error).__name__}") from None
        finally:
            self._sending.discard(asyncio.current_task())
            self.allowance.settle(most, taken)
        text = content.decode(errors="replace")
        if status in _OURS and self.options.give_up(body, text, self._understood):
            return None
        raise self._fault(status, headers, text)

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Return status, headers and content. Raises _Refused if the content is larger than any honest answer."""
        content = bytearray()
        try:
            # httpx's timeout restarts with each byte: a slow server could hold a request for ever.
            async with asyncio.timeout(self._server.timeout), client.stream("POST", self._url, json=body) as response:
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > _LARGEST:
                        raise _Refused(f"the reply is larger than {_LARGEST:,} bytes")
                return response.status_code, response.headers, bytes(content)
        except (TimeoutError, httpx.TimeoutException):
            raise _PassingFault(f"no reply within {self._server.timeout:g} seconds") from None

    def _completion(self, content: bytes, headers: httpx.Headers, chat: Sequence[Message]) -> Completion:
        try:
            completion = read_completion(json.loads(content), chat)
        except (ValueError, RecursionError):
            kind = headers.get("content-type", "of no type")[:_SHOWN]
            raise _PassingFault(f"the reply ({kind}) is not JSON: {content[:80]!r}") from None
        except BadCompletion as error:
            raise _PassingFault(str(error)) from None
        return replace(completion, text=self._redacted(completion.text), model=self._redacted(completion.model))

    def _fault(self, status: int, headers: httpx.Headers, text: str) -> Exception:
        text = " ".join(self._redacted(text).split())
        reason = f"{self._url.host} answers {status}" + (f": {text[:_SHOWN]}" if text else "")
        if status in _PASSING or status >= 500:
            wait = retry_after(headers)
            return _PassingFault(reason, wait, everybody=status in _OVERLOADED or wait is not None)
        if status in _OURS:
            return _Refused(reason)
        hint = {
            401: f"; is {KEY_VARIABLE} right?" if self._key else f"; set {KEY_VARIABLE}",
            404: "; are the address (up to /v1) and the model's name right?",
        }
        return TeacherError(reason + hint.get(status, ""))

    def _redacted(self, text: str) -> str:
        """Return a server's text without the key, which some servers repeat."""
        return text.replace(self._key, "[key]") if self._key else text


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
