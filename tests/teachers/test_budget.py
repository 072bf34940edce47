"""The budget that requests share."""

import asyncio
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.teachers.budget import Budget, BudgetSpent
from msd.teachers.knowledge import TeacherError
from msd.teachers.openai_compatible import OpenAICompatibleTeacher
from msd.teachers.teacher import Answered, Failed, Prices, Reply
from tests.teachers.chat_server import Behaviour, Call, ChatServer, right, status
from tests.teachers.test_openai_compatible import KEY, many


@given(
    cap=st.floats(0.0, 100.0),
    requests=st.lists(st.tuples(st.floats(0.01, 30.0), st.floats(0.0, 1.0)), max_size=30),
    workers=st.integers(1, 5),
)
def test_budget_is_never_exceeded_and_stops_only_if_it_must(
    cap: float, requests: list[tuple[float, float]], workers: int
) -> None:
    budget = Budget(cap)
    waiting = list(requests)
    stopped: list[float] = []

    async def worker() -> None:
        while waiting and not stopped:
            most, share = waiting.pop()
            try:
                await budget.hold(most)
            except BudgetSpent:
                stopped.append(most)
                return
            await asyncio.sleep(0)
            budget.settle(most, most * share)
            assert budget.spent <= cap + 1e-9

    async def run() -> None:
        await asyncio.gather(*(worker() for _ in range(workers)))

    asyncio.run(run())
    assert all(budget.spent + most > cap for most in stopped)


# An answer costs at most .41: 1,024 tokens.
PRICES = Prices(0.0, 400.0)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_run_ends_before_a_request_could_exceed_its_budget(concurrency: int) -> None:
    # 20 tokens are written: .008.
    budget = Budget(1.0, PRICES)
    replies: list[Reply] = []
    with ChatServer() as server:
        teacher = OpenAICompatibleTeacher(server.settings(concurrency=concurrency), KEY, budget)
        with pytest.raises(BudgetSpent, match=r"budget of 1 does not allow another request: 0\.5\d+ is spent"):
            replies.extend(teacher.answer(many(200)))
    assert 70 <= len(replies) == len(server.calls) <= 75
    assert all(isinstance(reply, Answered) for reply in replies)
    assert budget.spent == pytest.approx(len(replies) * 0.008)


@pytest.mark.parametrize(
    ("behave", "spent"),
    [
        # Not a word, or no count of tokens: the most that it can have taken.
        (lambda call: call.say("{}"), 0.4096),
        (status(500), 0.0),
    ],
)
def test_uncounted_reply_costs_the_maximum(behave: Behaviour, spent: float) -> None:
    budget = Budget(10.0, PRICES)
    with ChatServer(behave) as server:
        teacher = OpenAICompatibleTeacher(server.settings(attempts=1), KEY, budget)
        (reply,) = teacher.answer(many(1))
    assert isinstance(reply, Failed)
    assert budget.spent == pytest.approx(spent * len(server.calls))


def test_replies_in_progress_are_kept_when_the_run_ends() -> None:
    """One of four questions meets a refused key while the other three are being answered."""

    def behave(call: Call) -> None:
        if call.question == "thing 0":
            call.send(401, b"")
            call.handler.wfile.flush()
            refused.set()
        else:
            refused.wait(30)
            call.answer()

    refused = threading.Event()
    replies: list[Reply] = []
    with ChatServer(behave) as server:
        teacher = OpenAICompatibleTeacher(server.settings(concurrency=4), KEY)
        with pytest.raises(TeacherError, match="answers 401"):
            replies.extend(teacher.answer(many(50)))
    assert len(server.calls) == 1 + len(replies)


def test_doubtful_answer_is_kept_if_its_repair_is_over_budget() -> None:
    few = right("x") | {"tags": ["a"]}
    usage = {"prompt_tokens": 1, "completion_tokens": 1500}
    replies: list[Reply] = []
    with ChatServer(lambda call: call.say(json.dumps(few), usage=usage)) as server:
        teacher = OpenAICompatibleTeacher(server.settings(concurrency=1), KEY, Budget(0.9, PRICES))
        with pytest.raises(BudgetSpent):
            replies.extend(teacher.answer(many(3)))
    assert [type(reply) for reply in replies] == [Answered]
    assert len(server.calls) == 1
