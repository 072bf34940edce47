"""Logs whose numbers, labels, missing values or letters are written in odd ways."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from tests.dataset.odd.world import SIDES, OddLog, Write, german, told, world

Way = Callable[[Any], object]


def text(
    frame: pl.DataFrame,
    folder: Path,
    *,
    separator: str = ",",
    encoding: str = "utf-8",
    names: dict[str, str] | None = None,
    before: str = "",
    after: str = "",
    **ways: Way,
) -> Path:
    """Write a CSV file; columns: user_id, item_id, time, clicked and the features, unless `names` has others."""
    usual = {"user": "user_id", "item": "item_id", "at": "time", "label": "clicked"} | (names or {})
    written = told(frame, **ways).rename(usual).write_csv(separator=separator)
    path = folder / "log.csv"
    path.write_bytes((before + written + after).encode(encoding))
    return path


def csv(separator: str = ",", **options: Any) -> Callable[[pl.DataFrame, Path], Path]:  # noqa: ANN401
    """A writer of CSV, with the options of `text`."""
    return partial(text, separator=separator, **options)


def with_budget() -> pl.DataFrame:
    """The world with a second number a row, of one decimal place."""
    frame = world()
    return frame.with_columns(budget=(pl.int_range(frame.height) * 37 % 240 + 5) / 10)


def with_balance() -> pl.DataFrame:
    frame = world()
    return frame.with_columns(balance=(pl.int_range(frame.height) * 37 % 401 - 200) / 4)


def with_gaps(column: str, every: int = 6, base: Callable[[], pl.DataFrame] = world) -> pl.DataFrame:
    """The world where the column is missing for one item, or row, of `every`."""
    frame = base()
    gap = pl.col("item").str.slice(1).cast(pl.Int64) % every == 0
    if column != "price":
        gap = pl.int_range(pl.len()) % every == 0
    return frame.with_columns(pl.when(~gap).then(column))


def counted_clicks(frame: pl.DataFrame, folder: Path) -> Path:
    return text(frame.with_columns(pl.col("label") * (1 + pl.int_range(pl.len()) % 3)), folder)


def spaced(value: float) -> str:
    return german(value, ",.2f").replace(".", "\u202f")


def indian(value: float) -> str:
    whole, _, part = f"{value:.2f}".partition(".")
    head, last = whole[:-3], whole[-3:]
    groups = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)][::-1]
    return f"{','.join([*groups, last])}.{part}"


def missing(word: str, way: Way = lambda value: value) -> Way:
    return lambda value: word if value is None else way(value)


comma = german
tenths = partial(german, pattern=".1f")
thousands: Way = lambda value: f"{value:,.0f}"  # noqa: E731
WHOLE = partial(world, 0, 2.0)
DEAR, CENTS = partial(world, 3, 1.218), partial(world, 2, 1.09)
BUDGET, BALANCE = (SIDES | {name: "context numeric"} for name in ("budget", "balance"))


def whole_and_budget() -> pl.DataFrame:
    return WHOLE().with_columns(with_budget()["budget"])


NUMBERS = (
    OddLog("decimal-comma-semicolon", "1,218 among semicolons", csv(";", price=comma)),
    OddLog("decimal-comma-only-thousandths", "all of 1,218 or more, semicolons", csv(";", price=comma), DEAR),
    OddLog(
        "decimal-comma-other-column",
        "tabs; 1,218 beside a column with 12,5",
        csv("\t", price=comma, budget=tenths),
        lambda: DEAR().with_columns(with_budget()["budget"]),
        BUDGET,
    ),
    OddLog("decimal-comma-leading-zero", "tabs; 0,218 among 1,218", csv("\t", price=partial(german, pattern=".3f"))),
    OddLog(
        "comma-in-doubt-decimal",
        "tabs; 1,218 and no other sign: it is 1.218",
        csv("\t", price=partial(german, pattern=".3f")),
        lambda: DEAR().filter(pl.col("price") < 1000),
        asks="decimal",
        answer=",",
    ),
    OddLog(
        "comma-in-doubt-thousands",
        "tabs; 1,218 and no other sign: it is 1218",
        csv("\t", price=thousands),
        lambda: world(0, 1_000.0).filter(pl.col("price") < 1_000_000),
        asks="decimal",
        answer=".",
    ),
    OddLog(
        "commas-beside-small", "tabs; 1,210 beside 950: decimals would be 950,000", csv("\t", price=thousands), WHOLE
    ),
    OddLog(
        "thousands-comma",
        'quoted "1,218" beside 12.5',
        csv(price=thousands, budget=lambda value: f"{value:.1f}"),
        whole_and_budget,
        BUDGET,
    ),
    OddLog("point-and-comma", "tabs; 1.218,50", csv("\t", price=partial(german, pattern=",.2f")), CENTS),
    OddLog("comma-and-point", "1,218.50", csv(price=lambda value: f"{value:,.2f}"), CENTS),
    OddLog(
        "thousands-point",
        "semicolons; 1.218 is 1218 beside 12,5",
        csv(";", price=partial(german, pattern=",.0f"), budget=tenths),
        whole_and_budget,
        BUDGET,
    ),
    OddLog(
        "semicolons-yet-points",
        "semicolons; 1.218 is 1.218 beside 12.5",
        csv(";", price=lambda value: f"{value:.3f}", budget=lambda value: f"{value:.1f}"),
        lambda: DEAR().with_columns(with_budget()["budget"]),
        BUDGET,
    ),
    OddLog(
        "point-in-doubt",
        "semicolons; 1.218 and no other sign",
        csv(";", price=lambda value: f"{value:.3f}"),
        lambda: DEAR().filter(pl.col("price") < 1000),
        asks="decimal",
        answer=".",
    ),
    OddLog("swiss", "1'218.50", csv(price=lambda value: f"{value:,.2f}".replace(",", "'")), CENTS),
    OddLog("french", "1 218,50 with narrow no-break spaces", csv(";", price=spaced), CENTS),
    OddLog("indian", "1,21,800.50", csv(price=indian), partial(world, 2, 200.0)),
    OddLog("euros", "1.218,50 €", csv(";", price=lambda value: f"{comma(value)[:-1]} €"), CENTS),
    OddLog("percent", "12,5 %", csv(";", price=lambda value: f"{german(value, '.1f')} %"), partial(world, 1, 0.2)),
    OddLog("scientific", "1,21800E+00", csv(";", price=lambda value: f"{value:.5E}".replace(".", ","))),
    OddLog(
        "minus-behind",
        "50,25-",
        csv(";", balance=lambda value: german(abs(value), ".2f") + "-" * (value < 0)),
        with_balance,
        BALANCE,
    ),
    OddLog(
        "accountants-minus",
        "(50.25)",
        csv(balance=lambda value: f"({-value:.2f})" if value < 0 else f"{value:.2f}"),
        with_balance,
        BALANCE,
    ),
    OddLog(
        "mixed-in-column",
        "12,50 and 1,218.50 in one column",
        csv(";", price=lambda value: f"{value:,.2f}" if value > 50 else german(value, ".2f")),
        CENTS,
        refused="price: '6,30' and '1,476.29'",
    ),
    OddLog(
        "two-styles",
        "tabs; 12,5 in one column, 7.5 in another, 1,218 in a third",
        csv("\t", price=partial(german, pattern=".3f"), budget=tenths, balance=lambda value: f"{value:.2f}"),
        lambda: DEAR().with_columns(with_budget()["budget"], with_balance()["balance"]).filter(pl.col("price") < 1000),
        BUDGET | BALANCE,
        asks="decimal",
        answer=",",
    ),
    OddLog(
        "points-of-a-version",
        "semicolons; 17.1 in one column, 1,218 in another",
        csv(";", price=partial(german, pattern=".3f")),
        lambda: DEAR().filter(pl.col("price") < 1000).with_columns(version=17 + pl.int_range(pl.len()) * 7 % 5 / 10),
        SIDES | {"version": "context numeric"},
        asks="decimal",
        answer=",",
    ),
)
LABELS = (
    OddLog("minus-one", "labels -1 and 1", csv(label=lambda value: 1 if value else -1)),
    OddLog("ja-nein", "labels ja and nein", csv(label=lambda value: "ja" if value else "nein")),
    OddLog("decimal-labels", "labels 1,0 and 0,0", csv(";", label=lambda value: f"{value},0", price=comma)),
    OddLog("event-words", "labels click and view", csv(label=lambda value: "click" if value else "view")),
    OddLog("true-false", "labels TRUE and FALSE", csv(label=lambda value: str(bool(value)).upper())),
    OddLog(
        "y-or-empty",
        "labels Y and nothing",
        csv(label=lambda value: "Y" if value else ""),
        refused="row 1, clicked: the value is missing",
    ),
    OddLog("one-two", "labels 1 and 2", csv(label=lambda value: 2 if value else 1), refused="clicked"),
    OddLog(
        "click-times",
        "when it was clicked, or nothing",
        csv(names={"label": "click_time"}, label=lambda value: "2024-05-09 10:00:00" if value else ""),
        refused="click_time",
    ),
    OddLog("sums-of-clicks", "labels 0 to 3", counted_clicks, refused="clicked"),
)
MISSING = (
    OddLog(
        "k.A.",
        "k.A. for a missing price",
        csv(";", price=missing("k.A.", comma)),
        partial(with_gaps, "price"),
    ),
    OddLog("dash", "- for a missing price", csv(price=missing("-")), partial(with_gaps, "price")),
    OddLog("dash-device", "- for a missing device", csv(device=missing("-")), partial(with_gaps, "device")),
    OddLog(
        "three-words",
        "n/a and \\N for missing devices and prices",
        csv("\t", price=missing("\\N"), device=missing("n/a")),
        lambda: with_gaps("price", base=partial(with_gaps, "device")),
    ),
    OddLog(
        "own-word",
        "sold out for a missing price",
        csv(price=missing("sold out")),
        partial(with_gaps, "price"),
    ),
    OddLog("minus-999", "-999 for a missing price", csv(price=missing("-999")), partial(with_gaps, "price")),
    OddLog(
        "anonymous",
        "- for who is not logged in",
        csv(user=missing("-")),
        partial(with_gaps, "user"),
        refused="user_id: the value is missing",
    ),
)


def cities(*names: str) -> pl.DataFrame:
    frame = world()
    return frame.with_columns(site=pl.Series([names[number % len(names)] for number in range(frame.height)]))


def half_converted(frame: pl.DataFrame, folder: Path) -> Path:
    path = text(frame, folder)
    path.write_bytes(path.read_bytes().replace("Zürich".encode(), "Zürich".encode("latin-1"), 1))
    return path


SITE = SIDES | {"site": "context categorical"}
GERMAN = ("Zürich", "Köln", "Düsseldorf", "Weißenfels", "Gänserndorf", "Bonn", "Görlitz", "München")


def lettered(name: str, odd: str, write: Write, *names: str, asks: str = "", answer: object = None) -> OddLog:
    """A log of sites with these names."""
    return OddLog(name, odd, write, partial(cities, *names), SITE, asks=asks, answer=answer)


def one_odd() -> pl.DataFrame:
    """The world with a single letter that is not ASCII."""
    odd = pl.when(pl.int_range(pl.len()) == 700).then(pl.lit("Ørs")).otherwise("site")
    return cities("north", "south", "east").with_columns(site=odd)


CP1252 = ("über 5 €", "für „Käufer“", "größer – 10 €", "früher…", "Äpfel", "Öl")
RUSSIAN = ("Москва", "Санкт-Петербург", "Новосибирск", "Екатеринбург", "Казань", "Нижний Новгород")
BROKEN = "row 1: holds a byte that is not UTF-8"
ENCODINGS = (
    lettered("latin-1", "Latin-1: Zürich", csv(";", encoding="latin-1", price=comma), *GERMAN),
    lettered("cp1252", "cp1252: 5 € and dashes", csv(encoding="cp1252"), *CP1252),
    lettered("utf-16", "UTF-16 with a BOM", csv("\t", encoding="utf-16"), *GERMAN),
    lettered("utf-8-bom", "UTF-8 with a BOM", csv(encoding="utf-8-sig"), *GERMAN),
    lettered("utf-16-no-bom", "UTF-16 without a BOM", csv(encoding="utf-16-le"), *GERMAN),
    lettered("cp1251", "Windows' Cyrillic: Москва", csv(encoding="cp1251"), *RUSSIAN),
    OddLog("broken-utf-8", "UTF-8 but for one row", half_converted, partial(cities, *GERMAN), SITE, refused=BROKEN),
    OddLog(
        "one-odd-byte",
        "one letter in Latin-1, and no other sign",
        csv(encoding="latin-1"),
        one_odd,
        SITE,
        asks="encoding",
        answer="latin-1",
    ),
)
