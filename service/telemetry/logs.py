"""Logs as one JSON object a line on stdout, the service's own and those of the libraries under it."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_STDERR = 2


def keep_standard_streams() -> None:
    """Opens those of the descriptors 0 to 2 that are closed: rows or connections that came to lie there would be
    overwritten by whatever a library has to say."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)


def configure_logs(level: str) -> None:
    """Sets up the whole process's logging; `level` is the lowest that is written."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: Sequence[Processor] = (
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    )
    # Unbuffered: of what could not be written nothing is to be kept.
    output = _Output(getattr(sys.stdout.buffer, "raw", sys.stdout.buffer))
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(_dump_bytes)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(output),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    handler = _Handler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[_drop_colours, structlog.processors.JSONRenderer(_dump_text)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))


class _Output:
    """Where lines go. Those that cannot be written, as when a disk is full or nobody reads any more, are lost: requests
    are not to be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        with suppress(OSError):
            self._file.write(data)

    def flush(self) -> None:
        """Nothing is held back."""


class _Handler(logging.Handler):
    """Libraries' lines, to the same place."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:
            self.handleError(record)


def _drop_colours(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for name in ("_record", "_from_structlog", "color_message"):
        event.pop(name, None)
    return event


def _dump_bytes(event: EventDict, **_: Any) -> bytes:  # noqa: ANN401 - what structlog hands to its serialiser
    return orjson.dumps(event, default=str)


def _dump_text(event: EventDict, **_: Any) -> str:  # noqa: ANN401
    return _dump_bytes(event).decode()
