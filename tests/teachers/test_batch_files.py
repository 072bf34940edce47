"""Batches by file: requests written once, results read back in any order and state, and the rest written again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from msd.teachers.knowledge import TeacherError, load_knowledge, load_record
from tests.dataset.small import write_small
from tests.teachers.chat_server import ChatServer, question_of, right
from tests.teachers.test_command import NOWHERE, asking, teach, texts


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_small(tmp_path / "data")


def batch(data: Path, out: Path, *more: object) -> Result:
    return teach(data, out, *NOWHERE, "--batches", *more)


def requests(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked(request: dict[str, Any]) -> str:
    return question_of(request["body"])


def result(request: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    """As OpenAI's batches and vLLM's run_batch write it."""
    answer = json.dumps(right(asked(request))) if text is None else text
    choices = [{"index": 0, "message": {"role": "assistant", "content": answer}}]
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    body = {"model": "m-2030-01-01", "choices": choices, "usage": usage}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "x", "custom_id": request["custom_id"], "response": response, "error": None}


def run(out: Path, number: int = 1, answer: Callable[[dict[str, Any]], dict[str, Any]] = result) -> Path:
    """The provider: results in another order than that of the requests."""
    path = out / "batches" / f"{number:03}.jsonl"
    lines = [json.dumps(answer(request)) for request in reversed(requests(path))]
    results = path.with_suffix(".results.jsonl")
    results.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return results


def test_batches_give_the_knowledge_of_http(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch(data, out, "--limit", 1)
    written = batch(data, out)
    assert written.exit_code == 0, written.output
    assert f"{len(texts(data)) - 2} requests written; the results of 2 written earlier are due" in written.output
    files = sorted(out.glob("batches/*.jsonl"))
    sent = [request for path in files for request in requests(path)]
    assert sorted(asked(request) for request in sent) == sorted(texts(data))
    assert all(request["method"] == "POST" and request["url"] == "/v1/chat/completions" for request in sent)
    assert all(len(request["custom_id"]) <= 64 for request in sent)
    waiting = batch(data, out)
    assert waiting.exit_code == 0
    assert f"0 requests written; the results of {len(texts(data))} written earlier are due" in waiting.output
    for number in range(1, len(files) + 1):
        run(out, number)
    read = batch(data, out)
    assert read.exit_code == 0, read.output
    assert "3 items, 5 users, by m" in read.output
    assert sorted(path.name for path in out.glob("batches/*.read")) == [
        f"{path.stem}.results.jsonl.read" for path in files
    ]
    with ChatServer() as server:
        assert teach(data, tmp_path / "http", *asking(server)).exit_code == 0
        assert sorted((call.body for call in server.calls), key=json.dumps) == sorted(
            (request["body"] for request in sent), key=json.dumps
        )
    assert load_knowledge(out) == load_knowledge(tmp_path / "http")
    assert load_record(out).models == ("m-2030-01-01",)


def wrong(request: dict[str, Any]) -> dict[str, Any]:
    return result(request, "[no]" if asked(request).startswith("Boots") else None)


@pytest.mark.parametrize(("repaired", "status", "ids"), [(result, 0, {"1", "2", "10"}), (wrong, 1, {"1", "10"})])
def test_failed_requests_are_written_again_and_wrong_answers_repaired_once(
    data: Path, tmp_path: Path, repaired: Callable[[dict[str, Any]], dict[str, Any]], status: int, ids: set[str]
) -> None:
    out = tmp_path / "out"
    batch(data, out)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if asked(request).startswith("Tent"):
            error = {"code": "batch_expired", "message": "late"}
            return {"custom_id": request["custom_id"], "response": None, "error": error}
        return wrong(request)

    run(out, 1, answer)
    run(out, 2)
    again = batch(data, out)
    assert again.exit_code == 0, again.output
    assert "the request failed (not sent): " in again.output
    assert "batch_expired" in again.output
    assert "2 requests written; the results of 0 written" in again.output
    second = requests(out / "batches" / "003.jsonl")
    assert {asked(request).split(",")[0] for request in second} == {"Tent", "Boots"}
    (repair,) = (request for request in second if asked(request).startswith("Boots"))
    assert [turn["content"][:12] for turn in repair["body"]["messages"][-2:]] == ["[no]", "That answer "]
    run(out, 3, repaired)
    last = batch(data, out)
    assert last.exit_code == status, last.output
    given_up = "1 questions have no usable answer: 1 were answered wrongly, 0 not at all"
    assert (given_up in last.output) == (status == 1)
    assert set(load_knowledge(out).items) == ids
    assert "requests written" not in batch(data, out).output


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        '{"custom_id": 3, "response": {"status_code": 200}}',
        '{"response": {"status_code": 200, "body": {}}}',
        '{"custom_id": "item-x-1", "response": [1]}',
        "[" * 100_000,
        json.dumps({"custom_id": "x" * 5_000_000}),
    ],
)
def test_wrong_result_lines_are_named_and_others_kept(data: Path, tmp_path: Path, line: str) -> None:
    out = tmp_path / "out"
    batch(data, out)
    results = run(out)
    results.write_text(f"{line}\n{results.read_text(encoding='utf-8')}", encoding="utf-8")
    read = batch(data, out)
    assert read.exit_code == 0, read.output
    assert f"{results}, line 1: " in read.output.replace("\n", "")
    assert (out / "answers.jsonl").read_bytes().count(b"\n") == 3


def test_foreign_and_repeated_results_change_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch(data, out)
    foreign = result({"custom_id": "item-0-1", "body": {"messages": [{"content": "x"}]}})
    for number in (1, 2):
        results = run(out, number)
        text = results.read_text(encoding="utf-8")
        results.write_text(f"{json.dumps(foreign)}\n{text}{text}", encoding="utf-8")
        results.with_name(f"00{number}.results-2.jsonl").write_text(text, encoding="utf-8")
    for _ in range(2):
        assert batch(data, out).exit_code == 0
    assert (out / "answers.jsonl").read_bytes().count(b"\n") == len(texts(data))


def test_budget_limits_written_requests(data: Path, tmp_path: Path) -> None:
    # 1,024 tokens at most cost .10 a request.
    written = batch(data, tmp_path / "out", "--budget", 0.35, "--price-out", 100)
    assert written.exit_code == 1
    assert "3 requests written" in written.output
    assert f"{len(texts(data)) - 3} questions were left out: the budget does not allow them" in written.output
    again = batch(data, tmp_path / "out", "--budget", 0.35, "--price-out", 100)
    assert "0 requests written; the results of 3 written earlier are due" in again.output


def test_damaged_request_file_is_named(data: Path, tmp_path: Path) -> None:
    batch(data, tmp_path / "out")
    (tmp_path / "out" / "batches" / "001.jsonl").write_text("{}\n", encoding="utf-8")
    found = batch(data, tmp_path / "out")
    assert isinstance(found.exception, TeacherError)
    assert "001.jsonl is damaged" in str(found.exception)
