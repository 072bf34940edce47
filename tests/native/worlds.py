"""Schemas, rows, requests and scores drawn at random, to hold the native core against `msd.contract`."""

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from msd.contract.correction import LearnedCorrection
from msd.contract.row_file import RowFile
from msd.contract.row_writer import write_row_file
from msd.contract.rows import RowCodec, RowContents, Rows, RowSide
from msd.contract.schema import (
    Bag,
    Categorical,
    FeatureSchema,
    Numeric,
    SchemaField,
    Semantic,
    Side,
    State,
)
from msd.contract.schema import Sequence as HistoryField
from msd.contract.segments import KNOWN, UNKNOWN_USERS, slot_name
from msd.contract.state import Impression
from native.layout import AskedRequest
from service.rows.arena import Arena

AT = 1_764_066_000.0
BUNDLE_ID = "0123456789abcdef" * 2
SIDES: tuple[RowSide, ...] = ("user", "item")
WORDS = ("a", "b", "13", "", "é", "東京", "😀", "two words", "0", "-7", "x" * 256, "\x7f")
EPOCH = 7


class World(NamedTuple):
    """A schema with rows of both sides: in files, and in arenas, where a few rows are of an earlier epoch."""

    schema: FeatureSchema
    codecs: dict[RowSide, RowCodec]
    ids: dict[RowSide, list[str]]
    paths: dict[RowSide, Path]
    rows: dict[RowSide, Rows]

    def files(self) -> dict[RowSide, RowFile]:
        """The files, of which nothing was read yet."""
        return {side: RowFile(self.paths[side], self.codecs[side], BUNDLE_ID) for side in SIDES}

    def arenas(self, random: Random) -> dict[RowSide, Arena]:
        """Arenas that hold most rows, and of most other ids that there are none."""
        arenas = {side: Arena(self.codecs[side], 10**6) for side in SIDES}
        for side, arena in arenas.items():
            for place, one in enumerate(self.ids[side]):
                if random.random() < 0.97:
                    arena.put([one], _one(self.rows[side], place), EPOCH if random.random() < 0.98 else EPOCH - 1)
            for one in strangers():
                if random.random() < 0.9:
                    arena.put([one], self.codecs[side].unpack([None]), EPOCH)
            if side == "item" and self.schema.semantic("item") and random.random() < 0.2:
                width = self.schema.semantic_width("item")
                encoded = self.codecs[side].encoded(np.ones((1, width), np.float16))
                arena.put(["encoded"], Rows(encoded, np.zeros(1, bool), (), 0), EPOCH)
        return arenas


def _one(rows: Rows, place: int) -> Rows:
    histories = (rows.histories[place],) if rows.histories else ()
    return Rows(rows.records[place : place + 1], rows.found[place : place + 1], histories, 0)


def strangers() -> list[str]:
    """Ids that have no row."""
    return ["nobody", "?", "long " * 50, "ñ"]


def draw_world(random: Random, folder: Path) -> World:
    """A world whose files are in a folder."""
    schema = draw_schema(random)
    codecs = {side: RowCodec(schema, side, BUNDLE_ID) for side in SIDES}
    ids = {side: _ids(random, side) for side in SIDES}
    paths = {side: folder / f"{side}s.rows" for side in SIDES}
    rows = {}
    for side, codec in codecs.items():
        records = codec.pack(_contents(random, schema, side, len(ids[side])), AT - random.randrange(10**6))
        histories = [draw_history(random, ids["item"]) for _ in ids[side]] if side == "user" else []
        write_row_file(paths[side], codec, BUNDLE_ID, ids[side], records, histories)
        found = np.ones(len(records), bool)
        rows[side] = Rows(records, found, tuple(map(tuple, histories)), 0)
    return World(schema, codecs, ids, paths, rows)


