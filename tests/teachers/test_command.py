"""`msd teach`, as it is typed: recorded answers, a server, estimates, and a run that is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
from typer.testing import CliRunner, Result

from msd.dataset.load import load_dataset
from msd.teachers.command import app
from msd.teachers.knowledge import TeacherError, load_knowledge, load_record
from msd.teachers.teacher import questions_of
from tests.dataset.small import CONFIG, write_small
from tests.teachers.chat_server import Call, ChatServer, in_turn, silent

ROOT = Path(__file__).parents[2]
NOWHERE = ["--teacher", "openai_compatible", "--url", "http://127.0.0.1:9/v1", "--model", "m"]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """The small dataset under the name, and with the ids, of MovieLens-100K."""
    folder = write_small(tmp_path / "data", config=CONFIG.replace('"small"', '"ml-100k"'))
    for name in ("events.csv", "users.csv"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("\nu", "\n"), encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_small(tmp_path / "data")


def teach(*arguments: object) -> Result:
    return CliRunner(env={"TEACHER_API_KEY": "sk-secret"}).invoke(app, [str(argument) for argument in arguments])


def asking(server: ChatServer, *more: object) -> list[object]:
    return ["--teacher", "openai_compatible", "--url", server.url, "--model", "m", *more]


def texts(folder: Path) -> set[str]:
    return {question.text for questions in questions_of(load_dataset(folder)) for question in questions}


def test_recorded_answers_are_written_once(films: Path, tmp_path: Path) -> None:
    for _ in range(2):
        result = teach(films, tmp_path / "out", "--teacher", "recorded")
        assert result.exit_code == 0, result.output
        assert "3 items, 5 users, by recorded-1" in result.output
    assert set(load_knowledge(tmp_path / "out").items) == {"1", "2", "10"}


def test_server_is_asked_and_its_tokens_counted(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ChatServer(lambda call: call.answer(known=not call.question.startswith("Tent"))) as server:
        result = teach(data, out, *asking(server, "--price-in", 10, "--price-out", 100))
        assert result.exit_code == 0, result.output
        assert sorted(server.asked) == sorted(texts(data))
        again = teach(data, out, *asking(server))
        assert again.exit_code == 0
        assert len(server.calls) == len(texts(data))
    assert "3 items, 5 users, by m" in result.output
    assert "300 tokens in, 60 out, cost 0.0090" in result.output
    assert "1 items were not recognised: what is written of them is inferred from their texts" in result.output
    items = load_knowledge(out).items
    assert [item.id for item in items.values() if not item.known] == ["1"]
    assert items["1"].explicit == "E Tent, camping, outdoor"
    assert load_record(out).provenance == "Answers of m at 127.0.0.1, prompt 3."
    assert "because" not in (out / "items.jsonl").read_text(encoding="utf-8")
    assert all("sk-secret" not in path.read_text(encoding="utf-8") for path in out.iterdir())


def test_wrong_answers_are_counted_and_exit_with_code_1(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def behave(call: Call) -> None:
        if call.question.startswith("Boots"):
            call.say("[no]")
        elif call.question.startswith("Tent"):
            call.send(400, b"")
        else:
            call.answer()

    with ChatServer(behave) as server:
        result = teach(data, out, *asking(server))
        assert result.exit_code == 1, result.output
        calls = len(server.calls)
        server.behave = Call.answer
        again = teach(data, out, *asking(server))
        assert again.exit_code == 1
        assert [call.question.split(",")[0] for call in server.calls[calls:]] == ["Tent"]
    assert "2 questions have no usable answer: 1 were answered wrongly, 1 not at all" in result.output
    assert "1 items, 5 users" in result.output
    assert "1 questions have no usable answer: 1 were answered wrongly, 0 not at all" in again.output
    assert set(load_knowledge(out).items) == {"1", "10"}


def test_estimate_sends_nothing(data: Path, tmp_path: Path) -> None:
    with ChatServer() as server:
        result = teach(data, tmp_path / "out", *asking(server, "--price-in", 1, "--price-out", 10, "--estimate"))
    assert not server.calls
    assert not (tmp_path / "out").exists()
    number = len(texts(data))
    assert f"m: {number} questions, about " in result.output
    assert f" tokens in, {number * 300:,} out, cost 0.0" in result.output
    assert "a token for 4 bytes; repairs not counted; nothing was sent" in result.output


def test_killed_run_resumes(data: Path, tmp_path: Path) -> None:
    out, fourth = tmp_path / "out", Event()

    def hang(call: Call) -> None:
        fourth.set()
        silent(call)

    with ChatServer(in_turn(Call.answer, Call.answer, Call.answer, hang)) as server:
        options = asking(server, "--concurrency", 1)
        command = [sys.executable, "-m", "msd", "teach", str(data), str(out), *map(str, options)]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, stdout=subprocess.DEVNULL)
        # The fourth request is sent only when the third answer is on the disk.
        assert fourth.wait(120)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(TeacherError, match="has not finished"):
            load_knowledge(out)
        with (out / "answers.jsonl").open("ab") as file:
            file.write(b'{"key": "half of a li')
        server.behave = Call.answer
        result = teach(data, out, *options)
        assert result.exit_code == 0, result.output
        asked = server.asked
    assert asked[3] in asked[4:]
    assert sorted(asked[:3] + asked[4:]) == sorted(texts(data))
    assert len(load_knowledge(out).users) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher", "openai_compatible"], "the teacher openai_compatible needs --url"),
        (["--teacher", "openai_compatible", "--url", "http://x/v1"], "openai_compatible needs --model"),
        (["--teacher", "openai_compatible", "--url", "x", "--model", "m"], "is not an address of a server"),
        (["--teacher", "recorded", "--model", "m"], "the teacher recorded takes no --model"),
        (["--teacher", "recorded", "--budget", "3"], "--budget is for --teacher openai_compatible"),
        (["--batches"], "--batches is for --teacher openai_compatible"),
        ([*NOWHERE, "--budget", "3"], "--budget needs the prices of the teacher: --price-in and --price-out"),
        ([*NOWHERE, "--estimate", "--batches"], "--estimate needs --teacher openai_compatible, and no --batches"),
        (["--estimate"], "--estimate needs --teacher openai_compatible"),
        (["--teacher", "oracle"], "recorded"),
    ],
)
def test_rejects_options_that_do_not_fit(films: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = teach(films, tmp_path / "out", *options)
    assert isinstance(result.exception, TeacherError | SystemExit)
    assert message in str(result.exception) + result.output
    assert not (tmp_path / "out").exists()
