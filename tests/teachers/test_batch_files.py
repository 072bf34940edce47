"""Batches by file: requests written once, results read back in any order and state, and the rest written again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from msd.teachers.knowledge import TeacherError, load_knowledge, load_record
from tests.dataset.small import write_small
from tests.teachers.chat_server import ChatServer, right
from tests.teachers.test_command import asking, teach, texts

NOWHERE = ["--teacher", "openai_compatible", "--url", "http://127.0.0.1:9/v1", "--model", "m"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_small(tmp_path / "data")


def batch(data: Path, out: Path, *more: object) -> Result:
    return teach(data, out, *NOWHERE, *more)


def requests(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked(request: dict[str, Any]) -> str:
    chat = request["body"]["messages"]
    turn = chat[-3] if "cannot be used" in chat[-1]["content"] else chat[-1]
    return str(turn["content"]).removeprefix("<text>\n").removesuffix("\n</text>")


def completion(text: str) -> dict[str, Any]:
    return {
        "model": "m-2030-01-01",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20},
    }


def result(request: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    """As OpenAI's batches and vLLM's run_batch write it."""
    body = completion(json.dumps(right(asked(request))) if text is None else text)
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "x", "custom_id": request["custom_id"], "response": response, "error": None}


def failed(request: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": request["custom_id"], "response": None, "error": {"code": "batch_expired", "message": "late"}}


def run(path: Path, to: Path, answer: Callable[[dict[str, Any]], dict[str, Any]] = result) -> Path:
    """The provider: results in another order than that of the requests."""
    lines = [json.dumps(answer(request)) for request in reversed(requests(path))]
    to.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return to


def test_by_file_comes_what_comes_by_http(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = batch(data, out, "--batch-out")
    assert written.exit_code == 0, written.output
    assert f"{len(texts(data))} requests written; the results of 0 written earlier are due" in written.output
    path = out / "batches" / "001.jsonl"
    assert {asked(request) for request in requests(path)} == texts(data)
    assert all(request["method"] == "POST" and request["url"] == "/v1/chat/completions" for request in requests(path))
    assert all(len(request["custom_id"]) <= 64 for request in requests(path))
    read = batch(data, out, "--batch-in", run(path, tmp_path / "results.jsonl"))
    assert read.exit_code == 0, read.output
    assert "3 items, 5 users, by m" in read.output
    with ChatServer() as server:
        assert teach(data, tmp_path / "http", *asking(server)).exit_code == 0
        assert [call.body for call in sorted(server.calls, key=lambda call: call.question)] == [
            request["body"] for request in sorted(requests(out / "batches" / "001.returned.jsonl"), key=asked)
        ]
    assert load_knowledge(out) == load_knowledge(tmp_path / "http")
    assert load_record(out).models == ("m-2030-01-01",)


def test_requests_whose_results_are_due_are_not_written_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch(data, out, "--batch-out", "--limit", 1)
    more = batch(data, out, "--batch-out")
    assert "the results of 2 written earlier are due" in more.output
    files = [requests(out / "batches" / f"00{number}.jsonl") for number in (1, 2)]
    assert sorted(asked(one) for one in files[0] + files[1]) == sorted(texts(data))
    assert len(files[0]) == 2
    none = batch(data, out, "--batch-out")
    assert f"0 requests written; the results of {len(texts(data))} written earlier are due" in none.output


def test_what_failed_is_written_again_and_what_was_wrong_is_repaired(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch(data, out, "--batch-out")

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if asked(request).startswith("Tent"):
            return failed(request)
        return result(request, "[no]" if asked(request).startswith("Boots") else None)

    read = batch(data, out, "--batch-in", run(out / "batches" / "001.jsonl", tmp_path / "results.jsonl", answer))
    assert isinstance(read.exception, TeacherError)
    assert "left 1 questions about items open; run `msd teach` again" in str(read.exception)
    assert "the request failed (not sent): " in read.output
    assert "batch_expired" in read.output
    again = batch(data, out, "--batch-out")
    assert "2 requests written" in again.output
    second = requests(out / "batches" / "002.jsonl")
    assert {asked(request).split(",")[0] for request in second} == {"Tent", "Boots"}
    (repair,) = (request for request in second if asked(request).startswith("Boots"))
    assert [turn["content"][:12] for turn in repair["body"]["messages"][-2:]] == ["[no]", "That answer "]
    last = batch(data, out, "--batch-in", run(out / "batches" / "002.jsonl", tmp_path / "more.jsonl"))
    assert last.exit_code == 0, last.output
    assert len(load_knowledge(out).items) == 3
    assert "0 requests written; the results of 0 written" in batch(data, out, "--batch-out").output


def test_an_answer_that_stays_wrong_is_given_up(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        return result(request, "[no]" if asked(request).startswith("Boots") else None)

    for number in (1, 2):
        batch(data, out, "--batch-out")
        read = batch(data, out, "--batch-in", run(out / "batches" / f"00{number}.jsonl", tmp_path / "r.jsonl", answer))
        assert ("1 of them get a repair question when they are asked again" in read.output) == (number == 1)
    assert read.exit_code == 1
    assert "1 questions have no usable answer: 1 were answered wrongly, 0 not at all" in read.output
    assert set(load_knowledge(out).items) == {"1", "10"}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        '{"custom_id": 3, "response": {"status_code": 200}}',
        '{"response": {"status_code": 200, "body": {}}}',
        '{"custom_id": "item-x-1", "response": []}',
        "[" * 100_000,
        json.dumps({"custom_id": "x" * 5_000_000}),
    ],
)
def test_lines_that_are_no_results_are_named_and_the_others_kept(data: Path, tmp_path: Path, line: str) -> None:
    out = tmp_path / "out"
    batch(data, out, "--batch-out")
    results = run(out / "batches" / "001.jsonl", tmp_path / "results.jsonl")
    results.write_text(f"{line}\n{results.read_text(encoding='utf-8')}", encoding="utf-8")
    read = batch(data, out, "--batch-in", results)
    assert read.exit_code == 0, read.output
    assert f"{results}, line 1: " in read.output.replace("\n", "")
    assert len(load_knowledge(out).items) == 3


def test_results_of_other_questions_and_second_copies_change_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch(data, out, "--batch-out")
    results = run(out / "batches" / "001.jsonl", tmp_path / "results.jsonl")
    foreign = result({"custom_id": "item-0-1", "body": {"messages": [{"content": "x"}]}})
    text = results.read_text(encoding="utf-8")
    results.write_text(f"{json.dumps(foreign)}\n{text}{text}", encoding="utf-8")
    for _ in range(2):
        assert batch(data, out, "--batch-in", results).exit_code == 0
    assert (out / "answers.jsonl").read_bytes().count(b"\n") == len(texts(data))


def test_a_budget_bounds_what_is_written(data: Path, tmp_path: Path) -> None:
    # 1,024 tokens at most cost .10 a request.
    written = batch(data, tmp_path / "out", "--batch-out", "--budget", 0.35, "--price-out", 100)
    assert written.exit_code == 1
    assert "3 requests written" in written.output
    assert f"{len(texts(data)) - 3} questions were left out: the budget does not allow them" in written.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--batch-in", "nowhere.jsonl"], "--batch-in nowhere.jsonl: there is no such file"),
        (["--batch-out", "--estimate"], "--estimate and --batch-out are different ways to run"),
        (["--budget", "3"], "--budget needs the prices of the teacher: --price-in and --price-out"),
        (["--tokenizer", "/dev/null"], "--tokenizer /dev/null: not a tokenizer.json"),
    ],
)
def test_options_that_do_not_fit_are_told(data: Path, tmp_path: Path, options: list[str], told: str) -> None:
    found = batch(data, tmp_path / "out", *options)
    assert isinstance(found.exception, TeacherError)
    assert told in str(found.exception)


def test_a_damaged_request_file_is_named(data: Path, tmp_path: Path) -> None:
    batch(data, tmp_path / "out", "--batch-out")
    (tmp_path / "out" / "batches" / "001.jsonl").write_text("{}\n", encoding="utf-8")
    found = batch(data, tmp_path / "out", "--batch-out")
    assert isinstance(found.exception, TeacherError)
    assert "001.jsonl is damaged" in str(found.exception)
