"""How a log writes numbers: the mark of its decimals, as the whole file shows it, thousands, units and signs; and its
words for what is missing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import polars as pl

from msd.dataset.problem import Doubt, InitError
from msd.dataset.table import Table

_UNITS = "€$£¥% \u00a0\u202f"
_CODE = r"^(?:EUR|USD|GBP|CHF|JPY|PLN|SEK|NOK|DKK|CZK)\b|\b(?:EUR|USD|GBP|CHF|JPY|PLN|SEK|NOK|DKK|CZK)$"
_SPACED = r"^[+-]?\d{1,3}([ '’\u00a0\u202f\u2009]\d{3})+([.,]\d+)?$"
_POWER = r"([eE][+-]?\d+)?$"
_FITS = {  # by the decimal mark; numbers between thousands' marks begin with no zero, and India groups by two
    ".": r"^[+-]?(\d+|[1-9]\d{0,2}(,\d{3})+|[1-9]\d?(,\d\d)+,\d{3}|\d*\.\d+|\d+\.|"
    r"([1-9]\d{0,2}(,\d{3})+|[1-9]\d?(,\d\d)+,\d{3})\.\d*)" + _POWER,
    ",": r"^[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+|\d*,\d+|\d+,|[1-9]\d{0,2}(\.\d{3})+,\d*)" + _POWER,
}
_OTHER = {".": ",", ",": "."}
NOTHING = (
    *("", "nan", "NaN", "NAN", "null", "NULL", "None", "N/A", "n/a", "#N/A", "<NA>", "\\N", "(not set)", "?", "-"),
    *("--", "–", "—", "k.A.", "k. A.", "k.a.", "k. a.", "keine Angabe"),
)
"""Words that no column has for a value."""
_AMONG_NUMBERS = {"na", "none", "unknown", "unbekannt", "missing", "fehlt", "n.a.", ".", "inf", "-inf", "infinity"}
_FEW, _FEW_VALUES, _MOST_WORDS = 50, 32, 4
_STANDS_FOR_NOTHING = re.compile(r"-9{3,}(\.0+)?")


class Numbers(NamedTuple):
    """A column's numbers, null where missing, and what they are in words."""

    values: pl.Series
    reason: str


@dataclass(frozen=True)
class LogTable(Table):
    """A table of a person's log, with the notation of its numbers. `given`: the decimal mark that a person named.
    `marks`: those that columns show which can be read in one way only. `gone`: by column, which words were taken for
    missing."""

    given: str | None = None
    marks: frozenset[str] = frozenset()
    gone: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, given: str | None) -> Self:
        """Return a table with its notation, and with its words for missing values as such."""
        present, gone = table.frame, dict[str, str]()
        for raw in table.frame.select(pl.col(pl.String)):
            words = raw.filter(raw.is_in(NOTHING)).value_counts()
            signs = ["-", "–", "—"] if (raw == "+").any() else []  # beside a plus, a dash is a minus
            words = words.filter(~pl.col(raw.name).is_in(signs)).sort("count", descending=True)
            if words.height:
                told = ", ".join(f"{word!r} in {count:,} rows" for word, count in words.iter_rows())
                gone[raw.name] = f"{told} is missing"
                present = present.with_columns(pl.col(raw.name).replace(dict.fromkeys(words[raw.name].to_list())))
        present = present.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
        distinct = (column.drop_nulls().unique() for column in present.select(pl.col(pl.String)))
        shown = (_mark(_bare(_voted(column)[0])) for column in distinct if _may_be_numbers(column))
        marks = frozenset(mark for mark in shown if mark in _OTHER)
        return cls(**{**vars(table), "frame": present}, given=given, marks=marks, gone=gone)

    def numbers(self, text: pl.Series) -> Numbers | None:
        """Return text as finite numbers; None if a cell holds another value. Raises Doubt if its marks have two
        readings, and nothing in the file tells which; InitError if cells have different ones."""
        if not _may_be_numbers(text):
            return None
        voted, words = _voted(text)
        bare = _bare(voted)
        mark = _mark(bare)
        if not bare.count():
            return None
        if mark is None and bool((_fits(bare, ".") | _fits(bare, ",")).all()):
            odd = [text.filter(~_fits(bare, one).fill_null(True))[0] for one in _FITS]
            raise InitError(
                f"{self.file}, {text.name}: {' and '.join(map(repr, odd))} have other marks of decimals: write all "
                f"numbers alike, or give --leave-out {text.name}"
            )
        if mark is None:
            return None
        decimal = self._decided(voted, bare) if mark == "?" else mark or "."
        plain = bare.str.replace_all(_OTHER[decimal], "", literal=True).str.replace(decimal, ".", literal=True)
        values = plain.cast(pl.Float64, strict=False)
        values = values.set(values.is_infinite(), None)
        reason = "numbers" + self._told(bare, decimal)
        if bool(text.str.contains(f"[{_UNITS}A-Z]").any()) and not bool((bare == text).all()):
            reason += ", without their unit"
        if words:
            reason += f", {' and '.join(map(repr, words))} missing"
        return Numbers(values, reason)

    def _told(self, bare: pl.Series, decimal: str) -> str:
        if not bare.drop_nulls().str.contains("[.,]").any():
            return ""
        grouped = bool(bare.drop_nulls().str.contains(_OTHER[decimal], literal=True).any())
        between = f" with {'points' if decimal == ',' else 'commas'} between thousands" if grouped else ""
        return between or (" with a decimal comma" if decimal == "," else "")

    def _decided(self, text: pl.Series, bare: pl.Series) -> str:
        """Return the decimal mark of a column that can be read in two ways."""
        if self.given:
            return self.given
        cells = bare.drop_nulls()
        marked = cells.filter(cells.str.contains("[.,]"))
        used = {mark for mark in _OTHER if marked.str.contains(mark, literal=True).any()}
        example = marked[0]
        if len(used) == 1:
            (mark,) = used
            plain = cells.filter(~cells.str.contains("[.,]"))
            whole, ends = plain.cast(pl.Float64).abs(), marked.str.ends_with("0").any()
            # Decimals are written with all zeros or with none, so that 1.250 beside 950 is one thousand.
            if plain.len() and ends and not (whole >= 1_000).any():
                return _OTHER[mark]
            if plain.len() and not ends and (whole >= 1_000).any():
                return mark
            if len(found := self.marks | self._by_separator(mark)) == 1:
                return next(iter(found))
        ways = {mark: f"{example} is {_plain(example, mark)}" for mark in (",", ".")}
        raise Doubt(
            f"{self.file}, {text.name}: {example!r} is {' or '.join(_plain(example, mark) for mark in ways)}, and "
            "nothing else in the file tells which",
            "decimal",
            ways,
        )

    def _by_separator(self, mark: str) -> set[str]:
        """Return the decimal marks that go with the file's separator: a semicolon goes with both, if points stand in
        the numbers; quoted commas among commas tell nothing."""
        if self.separator == ";":
            return {","} if mark == "," or self.marks else {",", "."}
        return {"."} if mark == "." and self.separator in ("", ",") else set()