def draw_schema(random: Random) -> FeatureSchema:
    """Any fields on any side."""
    dim = random.choice([0, 1, 3, 8, 17, 33])
    fields: list[SchemaField] = [HistoryField(name="history", length=random.choice([1, 3, 50]))]
    sides: tuple[Side, ...] = ("user", "item", "context")
    for side in sides:
        for number in range(random.randrange(4)):
            fields.append(_value_field(random, side, f"{side}_{number}"))
        if side != "context":
            if dim and random.random() < 0.8:
                fields.append(Semantic(name=f"{side}_text", side=side, dim=dim))
            if random.random() < 0.7:
                fields.append(
                    State(
                        name=f"{side}_counts",
                        side=side,
                        prior=random.uniform(0.001, 0.9),
                        strength=random.uniform(0.1, 50),
                        half_life_s=1e6,
                        age_cap_s=random.choice([1.0, 86_400.0, 7e6]),
                    )
                )
    # A graph without anything of the candidates is none.
    fields.append(Categorical(name="item_id", side="item", is_id=True, buckets=random.choice([1, 64, 10**6])))
    return FeatureSchema(fields=tuple(fields))


def _value_field(random: Random, side: Side, name: str) -> Categorical | Bag | Numeric:
    kind = random.choice(["vocabulary", "buckets", "bag", "numeric", "numeric"])
    serving = side == "context" and random.random() < 0.2
    if serving and random.random() < 0.5:
        name += "_position"
    if kind == "numeric":
        return Numeric(
            name=name,
            side=side,
            log=random.random() < 0.5,
            mean=random.uniform(-5, 5),
            scale=random.choice([1e-300, 0.3, 12.0]),
            serving_value=2.5 if serving else None,
        )
    words = tuple(random.sample(WORDS, random.randrange(len(WORDS))))
    if kind == "vocabulary":
        return Categorical(name=name, side=side, vocabulary=words, serving_value="13" if serving else None)
    buckets = random.choice([1, 7, 2**24])
    if kind == "buckets":
        return Categorical(name=name, side=side, buckets=buckets, serving_value="a" if serving else None)
    most = random.choice([1, 2, 5])
    return (
        Bag(name=name, side=side, vocabulary=words, max_values=most)
        if random.random() < 0.5
        else Bag(name=name, side=side, buckets=buckets, max_values=most)
    )


def _ids(random: Random, side: RowSide) -> list[str]:
    plain = [f"{side[0]}{number}" for number in range(random.choice([0, 1, 3, 60]))]
    others = ["é" * 20, "東京", "i" * 256, " ", "\x7f"]
    return plain + random.sample(others, random.randrange(len(others) + 1))


def draw_history(random: Random, item_ids: Sequence[str]) -> list[Impression]:
    """Impressions of a row or a state; an item may be there twice."""
    known = [*item_ids, "gone", "é"]
    return [
        Impression(
            AT - random.choice([0.0, -60.5, 59.5, 86_400.0, 1e7, 1.7e9]),
            random.choice(known),
            random.choice([0.0, 1.0, 2.0, 9.0, 60_000.0, 0.0625]),
            random.choice([0.0, 0.0, 1.0, 3.0, 60_000.0]),
        )
        for _ in range(random.choice([0, 0, 1, 5, 60]))
    ]


def _contents(random: Random, schema: FeatureSchema, side: RowSide, count: int) -> RowContents:
    rng = np.random.default_rng(random.randrange(2**32))
    sizes = [field.size for field in schema.indexed(side) for _ in range(field.width)]
    impressions = rng.choice([0.0, 1.0, 17.0, 1e6, 3.3333], count)
    return RowContents(
        categorical=rng.integers(0, sizes, (count, len(sizes))).astype(np.int32)
        if sizes
        else np.zeros((count, 0), "i4"),
        numeric=rng.standard_normal((count, schema.numeric_width(side))).astype(np.float32),
        semantic=(rng.standard_normal((count, schema.semantic_width(side))) * rng.choice([1e-7, 1, 1e4])).astype("f4"),
        present=rng.random(count) < 0.7,
        impressions=impressions,
        clicks=impressions * rng.choice([0.0, 0.01, 1.0, 5.0], count),
        as_of=AT + rng.choice([-1e9, -86_400.0, 0.0, 60.0], count),
    )


