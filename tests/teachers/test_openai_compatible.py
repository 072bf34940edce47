"""A real server that misbehaves: retries, repairs, refusals and messages."""

import json
import threading
from typing import Any

import pytest

from msd.teachers.knowledge import Knowledge, TeacherError
from msd.teachers.openai_compatible import OpenAICompatibleTeacher, retry_after
from msd.teachers.prompts import messages, usage_of
from msd.teachers.teacher import Answered, Failed, Question, Reply, Usage
from tests.teachers.chat_server import (
    Behaviour,
    Call,
    ChatServer,
    cut_off,
    drip,
    drop,
    in_turn,
    right,
    silent,
    status,
    web_page,
)

KEY = {"TEACHER_API_KEY": "sk-secret"}
TENT = Question("item", "1", "Tent")


def ask(behave: Behaviour, questions: list[Question] | None = None, **settings: Any) -> tuple[list[Reply], list[Call]]:  # noqa: ANN401
    with ChatServer(behave) as server:
        teacher = OpenAICompatibleTeacher(server.settings(**settings), KEY)
        return list(teacher.answer(questions or [TENT])), server.calls


def many(number: int) -> list[Question]:
    return [Question("item", str(n), f"thing {n}") for n in range(number)]


def test_answer_becomes_knowledge_without_its_reasoning() -> None:
    (reply,), (call,) = ask(Call.answer)
    knowledge = Knowledge(id="1", explicit="E Tent", implicit="I Tent", tags=tuple("abcde"))
    assert isinstance(reply, Answered)
    assert (reply.knowledge, reply.reasoning, reply.usage) == (knowledge, "because", Usage(100, 20))
    assert reply.source.sampling == {"temperature": 0, "max_tokens": 1024, "response_format": "json_schema"}
    assert call.headers["authorization"] == "Bearer sk-secret"
    assert call.body["model"] == "m"
    assert call.body["temperature"] == 0
    assert call.body["max_tokens"] == 1024
    assert call.body["response_format"]["json_schema"]["strict"] is True
    assert [turn["role"] for turn in call.body["messages"]] == ["system", "user"]


