"""A newcomer's mistakes, whose messages mistakes.txt keeps."""

import contextlib
import gzip
import io
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from msd.__main__ import main
from msd.dataset.log.scaffold import SourceFiles, init_dataset
from tests.bundles.factory import build_bundle

Content = str | bytes | Callable[[Path], object]
START = 1_714_550_400
_FRAME = re.compile(r"[─-╿]+")


@dataclass(frozen=True)
class Mistake:
    """A mistake, a command, and the files of the folder that it is given in."""

    name: str
    command: str
    files: Mapping[str, Content] = field(default_factory=dict)


def rows(count: int = 60) -> list[list[str]]:
    """A log without a fault."""
    header = ["user_id", "ad_id", "ts", "hour", "click"]
    cells = [(n % 6, n % 4, START + n * 600, n // 6 % 24, int(n * 7 % 5 == 0)) for n in range(count)]
    return [header, *([f"u{user}", f"a{ad}", str(at), str(hour), str(click)] for user, ad, at, hour, click in cells)]


def text(cells: list[list[str]]) -> str:
    """Cells as CSV."""
    return "".join(",".join(row) + "\n" for row in cells)


def with_cell(column: str, value: str) -> str:
    """A log whose seventh row has a cell of its own."""
    cells = rows()
    cells[7][cells[0].index(column)] = value
    return text(cells)


def with_column(column: str, value: Callable[[int], str], name: str | None = None) -> str:
    """A log with one column of its own."""
    cells = rows()
    at = cells[0].index(column) if column in cells[0] else len(cells[0])
    for number, row in enumerate(cells):
        row[at : at + 1] = [name or column] if number == 0 else [value(number)]
    return text(cells)


LOG = text(rows())
COUNTS = "user_id,ad_id,impressions,clicks\n" + "".join(f"s{n % 9},a{n},{20 + n},{n % 5}\n" for n in range(40))


def _made(path: Path) -> object:
    """The dataset of a log without a fault."""
    log = path.with_name("made.csv")
    log.write_text(LOG, "utf-8")
    return init_dataset(SourceFiles(log), path, {})


def _old_bundle(path: Path) -> object:
    build_bundle(path)
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    return (path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 1}), "utf-8")


def _without(file: str, make: Callable[[Path], object], path: Path) -> None:
    make(path)
    (path / file).unlink()


def _misspelt(path: Path) -> object:
    _made(path)
    text = (path / "dataset.toml").read_text("utf-8")
    return (path / "dataset.toml").write_text(text.replace("[items]", "[item]"), "utf-8")


