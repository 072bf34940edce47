"""Entry point `msd COMMAND`: knows each command's package, and imports it only when it is called."""

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from msd.contract.errors import MsdError
from msd.memory import keep_freed_memory


class _Command(NamedTuple):
    module: str
    extra: str
    help: str
    app: str = "app"


COMMANDS = {
    "data": _Command("msd.dataset.command", "train", "Fetch, check and describe datasets."),
    "teach": _Command("msd.teachers.command", "train", "Ask a large language model what it knows of items and users."),
    "distill": _Command("msd.student.command", "train", "Train the student on what the teacher wrote."),
    "train": _Command("msd.training.train_command", "train", "Train the CTR model with the student's vectors."),
    "lean": _Command(
        "msd.training.lean_command", "train", "Train the model's lean ranker, which scores under overload."
    ),
    "tensors": _Command("msd.ranker.tensors_command", "train", "Write a dataset's tensors for a model of your own."),
    "evaluate": _Command("msd.evaluation.evaluate_command", "train", "Measure models and baselines on the test rows."),
    "export": _Command("model_export.command", "train,cpu", "Export a trained model as a bundle."),
    "delta": _Command("operations.bundles", "cpu", "Write the changed rows between two exports of a bundle.", "delta"),
    "catalogue": _Command(
        "operations.catalogue.command", "cpu,encode,log", "Make rows for items that a bundle's export did not know."
    ),
    "publish": _Command("operations.publish_command", "cpu", "Copy a bundle's rows to Redis and make them current."),
    "rollback": _Command(
        "operations.bundles", "cpu", "Return to the previous bundle, in a folder or in Redis.", "rollback"
    ),
    "sign": _Command(
        "operations.bundles", "cpu,sign", "Sign a bundle for services that require signatures.", "signing"
    ),
    "pack": _Command("operations.bundles", "cpu", "Pack a bundle into one file and print its digest.", "packing"),
    "fetch": _Command(
        "operations.bundles", "cpu,fetch", "Fetch a packed bundle by its digest and unpack it.", "fetching"
    ),
    "serve": _Command("service.command", "cpu", "Answer scoring requests over HTTP."),
    "check": _Command("operations.check.command", "cpu", "Find problems of a deployment and say how to fix them."),
    "key": _Command("operations.key", "cpu", "Create an API key and its entry for the key file."),
    "replay": _Command("operations.replay.recorded", "cpu", "Score recorded or logged requests again and compare."),
    "join": _Command("msd.feedback.join_command", "train", "Make training data from a request log, or compare arms."),
    "recalibrate": _Command(
        "msd.feedback.recalibrate", "train", "Correct the calibration of served models by what was clicked."
    ),
    "bench": _Command("loadtest.running_command", "load", "Measure the latency of a running service."),
    "load": _Command(
        "loadtest.session.command", "load", "Load-test a service and show latency against load on a page."
    ),
    "quickstart": _Command(
        "msd.demo.quickstart", "train,cpu,client", "Make a served model of your own log, all steps in one command."
    ),
    "demo": _Command("msd.demo.command", "demo,train,cpu,load", "Run the whole path on MovieLens-100K."),
    "demo-creatives": _Command(
        "msd.demo.creatives", "demo,train,cpu,encode", "Run the whole path on randomised tests of headlines."
    ),
}
# Commands that allocate the same large tensors again and again.
_TENSOR_COMMANDS = ("distill", "train", "lean", "evaluate", "export", "quickstart")
_LAB = "lab"  # the laboratory's commands; its package is in the checkout, not in the wheel
_LOG_REPLAY = _Command("operations.replay.log", "cpu,log", "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; user errors are printed as one message, with exit code 2."""
    terminate = _Terminate()
    if arguments is None:
        arguments = sys.argv[1:]
        _set_up_process(terminate, *arguments[:1])
    # By default OpenMP's threads spin while they wait. If other processes need the cores, that makes training ten times
    # slower; this short wait costs a tenth when none do.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # ONNX Runtime's official builds send telemetry unless disabled before import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_commands(Console(), "msd", COMMANDS)
        return
    if arguments[0] in _TENSOR_COMMANDS:
        keep_freed_memory()
    try:
        names = 2 if arguments[0] == _LAB else 1
        if names > len(arguments) or (names > 1 and arguments[1] in ("-h", "--help")):
            _print_commands(Console(), "msd lab", _lab_commands())
            return
        _load(*arguments)(args=list(arguments[names:]), prog_name=f"msd {' '.join(arguments[:names])}")
    except KeyboardInterrupt:  # while a command's package is imported; later the command handles it
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if terminate.status is not None:  # an interrupted import may fail with any error
            sys.exit(terminate.status)
        _explain(error, arguments)


def _explain(error: Exception, arguments: Sequence[str]) -> NoReturn:
    """Report a user error; raise any other."""
    if isinstance(error, ModuleNotFoundError):
        extra = _command(*arguments).extra
        _refuse(f"`msd {arguments[0]}` needs the module {error.name!r}; in the checkout: pip install -e '.[{extra}]'")
    if isinstance(error, MsdError):
        _refuse(str(error))
    if isinstance(error, OSError) and error.filename is not None:  # a socket's error, for example, names no file
        _refuse(f"{error.filename}: {error.strerror}")
    raise error


class _Terminate:
    """SIGTERM handler: ends a command as an interrupt does, so that it removes unfinished files and ends child
    processes."""

    def __init__(self) -> None:
        self.status: int | None = None

    def __call__(self, number: int, frame: object) -> NoReturn:
        self.status = 128 + number
        sys.exit(self.status)


def _set_up_process(terminate: _Terminate, command: str = "") -> None:
    """Set the process's signal handling."""
    # A service handles its own shutdown. Training may be ended at any moment, but Python would notice only after a
    # reply from another torchrun process, which may have ended.
    if command not in ("serve", "train"):
        signal.signal(signal.SIGTERM, terminate)


def _refuse(reason: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), reason))
    sys.exit(2)


def _load(*arguments: str) -> typer.Typer:
    command = _command(*arguments)
    app: typer.Typer = getattr(importlib.import_module(command.module), command.app)
    return app


def _command(name: str, *arguments: str) -> _Command:
    commands = COMMANDS
    if name == _LAB:
        name, commands = arguments[0], _lab_commands()
    command = commands.get(name)
    # A log is a folder or a Parquet file, and is scored here; requests for a running service are JSON lines.
    if name == "replay" and any(os.path.isdir(one) or one.endswith(".parquet") for one in arguments):
        command = _LOG_REPLAY
    if command is None:
        near = difflib.get_close_matches(name, commands, 1)
        raise MsdError(
            f"no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; `msd --help` lists them")
        )
    return command


def _lab_commands() -> dict[str, _Command]:
    """Return the laboratory's commands. Raises MsdError outside a checkout."""
    try:
        from lab import COMMANDS as commands
    except ModuleNotFoundError:
        raise MsdError("`msd lab` needs the project's checkout; the installed package does not contain it") from None
    return {name: _Command(*command) for name, command in commands.items()}


def _print_commands(console: Console, program: str, commands: Mapping[str, _Command]) -> None:
    table = Table(box=None, title=f"{program} COMMAND [--help]", title_justify="left", show_header=False)
    for name, command in commands.items():
        table.add_row(f"  {name}", command.help)
    if commands is COMMANDS:
        table.add_row(f"  {_LAB}", "Benchmarks and chaos tests; in the checkout only.")
    console.print(table)


if __name__ == "__main__":
    main()
