"""The `openai_compatible` teacher: any server with POST /v1/chat/completions, asked concurrently by the client of
`openai`. Faults of the server are retried after a pause, by `tenacity`; a wrong answer gets one repair question.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
from openai import AsyncOpenAI
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from msd.teachers.answer import Dialogue
from msd.teachers.budget import Budget
from msd.teachers.completion import BadCompletion, Completion, CompletionOptions, read_completion
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import PROMPT_VERSION, Message, prompt_sha256, usage_of
from msd.teachers.teacher import AnswerSource, ModelServer, Question, Reply, Usage

KEY_VARIABLE = "TEACHER_API_KEY"
_PATH = "/chat/completions"
_SHOWN = 300
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_OURS = {400, 413, 422}
# If a server asks for a longer pause, the run ends; it can be started again.
LONGEST_WAIT = 600.0
_LONGEST_PAUSE = 60.0


class _PassingFault(Exception):
    """A retry may help. `wait`: seconds that the server requested."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Refused(Exception):
    """The server rejects this request permanently."""


class OpenAICompatibleTeacher:
    """A server as a teacher. Raises TeacherError if the address is wrong, or as soon as the server refuses the key or
    model.

    `environment`: has the key, if the server wants one. `budget`: shared by all requests. `sleep`: for tests.
    """

    def __init__(
        self,
        server: ModelServer,
        environment: Mapping[str, str],
        budget: Budget | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._server, self.budget, self._sleep = server, budget or Budget(), sleep
        self._key = environment.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise TeacherError(f"{KEY_VARIABLE} contains characters that a key cannot have")
        self._host = _host_of(server.url)
        # What the environment has for OpenAI's own servers is not for this one.
        unset = ("OpenAI-Organization", "OpenAI-Project", *([] if self._key else ["Authorization"]))
        self._headers = {name: openai.Omit() for name in unset}
        self.name, self.prompt_version, self.prompt_sha256 = server.model, PROMPT_VERSION, prompt_sha256()
        self.provenance = f"Answers of {self.name} at {self._host}, prompt {PROMPT_VERSION}."
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
        if most is None and self.budget.is_set:
            raise TeacherError(f"{self._host} accepts no limit on tokens, so --budget cannot be enforced")
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
        waiting = iter(questions)
        running: set[asyncio.Task[Reply]] = set()
        fault: TeacherError | None = None
        self._ending = False
        async with self._client() as client:
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

    def _client(self) -> AsyncOpenAI:
        """Return a client that neither retries nor follows redirects, which could lead elsewhere."""
        limits = httpx2.Limits(max_connections=self._server.concurrency)
        return AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._server.url,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, timeout=self._server.timeout, limits=limits
            ),
        )

    async def _reply(self, client: AsyncOpenAI, question: Question) -> Reply:
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

    async def _ask(self, client: AsyncOpenAI, chat: Sequence[Message]) -> Completion:
        """Return the server's answer, after at most the allowed number of attempts."""
        backoff = wait_random_exponential(self._server.pause, _LONGEST_PAUSE)

        def pause(state: RetryCallState) -> float:
            fault = state.outcome and state.outcome.exception()
            asked = fault.wait if isinstance(fault, _PassingFault) else None
            return (asked or 0.0) + backoff(state)

        last = stop_after_attempt(self._server.attempts)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_PassingFault),
            stop=lambda state: last(state) or self._ending,
            wait=pause,
            sleep=self._sleep,
        )
        try:
            return await retrying(self._attempt, client, chat)
        except RetryError as error:
            tried = error.last_attempt
            raise _PassingFault(f"{tried.exception()} ({tried.attempt_number} attempts)") from None

    async def _attempt(self, client: AsyncOpenAI, chat: Sequence[Message]) -> Completion:
        """Send one request; again, if the server rejects an option, without it."""
        while True:
            if self._ending:
                raise TeacherError("the run is ending")
            body = self.options.body(chat)
            try:
                return await self._paid(client, body, chat)
            except openai.APIStatusError as error:
                text = error.response.text
                if error.status_code not in _OURS or not self.options.give_up(body, text, self._understood):
                    raise self._fault(error.status_code, error.response.headers, text) from None

    async def _paid(self, client: AsyncOpenAI, body: dict[str, Any], chat: Sequence[Message]) -> Completion:
        """Send one request as soon as the budget has its cost. Without a reply that counts its tokens, the maximum
        counts."""
        prices = self.budget.prices
        most = taken = prices.cost(self.most(body))
        await self.budget.hold(most)
        self._sending.add(asyncio.current_task())
        try:
            # The client's timeout restarts with each byte: a slow server could hold a request for ever.
            async with asyncio.timeout(self._server.timeout):
                reply = await client.post(_PATH, body=body, cast_to=httpx2.Response, options={"headers": self._headers})
            self._understood = True
            completion = self._completion(reply, chat)
            taken = prices.cost(completion.usage) if completion.counted else most
            return completion
        except openai.APIStatusError:
            taken = 0.0
            raise
        except (TimeoutError, openai.APITimeoutError):
            raise _PassingFault(f"no reply within {self._server.timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, httpx2.ConnectError):
                taken = 0.0
            raise _PassingFault(f"the connection failed: {error.__cause__ or error}") from None
        finally:
            self._sending.discard(asyncio.current_task())
            self.budget.settle(most, taken)

    def _completion(self, reply: httpx2.Response, chat: Sequence[Message]) -> Completion:
        try:
            completion = read_completion(json.loads(reply.content), chat)
        except (ValueError, RecursionError):
            kind = reply.headers.get("content-type", "of no type")[:_SHOWN]
            raise _PassingFault(f"the reply ({kind}) is not JSON: {reply.content[:80]!r}") from None
        except BadCompletion as error:
            raise _PassingFault(str(error)) from None
        return replace(completion, text=self._redacted(completion.text), model=self._redacted(completion.model))

    def _fault(self, status: int, headers: Mapping[str, str], text: str) -> Exception:
        text = " ".join(self._redacted(text).split())
        reason = f"{self._host} answers {status}" + (f": {text[:_SHOWN]}" if text else "")
        if status in _PASSING or status >= 500:
            if (wait := retry_after(headers)) and wait > LONGEST_WAIT:
                return TeacherError(
                    f"{self._host} asks to wait {wait:.0f} seconds; run `msd teach` again then, nothing answered is "
                    "lost"
                )
            return _PassingFault(reason, wait)
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


def _host_of(url: str) -> str:
    """Return the host of a server's address. Raises TeacherError if it has another form."""
    try:
        parsed = urlsplit(url)
        host = parsed.hostname
    except ValueError as error:
        raise TeacherError(f"{url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not host:
        raise TeacherError(f"{url!r} is not an address of a server, such as http://localhost:8000/v1")
    if parsed.username or parsed.query:
        raise TeacherError("the address must not hold a user name, password or query; pass the key in the environment")
    return host


async def _next(replies: AsyncIterator[Reply]) -> Reply | None:
    return await anext(replies, None)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in the header Retry-After, from a number or a date; None if it is unreadable."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (at - datetime.now(at.tzinfo)).total_seconds())
