"""The figures in the tables of the page on benchmarks are those of the kept results."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "benchmarks.md").read_text("utf-8").partition("## Results")[2]
FILES = {
    "CoLLM's split of MovieLens-1M": "collm-ml-1m",
    "MovieLens-100K": "ml-100k",
    "MovieLens-100K, new items": "ml-100k-cold",
    "Text alone": "ml-100k-cold-text",
}
VIEWS = {
    "at once": "live_0_s",
    "ten minutes late": "live_600_s",
    "a day late": "live_86400_s",
    "counts frozen, histories live": "frozen",
    "the same, two seeds": "live_600_s",
}
MORE = {"the same, two seeds": "collm-ml-1m-ten-minutes"}
NO_RESULTS = {"the same, one seed"}  # of a run whose results are not kept


class Line(NamedTuple):
    """A line of a table: its file, its group of lines or nothing, its model, and its cells by their headings."""

    file: str
    group: str
    model: str
    cells: Mapping[str, str]


def lines() -> Iterator[Line]:
    for section in re.split(r"^###+ ", PAGE, flags=re.M)[1:]:
        title, headings, group = section.partition("\n")[0], [], ""
        for row in re.findall(r"^\| ?(.*) \|$", section, re.M):
            cells = [cell.strip() for cell in row.split("|")]
            model = next((cell.strip("`") for cell in cells[:2] if re.fullmatch("`[a-z_0-9]+`", cell)), None)
            if model is None:
                headings = cells if "AUC" in cells else []
            elif headings:
                group = group if cells[0].startswith("`") else cells[0] or group
                yield Line(title, group, model, dict(zip(headings, cells, strict=True)))


def written(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}".replace("0.", ".", 1).replace("-", "−")


def gain(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    if found["ci95"] is None:
        return written(found["gain"], "+")
    low, high = (written(end, "+") for end in found["ci95"])
    return f"{written(found['gain'], '+')} ({low}, {high})"


def expected(line: Line) -> Iterator[tuple[str, str]]:
    """What each cell should hold, by its heading."""
    path = ROOT / "lab" / "benchmark" / "results" / f"{MORE.get(line.group, FILES[line.file])}.json"
    views = json.loads(path.read_text("utf-8"))["views"]
    found = views[VIEWS[line.group] if line.group else next(iter(views))]["lines"][line.model]
    for heading in line.cells:
        if heading == "AUC":
            deviation = written(found["auc_std"])
            yield heading, written(found["auc"]) + (f" ± {deviation}" if deviation != ".0000" else "")
        elif heading in ("UAUC", "`request_auc`"):
            value = found.get(heading.strip("`").lower())
            yield heading, "–" if value is None else written(value)
        elif heading.startswith("gain"):
            yield heading, gain(found["gains"].get("request_auc" if "requests" in heading else "auc"))


def test_tables_hold_the_kept_results() -> None:
    shown = [line for line in lines() if line.group not in NO_RESULTS]
    wrong = [
        f"{line.file}, {line.group}, {line.model}: {line.cells[heading]}, not {value}"
        for line in shown
        for heading, value in expected(line)
        if line.cells[heading] not in (value, "–")
    ]

    assert len(shown) == 37
    assert not wrong
