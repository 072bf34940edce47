"""Entry point `msd COMMAND`: runs one command, and turns its errors into one message."""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from msd.commands import LAB, find, load
from msd.contract.errors import MsdError
from msd.process import keep_freed_memory

# Commands that allocate the same large tensors again and again.
_TENSOR_COMMANDS = ("distill", "train", "evaluate", "export", "quickstart")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What is not a command: completion scripts set the variable of their own name.
_FRONT = ("-h", "--help", "--version", "--install-completion", "--show-completion")


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
    if arguments and arguments[0] in _TENSOR_COMMANDS:
        keep_freed_memory()
    try:
        _run(list(arguments))
    except KeyboardInterrupt:  # while a command's package is imported; later the command handles it
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if terminate.status is not None:  # an interrupted import may fail with any error
            sys.exit(terminate.status)
        _explain(error, arguments)


def _run(arguments: list[str]) -> None:
    """Run the command that the arguments name, or print help, version or completions."""
    if not arguments or arguments[0] in _FRONT or "_MSD_COMPLETE" in os.environ:
        from msd.help import help_app

        help_app()(args=arguments or ["--help"], prog_name="msd")
    elif arguments[0] == LAB and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        from msd.help import lab_app

        lab_app()(args=["--help"], prog_name="msd lab")
    else:
        names = 2 if arguments[0] == LAB else 1
        load(*arguments)(args=arguments[names:], prog_name=f"msd {' '.join(arguments[:names])}")


def _explain(error: Exception, arguments: Sequence[str]) -> NoReturn:
    """Report a user error; raise any other."""
    if isinstance(error, ModuleNotFoundError):
        extra = find(*arguments).extra
        _refuse(f"`msd {arguments[0]}` needs the module {error.name!r}: pip install 'msd-ctr[{extra}]'")
    if isinstance(error, MsdError):
        _refuse(str(error))
    if isinstance(error, OSError) and error.filename is not None:  # a socket's error, for example, names no file
        _refuse(f"{error.filename}: {error.strerror}")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        _refuse(f"a file cannot be written ({error.strerror}); free disk space, or raise its limit (ulimit -f)")
    raise error


class _Terminate:
    """Handler of SIGINT, and of SIGTERM, which ends a command alike, so that it removes unfinished files and ends child
    processes. Notes the signal, because an extension's import makes an ImportError of it."""

    def __init__(self) -> None:
        self.status: int | None = None

    def __call__(self, number: int, frame: object) -> NoReturn:
        self.status = 128 + number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(self.status)


def _set_up_process(terminate: _Terminate, command: str = "") -> None:
    """Set the process's signal handling."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell ignores it
        signal.signal(signal.SIGINT, terminate)
    if command != "serve":  # which handles its own shutdown
        signal.signal(signal.SIGTERM, terminate)


def _refuse(reason: str) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), reason))
    sys.exit(2)


if __name__ == "__main__":
    main()