def test_no_key_is_sent_and_uncounted_tokens_are_estimated() -> None:
    odd = {"usage": {"prompt_tokens": "many"}, "model": "half \ud83d"}
    with ChatServer(lambda call: call.say(json.dumps(right("Tent")), **odd)) as server:
        teacher = OpenAICompatibleTeacher(server.settings(), {})
        (reply,) = teacher.answer([TENT])
    assert "authorization" not in server.calls[0].headers
    assert isinstance(reply, Answered)
    assert reply.usage.read == usage_of(messages(TENT)).read
    assert reply.usage.written == -(-len(json.dumps(right("Tent"))) // 4)
    assert reply.source.model == "half ?"


@pytest.mark.parametrize(
    "fault",
    [
        status(429, "slow down", Retry_After="0"),
        status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        status(500, "oops"),
        status(503, Retry_After="soon"),
        status(529),
        cut_off,
        web_page,
        drop,
        lambda call: call.send(200, b"[" * 100_000),
        lambda call: call.send(200, b'{"error": {"message": "overloaded"}}'),
        lambda call: call.send(200, b"\xff\xfe", Content_Type="application/json"),
        lambda call: call.send(200, b'{"choices": []}'),
    ],
)
def test_passing_fault_is_retried(fault: Behaviour) -> None:
    (reply,), calls = ask(in_turn(fault, fault, Call.answer))
    assert isinstance(reply, Answered)
    assert len(calls) == 3
    assert calls[0].body == calls[2].body


@pytest.mark.parametrize(
    ("fault", "shortest", "longest"),
    [
        (status(500), [0.0] * 4, [1.0, 2.0, 4.0, 8.0]),
        (status(429, Retry_After="70"), [70.0] * 4, [71.0, 72.0, 74.0, 78.0]),
    ],
)
def test_pauses_double_and_heed_the_server(fault: Behaviour, shortest: list[float], longest: list[float]) -> None:
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    with ChatServer(in_turn(fault, fault, fault, fault, Call.answer)) as server:
        teacher = OpenAICompatibleTeacher(server.settings(pause=1.0, attempts=5), KEY, sleep=note)
        (reply,) = teacher.answer([TENT])
    assert isinstance(reply, Answered)
    assert all(low <= waited <= high for low, waited, high in zip(shortest, pauses, longest, strict=True))


@pytest.mark.parametrize("slow", [silent, drip])
def test_slow_reply_is_retried(slow: Behaviour) -> None:
    (reply,), calls = ask(in_turn(slow, Call.answer), timeout=0.5, attempts=20)
    assert isinstance(reply, Answered)
    assert len(calls) >= 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(500, "oops\n" + "x" * 900), "127.0.0.1 answers 500: oops xxx"),
        (drop, "the connection failed: "),
        (web_page, "the reply (text/html) is not JSON: b'<html>"),
        (lambda call: call.send(200, b'{"choices": 3}'), "the reply is not a chat completion: b'{\"choices\": 3}'"),
    ],
)
def test_lasting_fault_leaves_the_question_unanswered(fault: Behaviour, reason: str) -> None:
    (reply,), calls = ask(fault)
    assert isinstance(reply, Failed)
    assert reply.raw is None
    assert reply.reason.startswith(reason)
    assert reply.reason.endswith(" (3 attempts)")
    assert len(reply.reason) < 400
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"reasoning": "so", "explicit": "a te', "it is cut off"),
        (None, "it is empty"),
        (json.dumps(right("x") | {"explicit": "x" * 5000}), "explicit: should have at most 4000 characters"),
        ("\ud83d and no more", "it holds no JSON object"),
    ],
)
def test_wrong_answer_gets_one_repair_question(raw: str | None, reason: str) -> None:
    (reply,), (first, second) = ask(in_turn(lambda call: call.say(raw), Call.answer))
    assert isinstance(reply, Answered)
    assert second.body["messages"][:2] == first.body["messages"]
    assert [turn["role"] for turn in second.body["messages"][2:]] == ["assistant", "user"]
    assert reason in second.body["messages"][3]["content"]
    assert 0 < len(second.body["messages"][2]["content"]) <= 2000
    (reply,), calls = ask(lambda call: call.say(raw, usage={"prompt_tokens": 7, "completion_tokens": 2}))
    assert isinstance(reply, Failed)
    assert reason in reply.reason
    assert reply.raw is not None
    assert reply.raw[:5] == (raw or "")[:5].replace("\ud83d", "?")
    assert reply.usage == Usage(14, 4)
    assert len(calls) == 2


def test_fault_during_repair_keeps_the_first_answer() -> None:
    (reply,), calls = ask(in_turn(lambda call: call.say("no"), status(500, "oops")))
    assert isinstance(reply, Failed)
    assert reply.raw == "no"
    assert reply.reason == "it holds no JSON object; then 127.0.0.1 answers 500: oops (3 attempts)"
    assert len(calls) == 4


def refusing(option: str) -> Behaviour:

    def behave(call: Call) -> None:
        if option in call.body:
            call.send(400, json.dumps({"error": {"message": "Unsupported", "param": option}}).encode())
        else:
            call.answer()

    return behave


@pytest.mark.parametrize("option", ["response_format", "temperature", "max_tokens"])
def test_rejected_option_is_no_longer_sent(option: str) -> None:
    replies, calls = ask(refusing(option), many(5), concurrency=1)
    assert all(isinstance(reply, Answered) for reply in replies)
    assert [option in call.body for call in calls] == [True] + [False] * 5
    assert ("max_completion_tokens" in calls[-1].body) == (option == "max_tokens")


def test_unexplained_rejection_drops_only_the_schema() -> None:
    def behave(call: Call) -> None:
        call.send(400, b"bad request") if "response_format" in call.body else call.answer()

    replies, calls = ask(behave, many(16), concurrency=8)
    assert all(isinstance(reply, Answered) for reply in replies)
    # Of those under way together each may have sent the schema; none does later.
    assert sum("response_format" in call.body for call in calls) <= 8
    assert len(calls) == 16 + sum("response_format" in call.body for call in calls)


