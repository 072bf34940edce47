"""The commands of `msd`: where each is, what it needs, and its group in the help. Imports none of them."""

import difflib
import importlib
import os
from typing import TYPE_CHECKING, NamedTuple

from msd.contract.errors import MsdError

if TYPE_CHECKING:
    # Its import takes long enough for Ctrl-C to fall into it.
    import typer


class Command(NamedTuple):
    """`module` has the Typer app `app`; `extra` names the extras of the package that it needs."""

    module: str
    extra: str
    help: str
    app: str = "app"


LAB = "lab"
GROUPS: dict[str, dict[str, Command]] = {
    "Start": {
        "quickstart": Command("msd.demo.quickstart", "train,cpu", "Serve a model of your own log in one command."),
        "demo": Command("msd.demo.command", "demo,train,cpu,load", "Run the whole path on MovieLens-100K."),
        "demo-creatives": Command(
            "msd.demo.creatives", "demo,train,cpu,encode", "Run the whole path on randomised tests of headlines."
        ),
    },
    "Your data": {
        "data": Command("msd.dataset.command", "train", "Make, fetch and check datasets."),
        "teach": Command(
            "msd.teachers.command", "train", "Ask a large language model what it knows of items and users."
        ),
        "join": Command(
            "msd.feedback.join_command", "train", "Make training data from a request log, or compare arms."
        ),
        "tensors": Command("msd.ranker.tensors_command", "train", "Write a dataset's tensors for a model of your own."),
    },
    "Train": {
        "distill": Command("msd.student.command", "train", "Train the student on what the teacher wrote."),
        "train": Command("msd.training.train_command", "train", "Train the CTR model with the student's vectors."),
        "evaluate": Command(
            "msd.evaluation.evaluate_command", "train", "Measure models on the test rows, or bundles on a log."
        ),
        "export": Command("model_export.command", "train,cpu", "Export a trained model as a bundle."),
        "nightly": Command(
            "msd.nightly.command", "train,cpu,fetch", "Train on the logs and replace the bundle if it is better."
        ),
    },
    "Serve": {
        "serve": Command("service.command", "cpu", "Answer scoring requests over HTTP."),
        "publish": Command("operations.publish_command", "cpu", "Copy a bundle's rows to Redis and make them current."),
        "delta": Command(
            "operations.bundles", "cpu", "Write the changed rows between two exports of a bundle.", "delta"
        ),
        "catalogue": Command(
            "operations.catalogue.command", "cpu,encode,log", "Make rows for items that a bundle's export did not know."
        ),
        "items": Command("operations.items", "cpu", "Describe new items to a running service, or list them."),
        "rollback": Command(
            "operations.bundles", "cpu", "Return to the previous bundle, in a folder or in Redis.", "rollback"
        ),
        "recalibrate": Command(
            "msd.feedback.recalibrate", "train", "Correct the calibration of served models by logged clicks."
        ),
    },
    "Operate": {
        "check": Command("operations.check.command", "cpu", "Find problems of a deployment and say how to fix them."),
        "key": Command("operations.key", "cpu", "Create an API key and its entry for the key file."),
        "sign": Command(
            "operations.bundles", "cpu,sign", "Sign a bundle for services that require signatures.", "signing"
        ),
        "pack": Command("operations.bundles", "cpu", "Pack a bundle into one file and print its digest.", "packing"),
        "fetch": Command(
            "operations.bundles", "cpu,fetch", "Fetch a packed bundle by its digest and unpack it.", "fetching"
        ),
        "replay": Command("operations.replay.recorded", "cpu", "Score recorded or logged requests again and compare."),
    },
    "Measure": {
        "bench": Command("loadtest.running_command", "load", "Measure the latency of a running service."),
        "load": Command("loadtest.session.command", "load", "Load-test a service and draw latency against load."),
        LAB: Command(LAB, "", "Benchmarks and chaos tests; only in the project's checkout."),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items() if name != LAB}
_LOG_REPLAY = Command("operations.replay.log", "cpu,log", "")
_JUDGE = Command("msd.feedback.judge_command", "train,cpu", "")


def lab_commands() -> dict[str, Command]:
    """Return the laboratory's commands. Raises MsdError outside a checkout."""
    try:
        from lab import COMMANDS as commands
    except ImportError:  # none, or another distribution's module of this name
        raise MsdError("`msd lab` needs the project's checkout; the installed package does not contain it") from None
    return {name: Command(*command) for name, command in commands.items()}


def find(name: str, *arguments: str) -> Command:
    """Return the command called `name`, or that of `msd lab` called `arguments[0]`. Raises MsdError."""
    commands = COMMANDS
    if name == LAB:
        name, commands = arguments[0], lab_commands()
    # Bundles score and are judged on logs: folders or Parquet files. Requests in JSON lines are for a running service;
    # models in training are judged on a dataset.
    has_bundle = any(word.partition("=")[0] == "--bundle" for word in arguments)
    if name == "replay" and (has_bundle or any(os.path.isdir(path) or path.endswith(".parquet") for path in arguments)):
        return _LOG_REPLAY
    if name == "evaluate" and has_bundle:
        return _JUDGE
    if name not in commands:
        near = difflib.get_close_matches(name, [*commands, *([LAB] if commands is COMMANDS else [])], 1)
        raise MsdError(
            f"no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; `msd --help` lists them")
        )
    return commands[name]


def load(name: str, *arguments: str) -> "typer.Typer":
    """Import a command's package and return its app. Raises MsdError and what the import raises."""
    command = find(name, *arguments)
    app: typer.Typer = getattr(importlib.import_module(command.module), command.app)
    return app