def draw_given(random: Random, world: World, request: AskedRequest) -> tuple[Rows, Rows]:
    """Rows as a service fetches them: stale, missing, with a text's vector alone, with other counts."""
    user = _given(random, world, "user", [request.user_id])
    user = user._replace(histories=(tuple(draw_history(random, world.ids["item"])),))
    return user, _given(random, world, "item", request.wanted(user))


def _given(random: Random, world: World, side: RowSide, ids: Sequence[str]) -> Rows:
    codec, places = world.codecs[side], {one: place for place, one in enumerate(world.ids[side])}
    chances = {one: random.random() for one in ids}
    records = np.repeat(codec.missing, len(ids))
    found, stale = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
    for place, one in enumerate(ids):
        if one in places and chances[one] < 0.8:
            records[place] = world.rows[side].records[places[one]]
            found[place], stale[place] = True, chances[one] < 0.2
        elif chances[one] > 0.7 and side == "item" and (width := world.schema.semantic_width("item")):
            records[place] = codec.encoded(np.full((1, width), 0.5, np.float16))[0]
    if random.random() < 0.3:
        records["clicks"] += 0.25
        records["as_of"] -= 0.125
    return Rows(records, found, (), 0, stale if random.random() < 0.4 else None)


def draw_body(random: Random, world: World, most: int = 12) -> bytes:
    """A request: most often a good one, written in one of several ways; else something is wrong with it."""
    document = _document(random, world, most)
    if random.random() < 0.25:
        _spoil(random, document)
    separators = random.choice([(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
    body = json.dumps(document, separators=separators, ensure_ascii=random.random() < 0.3).encode("utf-8", "replace")
    return mutated(random, body) if random.random() < 0.2 else body


def _document(random: Random, world: World, most: int) -> dict[str, Any]:
    items, users = [*world.ids["item"], *strangers()], [*world.ids["user"], *strangers()]
    if random.random() < 0.1:
        items.append("encoded")
    count = random.randint(1, most)
    document: dict[str, Any] = {"user_id": random.choice(users) if random.random() < 0.9 else None}
    if random.random() < 0.8:
        document["at"] = random.choice([AT, int(AT), 0, 1e11, AT + random.random(), None])
    if random.random() < 0.6:
        document["context"] = _features(random, world.schema, "context")
    document["candidates"] = _candidates(random, items, count)
    if random.random() < 0.5:
        document["user"] = _user(random, world.schema, items)
    if random.random() < 0.3:
        document["top_k"] = random.choice([1, 2, 5, 1_000, 10**309, None])
    places = {"slot": [1, 2, 7, 255, 0, 256, 1.0, None], "page": [1, 2, 3, 4, 32, 0, 33, 2.0, None]}
    document |= {name: random.choice(values) for name, values in places.items() if random.random() < 0.2}
    if random.random() < 0.4:
        document["items"] = _described(random, world.schema, document["candidates"]["id"], items)
    if random.random() < 0.1:
        document["explain"] = random.choice([None, False, True])
    if random.random() < 0.3:
        document["explore"] = _explore(random)
    keys = list(document)
    random.shuffle(keys)
    return {key: document[key] for key in keys}


def _user(random: Random, schema: FeatureSchema, items: Sequence[str]) -> dict[str, Any] | None:
    if random.random() < 0.1:
        return None
    user: dict[str, Any] = {}
    if random.random() < 0.6:
        user["features"] = _features(random, schema, "user")
    if random.random() < 0.6:
        are_ids = random.random() < 0.5
        chosen = [random.choice(items) for _ in range(random.choice([0, 1, 5, 5, 70, 70, 1_003]))]
        user["history"] = random.choice([None, chosen if are_ids else [_shown(random, item) for item in chosen]])
    return user


def _described(
    random: Random, schema: FeatureSchema, ids: Sequence[str], items: Sequence[str]
) -> dict[str, Any] | None:
    """Features and texts, of candidates for the most part."""
    if random.random() < 0.1:
        return None
    described: dict[str, Any] = {}
    for one in ids if random.random() < 0.9 else items[: len(ids)]:
        if random.random() < 0.5:
            features = _features(random, schema, "item")
            entry: dict[str, Any] = {"text": _text(random), "features": features}
            described[one] = random.choice([None, {}, entry, entry, {"features": features}])
    return described


def _text(random: Random) -> str | None:
    if random.random() < 0.02:
        return "y" * 10_001
    return random.choice([None, "", " ", "an ad", "an ad", "é" * 10_000])


def _explore(random: Random) -> dict[str, Any] | None:
    explore: dict[str, Any] = {"policy": random.choice(["ucb", "thompson", "thompson", "uniform", "greedy"])}
    if random.random() < 0.7:
        explore["share"] = random.choice([None, 0, 1, 0.25, 1.5, -0.0])
    if random.random() < 0.7:
        explore["seed"] = random.choice([None, 0, 7, 2**53 - 1, 2**53, -1, 1.0])
    return random.choice([None, explore, explore, explore])


def _candidates(random: Random, items: Sequence[str], count: int) -> dict[str, Any]:
    candidates: dict[str, Any] = {"id": [random.choice(items) for _ in range(count)]}
    if random.random() < 0.5:
        candidates["bid"] = [random.choice([None, 0, 0.0, 0.4, 1e9, 12, 1e-9, random.random()]) for _ in range(count)]
    if random.random() < 0.3:
        candidates["pricing"] = [random.choice(["cpm", "cpc", "cpa"]) for _ in range(count)]
        if random.random() < 0.5:
            candidates["pricing"] = random.choice([None, [], ["cpc"] * count, ["cpm"] * count, ["cpc"] * (count + 1)])
    return candidates


def _shown(random: Random, item: str) -> object:
    """An entry of a request's history, in one of its forms."""
    if random.random() < 0.3:
        return item
    entry: dict[str, Any] = {"item_id": item, "clicked": random.random() < 0.4}
    if random.random() < 0.6:
        entry["at"] = random.choice([None, 0, 1e11, AT, AT - 3_600, AT - 86_400.25, AT + 60])
    keys = list(entry)
    random.shuffle(keys)
    return {key: entry[key] for key in keys}


def _features(random: Random, schema: FeatureSchema, side: Side) -> dict[str, Any] | None:
    if random.random() < 0.1:
        return None
    values: dict[str, Any] = {}
    for name, field in schema.settable[side].items():
        if random.random() < 0.7:
            values[name] = _value(random, field.kind)
    return values


def _value(random: Random, kind: str) -> object:
    if random.random() < 0.15:
        return None
    word: Any = random.choice([*WORDS, *_ODD_WORDS]) if random.random() < 0.02 else random.choice([*WORDS, 13, 0, 7])
    if kind == "categorical":
        return word
    if kind == "bag":
        return [
            random.choice([*WORDS, 13])
            for _ in range(random.choice([0, 1, 2, 3, 4, 1_001] if random.random() < 0.1 else [0, 1, 2, 3, 4]))
        ]
    return random.choice([0, 0.0, -0.0, 1, -3, 2.5, -1e300, 1e-320, 123456789012345, 10**300 + 1, random.gauss(0, 10)])


_ODD_WORDS: list[Any] = ["a\0", "\ud83d", "\ude00\ud83d", 'say "a"\n', 10**14, 2**63 - 1, 2**63, -(2**63), 1.0, True]
_ODD: list[Any] = [
    None,
    True,
    -1,
    0.5,
    -0.0,
    10**15,
    10**20,
    1e12,
    "",
    "a\0b",
    "\n",
    'say "hi"',
    "\ud800",
    "y" * 257,
    [],
    {},
    [None],
    [["a"]],
    {"a": 1},
    math.nan,
    math.inf,
]


def _spoil(random: Random, document: dict[str, Any]) -> None:
    """Puts something odd into one place, or a key that is not known."""
    inner: Any = document
    for _ in range(random.randrange(3)):
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        nested = [place for place in places if isinstance(inner[place], dict | list) and inner[place]]
        if not nested:
            break
        inner = inner[random.choice(nested)]
    if isinstance(inner, dict):
        inner[random.choice([*inner, "unknown", "features", "history", "text", "explore", "items"])] = random.choice(
            _ODD
        )
    else:
        inner[random.randrange(len(inner))] = random.choice(_ODD)


_PIECES = (
    b"\\u00e9",
    b"\\uD83D",
    b"\\ude00",
    b"\\u0000",
    b"\\/",
    b"-0",
    b"0.",
    b"e-400",
    b'"',
    b"\\",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\0",
    b"0",
    b"-",
    b"e5",
    b".5",
    b",",
    b"}",
)


def mutated(random: Random, body: bytes) -> bytes:
    """Bytes cut, doubled, changed or put in."""
    changed = bytearray(body)
    for _ in range(random.choice([1, 1, 1, 3])):
        place = random.randrange(len(changed) + 1)
        how = random.randrange(6)
        if how == 0:
            del changed[place : place + random.randrange(1, 9)]
        elif how == 1:
            changed[place:place] = random.choice(_PIECES)
        elif how == 2 and place < len(changed):
            changed[place] = random.randrange(256)
        elif how == 3:
            part = changed[place : place + random.randrange(1, 40)]
            changed[place:place] = part
        elif how == 4:
            changed += random.choice([b" ", b"\n", b"{}", b"x", b"\0"])
        else:
            del changed[place:]
    return bytes(changed)


def draw_scores(random: Random, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[count] scores as a model gives them, a few of them strange."""
    kinds = random.choices(["usual", "bits", "edge"], [8, 1, 1], k=count)
    edges = [0.0, -0.0, 1.0, 1e-5, 9.9999e-6, 1e-7, 5e-45, 0.1, 100.0, 12345.678, 1e9, 16777217.0, 123e11, 1e13, 3e38]
    values = []
    for kind in kinds:
        if kind == "usual":
            values.append(random.random())
        elif kind == "edge":
            values.append(random.choice(edges))
        else:
            values.append(struct.unpack("<f", random.getrandbits(32).to_bytes(4, "little"))[0])
    return np.array(values, np.float32)


def draw_correction(random: Random, schema: FeatureSchema, head: int = 0) -> LearnedCorrection:
    """Any correction that a file may hold."""
    fields = [field for field in schema.indexed("context") if isinstance(field, Categorical)]
    values = [f"{field.name}={value}" for field in fields for value in field.vocabulary[:20]]
    names = [KNOWN, UNKNOWN_USERS, *map(slot_name, (1, 2, 3)), "unheard=of", *values]
    drawn = random.sample(names, random.randrange(len(names)))
    return LearnedCorrection(
        centre=random.uniform(-20, 20),
        shift=random.choice([0.0, random.uniform(-1, 1)]),
        slope=random.uniform(0.5, 2),
        segments={name: random.uniform(-0.5, 0.5) for name in drawn},
        conversions=draw_correction(random, schema, 1) if not head and random.random() < 0.5 else None,
        at=0,
        impressions=0,
        clicks=0,
    )


def draw_std(random: Random, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[count] standard deviations of log-odds."""
    most = random.choice([0.01, 0.5, 3.0])
    return np.array([random.uniform(0.001, most) for _ in range(count)], np.float32)