def test_rejected_question_is_left_out() -> None:
    def behave(call: Call) -> None:
        call.send(400, b"too long") if call.question == "thing 2" else call.answer()

    replies, calls = ask(behave, many(5), concurrency=1)
    failed = [reply for reply in replies if isinstance(reply, Failed)]
    found = [(reply.question.id, reply.raw, reply.reason) for reply in failed]
    assert found == [("2", None, "127.0.0.1 answers 400: too long")]
    assert len(calls) == 5
    assert all("response_format" in call.body for call in calls)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (401, r"answers 401: no such key: \[key\]; is TEACHER_API_KEY right\?"),
        (403, r"answers 403: no such key: \[key\]$"),
        (404, r"are the address \(up to /v1\) and the model's name right\?"),
        (307, "answers 307"),
    ],
)
def test_permanent_fault_ends_the_run_and_hides_the_key(code: int, message: str) -> None:
    with pytest.raises(TeacherError, match=message) as error:
        ask(status(code, "no such key: sk-secret", Location="/elsewhere"), many(30))
    assert "sk-secret" not in str(error.value)


def test_missing_key_and_unreachable_server_are_named() -> None:
    with ChatServer(status(401)) as server, pytest.raises(TeacherError, match="answers 401; set TEACHER_API_KEY"):
        list(OpenAICompatibleTeacher(server.settings(), {}).answer([TENT]))
    (reply,) = OpenAICompatibleTeacher(server.settings(), KEY).answer([TENT])
    assert isinstance(reply, Failed)
    assert reply.reason == "the connection failed: All connection attempts failed (3 attempts)"


def test_key_repeated_by_the_server_is_redacted() -> None:
    replies, _ = ask(lambda call: call.say(call.headers["authorization"]))
    replies += ask(lambda call: call.answer(explicit=call.headers["authorization"]))[0]
    replies += ask(lambda call: call.send(500, call.headers["authorization"].encode()))[0]
    assert "sk-secret" not in repr(replies)
    assert "Bearer [key]" in repr(replies)


def test_long_retry_after_ends_the_run() -> None:
    with pytest.raises(TeacherError, match="asks to wait 3600 seconds; run `msd teach` again then"):
        ask(status(429, Retry_After="3600"))


def test_concurrency_is_used_and_not_exceeded() -> None:
    together = threading.Barrier(3)
    lock = threading.Lock()
    under_way, most = 0, 0

    def behave(call: Call) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait(30)
        with lock:
            under_way -= 1
        call.answer()

    replies, calls = ask(behave, many(12), concurrency=3)
    assert len(replies) == len(calls) == 12
    assert most == 3


def test_closed_iterator_stops_requests() -> None:
    with ChatServer(in_turn(Call.answer, silent)) as server:
        replies = OpenAICompatibleTeacher(server.settings(concurrency=2), KEY).answer(many(50))
        next(replies)
        replies.close()  # type: ignore[attr-defined]
    assert len(server.calls) <= 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "is not an address of a server, such as http://"),
        ("ftp://x/v1", "is not an address of a server"),
        ("http://[::1/v1", "is not an address"),
        ("http://me:sk@x/v1", "must not hold a user name, password or query"),
        ("http://x/v1?key=sk", "must not hold a user name, password or query"),
    ],
)
def test_rejects_wrong_address(url: str, message: str) -> None:
    with ChatServer() as server, pytest.raises(TeacherError, match=message):
        OpenAICompatibleTeacher(server.settings(url=url), KEY)


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_rejects_key_that_cannot_be_sent(key: str) -> None:
    with ChatServer() as server, pytest.raises(TeacherError, match="TEACHER_API_KEY contains characters") as error:
        OpenAICompatibleTeacher(server.settings(), {"TEACHER_API_KEY": key})
    assert key not in str(error.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (" 120 ", 120.0),
        ("Mon, 31 Dec 2018 00:00:00 GMT", 0.0),
        ("Mon, 31 Dec 2018 00:00:00", 0.0),
        ("", None),
        ("soon", None),
        ("²", None),
        ("Tue, 99 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}) == seconds
