"""The front door: `msd COMMAND`. It knows where each command lives and loads that package only when it is called."""

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from msd.contract.errors import MsdError


class _Command(NamedTuple):
    module: str
    extra: str
    help: str
    app: str = "app"


COMMANDS = {
    "data": _Command("msd.dataset.command", "train", "Fetch, check and describe datasets."),
    "teach": _Command("msd.teachers.command", "train", "Ask a large language model what it knows of items and users."),
    "distill": _Command("msd.student.command", "train", "Train the student on what the teacher wrote."),
    "train": _Command("msd.ranker.train_command", "train", "Train the CTR model with the student's vectors."),
    "tensors": _Command("msd.ranker.tensors_command", "train", "Write a dataset's tensors for a model of your own."),
    "evaluate": _Command("msd.ranker.evaluate_command", "train", "Measure models and baselines on the test rows."),
    "export": _Command("model_export.command", "train,cpu", "Make a bundle of a trained model."),
    "delta": _Command("service.commands.bundles", "cpu", "Write what of a bundle's rows has changed.", "delta"),
    "catalogue": _Command(
        "service.catalogue.command", "cpu,encode,log", "Make rows of items that a bundle's export did not know."
    ),
    "publish": _Command("service.commands.publish", "cpu", "Copy a bundle's rows into Redis and point to them."),
    "rollback": _Command(
        "service.commands.bundles", "cpu", "Back to the bundle before, in a folder or in Redis.", "rollback"
    ),
    "sign": _Command(
        "service.commands.bundles", "cpu,sign", "Sign a bundle for services that take signed ones alone.", "signing"
    ),
    "pack": _Command("service.commands.bundles", "cpu", "Make one file with a digest of a bundle.", "packing"),
    "fetch": _Command("service.commands.bundles", "cpu", "Fetch such a file by its digest, and unpack it.", "fetching"),
    "serve": _Command("service.commands.serve", "cpu", "Answer scoring requests over HTTP."),
    "check": _Command("service.commands.check.command", "cpu", "Say what is wrong with a deployment, and what to do."),
    "key": _Command("service.commands.key", "cpu", "Make an API key, and the entry that lets it in."),
    "replay": _Command("loadtest.replay_command", "load", "Score recorded or logged requests again and compare."),
    "join": _Command("msd.feedback.join_command", "train", "Make training data of a service's log, or compare arms."),
    "bench": _Command(
        "loadtest.bench_command", "load", "Compare the service with others; or measure a running one, or the graph."
    ),
    "chaos": _Command("loadtest.chaos_command", "load", "Break a service for real, and tell what came of it."),
    "observe": _Command(
        "loadtest.observe_command",
        "observe,cpu,encode,live,log,train,demo",
        "Show that dashboards and rules show something.",
    ),
    "dashboards": _Command("loadtest.dashboards_command", "observe", "Write the dashboards for Grafana."),
    "load": _Command("loadtest.load_command", "load", "Load a service, and show latency against load on a page."),
    "savings": _Command(
        "loadtest.savings_command", "load", "Compare with a language model asked at request time, in time and money."
    ),
    "demo": _Command("msd.demo.command", "demo,train,cpu,load", "Run the whole path on MovieLens-100K."),
}
_LOG_REPLAY = _Command("service.request_log.replay", "cpu,log", "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; what a person can mend is printed as one message, with exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # OpenMP's threads wait by spinning for long unless told otherwise before they start. Where other processes want the
    # cores too, that makes training ten times slower; so short a wait costs a tenth where none do.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # ONNX Runtime's own builds report to its makers' servers unless told not to before it is loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_commands(Console())
        return
    try:
        _load(*arguments)(args=list(arguments[1:]), prog_name=f"msd {arguments[0]}")
    except KeyboardInterrupt:  # while a command's package was being loaded; later the command sees to it
        sys.exit(128 + signal.SIGINT)
    except MsdError as error:
        _refuse(str(error))
    except OSError as error:
        if error.filename is None:  # of a socket, say: no file that somebody named
            raise
        _refuse(f"{error.filename}: {error.strerror}")


def _refuse(reason: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), reason))
    sys.exit(2)


def _load(name: str, *arguments: str) -> typer.Typer:
    command = COMMANDS.get(name)
    # A log is a folder or a Parquet file, and is scored here; what a running service is asked is lines of JSON.
    if name == "replay" and any(os.path.isdir(one) or one.endswith(".parquet") for one in arguments):
        command = _LOG_REPLAY
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise MsdError(
            f"no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; `msd --help` lists them")
        )
    try:
        app: typer.Typer = getattr(importlib.import_module(command.module), command.app)
    except ModuleNotFoundError as error:
        raise MsdError(
            f"`msd {name}` needs the module {error.name!r}; in the checkout: pip install -e '.[{command.extra}]'"
        ) from error
    return app


def _print_commands(console: Console) -> None:
    table = Table(box=None, title="msd COMMAND [--help]", title_justify="left", show_header=False)
    for name, command in COMMANDS.items():
        table.add_row(f"  {name}", command.help)
    console.print(table)


if __name__ == "__main__":
    main()