def missing_code(values: pl.Series) -> float | None:
    """Return -999 or the like if it stands for missing: no other number is negative."""
    negative = values.filter(values < 0).unique()
    if negative.len() != 1 or int((values < 0).sum()) < 2 or negative.len() == values.drop_nulls().n_unique():
        return None
    return float(negative[0]) if _STANDS_FOR_NOTHING.fullmatch(f"{negative[0]:g}") else None


def _may_be_numbers(text: pl.Series) -> bool:
    """Return whether the first cells with digits are numbers: most columns need no further look."""
    cells = text.drop_nulls().head(_FEW)
    cells = cells.filter(cells.str.contains(r"\d"))
    return not cells.is_empty() and bool((_fits(_bare(cells), ".") | _fits(_bare(cells), ",")).all())


def _fits(bare: pl.Series, mark: str) -> pl.Series:
    return bare.str.contains(_FITS[mark])


def _voted(text: pl.Series) -> tuple[pl.Series, list[str]]:
    """Return the column without words for missing values among numbers, if most of it is numbers, and those words."""
    distinct = text.drop_nulls().unique()
    has_digits = distinct.str.contains(r"\d")
    words = distinct.filter(~has_digits).to_list()
    known = {word.strip().lower() for word in words} <= _AMONG_NUMBERS
    # Beside few values, an unknown word may be one of a category, as "one size" is.
    if not words or len(words) > _MOST_WORDS or not (known or has_digits.sum() > _FEW_VALUES):
        return text, []
    kept = text.set(text.is_in(words).fill_null(False), None)
    return (kept, sorted(words)) if kept.count() * 2 > text.count() else (text, [])


def _bare(text: pl.Series) -> pl.Series:
    """Return cells without units, with the minus in front, and without spaces or apostrophes between thousands."""
    bare = text.str.replace("−", "-", literal=True).str.replace(_CODE, "").str.strip_chars(_UNITS)
    bare = bare.str.replace(r"^\((.*\d.*)\)$", "-$1").str.replace(r"^([^-]*\d)-$", "-$1")
    spaced = bare.str.contains(_SPACED)
    return bare if not spaced.any() else bare.str.replace_all("[ '’\u00a0\u202f\u2009]", "").zip_with(spaced, bare)


def _mark(bare: pl.Series) -> str | None:
    """Return the decimal mark by which all cells are numbers, "" if none has a mark, "?" if both are possible; None if
    they are no numbers."""
    cells = bare.drop_nulls().unique()
    fitting = [mark for mark in _FITS if bool(_fits(cells, mark).all())]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    return "?" if bool(cells.str.contains("[.,]").any()) else ""


def _plain(cell: str, decimal: str) -> str:
    return cell.replace(_OTHER[decimal], "").replace(decimal, ".")