REDIS = "--redis redis://127.0.0.1:1/0"
INIT = "msd data init log.csv data"
MISTAKES: dict[str, list[Mistake]] = {
    "The log's file": [
        Mistake("no such file", INIT),
        Mistake("a spreadsheet", "msd data init log.xlsx data", {"log.xlsx": b"PK\x03\x04"}),
        Mistake("a spreadsheet that was renamed", INIT, {"log.csv": b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xff\xfe\x90"}),
        Mistake("no header", INIT, {"log.csv": text(rows()[1:])}),
        Mistake("text in Latin-1", INIT, {"log.csv": with_cell("ad_id", "café").encode("latin-1")}),
        Mistake("a row that was cut short", INIT, {"log.csv": LOG.rstrip("\n").rsplit(",", 2)[0] + "\n"}),
        Mistake("a comma inside a cell without quotes", INIT, {"log.csv": with_cell("ad_id", "a,b")}),
        Mistake("a quote that is left open", INIT, {"log.csv": with_cell("ad_id", '"a3')}),
        Mistake(
            "a packed file that was cut short",
            "msd data init log.csv.gz data",
            {"log.csv.gz": gzip.compress(LOG.encode())[:-20]},
        ),
        Mistake(
            "JSON that is not one object a line",
            "msd data init log.jsonl data",
            {"log.jsonl": '{"user_id": "u1"}\n["u2"]\n'},
        ),
    ],
    "The log's columns": [
        Mistake("no click column", INIT, {"log.csv": with_column("click", lambda n: str(n % 7), "score")}),
        Mistake("all rows are clicks", INIT, {"log.csv": with_column("click", lambda n: "1")}),
        Mistake(
            "ratings instead of clicks",
            INIT + " --label stars",
            {"log.csv": with_column("click", lambda n: str(n % 5 + 1), "stars")},
        ),
        Mistake("no column says who", INIT, {"log.csv": LOG.replace("user_id", "who", 1)}),
        Mistake("no column says what", INIT, {"log.csv": LOG.replace("ad_id", "what", 1)}),
        Mistake("a column that is not there", INIT + " --item creative", {"log.csv": LOG}),
        Mistake("--time and --no-time", INIT + " --time ts --no-time", {"log.csv": LOG}),
    ],
    "The log's values": [
        Mistake("dates as 01/05/2024", INIT, {"log.csv": with_column("ts", lambda n: f"{n % 9 + 1:02}/05/2024")}),
        Mistake(
            "a time with a zone beside times without",
            INIT,
            {"log.csv": with_column("ts", lambda n: f"2024-05-{n % 28 + 1:02}T10:00:00" + "+02:00" * (n % 2))},
        ),
        Mistake("an id is missing", INIT, {"log.csv": with_cell("user_id", "")}),
        Mistake(
            "more clicks than impressions",
            INIT,
            {"log.csv": COUNTS.replace("a3,23,3", "a3,2,3")},
        ),
        Mistake("too few rows", INIT, {"log.csv": text(rows(3))}),
    ],
    "Folders": [
        Mistake("a folder that is in use", INIT, {"log.csv": LOG, "data/notes.txt": "mine"}),
        Mistake("a folder below a file", "msd data init log.csv log.csv/data", {"log.csv": LOG}),
        Mistake("a log where a dataset is due", "msd data check log.csv", {"log.csv": LOG}),
        Mistake("a folder without a dataset", "msd data check logs", {"logs/a.csv": LOG}),
        Mistake(
            "a dataset's table was taken away",
            "msd data check data",
            {"data": lambda path: _without("events.parquet", _made, path)},
        ),
        Mistake("a key in dataset.toml is misspelt", "msd data check data", {"data": _misspelt}),
    ],
    "Teach, distil, train, evaluate, export": [
        Mistake("a misspelt command", "msd tran data model"),
        Mistake("no teacher", "msd teach data knowledge", {"data": _made}),
        Mistake("no text to read", "msd distill data student", {"data": _made}),
        Mistake("one folder too few", "msd train data model", {"data": _made}),
        Mistake("no student there", "msd train data student model", {"data": _made}),
        Mistake(
            "the model's folder holds other things",
            "msd train data notes --no-semantics",
            {"data": _made, "notes/a.txt": "mine"},
        ),
        Mistake("no model named", "msd evaluate data figures", {"data": _made}),
    ],
    "Quickstart": [
        Mistake("options before the log", "msd quickstart --item ad_id log.csv --no-serve", {"log.csv": LOG}),
        Mistake("an option for a dataset that is made", "msd quickstart data --item ad_id", {"data": _made}),
        Mistake("another log's folder", "msd quickstart log.csv --out run", {"log.csv": LOG, "run/data": _made}),
    ],
    "Publish and serve": [
        Mistake("no bundle named", "msd serve"),
        Mistake("no bundle there", f"msd publish bundle {REDIS}"),
        Mistake("a bundle of another version", f"msd publish bundle {REDIS}", {"bundle": _old_bundle}),
        Mistake(
            "a bundle that was cut short",
            f"msd publish bundle {REDIS}",
            {"bundle": lambda path: _without("items.rows", build_bundle, path)},
        ),
    ],
}


def _one_line(printed: str) -> str:
    """Output without the frames that are drawn around it."""
    return " ".join(_FRAME.sub(" ", printed).split())


def message_of(mistake: Mistake, folder: Path) -> tuple[str, int]:
    """The command's message, in one line, and its exit status. Writes the case's files into the folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder):
        for name, content in mistake.files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        code: object = 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main(shlex.split(mistake.command)[1:])
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    message = _one_line(err.getvalue())
    if not message:
        # Of a report on a dataset, the first problem: its file, its column and what is wrong.
        message = re.split(r"\d problems? ", _one_line(out.getvalue()))[-1].partition(" Rows that")[0]
    return re.split(r"(?:^| )(?:[Ee]rror:?) ", message, maxsplit=1)[-1].removeprefix("Invalid value: "), code


def page_rows() -> dict[str, list[str]]:
    """A list item for each mistake, by group."""

    def row(mistake: Mistake) -> str:
        with TemporaryDirectory() as folder:
            return row_of(mistake, message_of(mistake, Path(folder))[0])

    return {group: [row(mistake) for mistake in mistakes] for group, mistakes in MISTAKES.items()}


def row_of(mistake: Mistake, message: str) -> str:
    """The mistake's item in mistakes.txt."""
    command = "" if mistake.command == INIT else f" (`{mistake.command}`)"
    return f"- **{mistake.name}**{command}: {message}"
