"""What the core makes of rows files that are damaged, shared with Python, or not as they should be; and of hostile
arguments: an error, or rows that Python has to fetch, never a crash."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import native
from msd.contract.bundle import ROWS
from msd.contract.pricing import PRICED
from msd.contract.request import InvalidRequest, parse_request
from msd.contract.row_file import RowFile
from msd.contract.row_writer import write_row_file
from msd.contract.rows import ROW_SIDES, RowCodec, RowSide
from msd.contract.schema import MAX_HISTORY, Bag, Categorical, FeatureSchema, Sequence
from native.layout import core_model, core_rows, core_schema, fetched_rows, new_tensors
from native.live_state import begin
from tests.bundles.factory import build_bundle
from tests.contract.examples import clicked
from tests.native import corpus
from tests.native.comparison import Pair
from tests.native.observed import CAPACITY, FILLED, LACKING, UNREAD, CoreOfWorld
from tests.native.worlds import AT, draw_world

assert native.core is not None, "tests of the core are collected where it is built"
core = native.core
SERVED = core_model("v", PRICED, 0.0)
BODY = b'{"user_id": "u1", "candidates": {"id": ["i1", "i2", "unknown"]}}'


class Loaded:
    """A bundle's rows in the core, over files that Python reads too."""

    def __init__(self, folder: Path) -> None:
        bundle = build_bundle(folder)
        self.codecs: dict[RowSide, RowCodec] = {
            side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in ROW_SIDES
        }
        self.files = {side: RowFile(bundle.path(ROWS[side]), self.codecs[side], bundle.bundle_id) for side in ROW_SIDES}
        self.bundle = bundle
        self.frame = core.Frame(
            core_schema(bundle.schema, self.codecs),
            SERVED,
            new_tensors(bundle.schema, CAPACITY),
            CAPACITY,
        )

    def fill(self) -> "core.FillResult":
        rows = core_rows(self.files["user"].memory()), core_rows(self.files["item"].memory())
        return self.frame.take(BODY, CAPACITY, *rows, AT)


def damage(path: Path, base: int, blocks: int) -> None:
    """Change the first byte of each block."""
    data = bytearray(path.read_bytes())
    for block in range(blocks):
        data[base + 4_096 * block] ^= 1
    with path.open("r+b") as file:
        file.write(data)


@pytest.mark.parametrize("change", [damage, lambda path, base, blocks: os.truncate(path, 100)], ids=["damaged", "cut"])
def test_rows_of_a_changed_file_are_lacking(change: Callable[[Path, int, int], None], tmp_path: Path) -> None:
    loaded = Loaded(tmp_path / "bundle")
    memory = loaded.files["item"].memory()
    change(loaded.bundle.path(ROWS["item"]), memory.base, len(memory.proved))

    assert loaded.fill() == LACKING


def test_rows_of_an_earlier_connection_are_not_sure(tmp_path: Path) -> None:
    world = draw_world(Random(2), tmp_path)
    arenas = world.arenas(Random(1))
    frame = core.Frame(core_schema(world.schema, world.codecs), SERVED, new_tensors(world.schema, CAPACITY), CAPACITY)
    body = b'{"user_id": "nobody", "candidates": {"id": ["nobody"]}}'
    users, items = (arenas[side].core() for side in ROW_SIDES)

    assert frame.take(body, CAPACITY, users, items, AT, (), None, False, False) == LACKING
    assert frame.take(body, CAPACITY, users, items, AT, (1, 2), None, False, False) == LACKING


SECTIONS = {
    "body": bytearray(4_096),
    "proved": bytearray(1),
    "checksums": bytes(4),
    "descriptor": 0,
    "base": 0,
    **dict.fromkeys(("starts", "row_starts", "rows"), (0, 8)),
    **dict.fromkeys(("seed", "count", "start_bytes", "record_size"), 1),
    "width": 8,
}


@pytest.mark.parametrize(
    "changes",
    [
        dict.fromkeys(SECTIONS),
        {"body": bytes(4_096)},
        {"proved": bytearray(0)},
        {"checksums": bytes(3)},
        dict.fromkeys(("starts", "row_starts", "rows"), (4_000, 97)),
        dict.fromkeys(("starts", "row_starts", "rows"), (2**63, 2**63)),
        {"count": 2**40, "start_bytes": 4, "record_size": 8},
        {"width": 0},
        {"rows": ((0, 8), (0, 8))},
        {"seed": -1},
    ],
)
def test_sections_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, BufferError)):
        core.RowFile(**{**SECTIONS, **changes})


@pytest.mark.parametrize(("count", "is_read"), [(1_000, True), (1_001, False)])
def test_refuses_list_of_more_than_1000_values(count: int, is_read: bool) -> None:
    schema = FeatureSchema(
        fields=(
            Categorical(name="item_id", side="item", is_id=True, buckets=64),
            Sequence(name="history", length=3),
            Bag(name="tags", side="context", buckets=8, max_values=2),
        )
    )
    codecs = {side: RowCodec(schema, side, "0" * 32) for side in ROW_SIDES}
    frame = core.Frame(core_schema(schema, codecs), SERVED, new_tensors(schema, CAPACITY), CAPACITY)
    request = {"user_id": "u1", "context": {"tags": ["a"] * count}, "candidates": {"id": ["i1"]}}

    assert bool(frame.read(json.dumps(request).encode(), CAPACITY)) is is_read
    if not is_read:
        with pytest.raises(InvalidRequest, match="1000"):
            parse_request(json.dumps(request).encode(), schema)


def test_buffers_that_are_too_small_are_refused(tmp_path: Path) -> None:
    world = draw_world(Random(0), tmp_path)
    schema = core_schema(world.schema, world.codecs)
    tensors = new_tensors(world.schema, CAPACITY)
    with pytest.raises(ValueError, match="smaller"):
        core.Frame(schema, SERVED, tensors, CAPACITY + 1)
    with pytest.raises(KeyError):
        core.Frame(schema, SERVED, {}, CAPACITY)
    with pytest.raises(TypeError):
        core.Frame(object(), SERVED, tensors, CAPACITY)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        core.Frame(schema, object(), tensors, CAPACITY)  # type: ignore[arg-type]


def test_invalid_request_or_rows_are_refused(tmp_path: Path) -> None:
    loaded = Loaded(tmp_path / "bundle")
    rows = [core_rows(loaded.files[side].memory()) for side in ROW_SIDES]
    assert not loaded.frame.read(b"{", CAPACITY)
    for arguments in (
        (BODY, CAPACITY, *rows),
        (BODY, CAPACITY, loaded.frame, rows[1], AT, None, None, False, False),
        (BODY, CAPACITY, *rows, "now", None, None, False, False),
        ("text", CAPACITY, *rows, AT, None, None, False, False),
        (BODY, CAPACITY, rows[0], core.FetchedRows(b"", b""), AT),
    ):
        with pytest.raises(TypeError):
            loaded.frame.take(*arguments)  # type: ignore[arg-type]
    assert loaded.fill() == FILLED
    with pytest.raises(ValueError, match="smaller"):
        loaded.frame.reply("r", None, {"pctr": np.zeros(2, np.float32)}, 3, [], [])


def test_given_rows_that_are_not_those_wanted_are_lacking(tmp_path: Path) -> None:
    loaded = Loaded(tmp_path / "bundle")
    users, items = loaded.codecs["user"].unpack([None]), loaded.codecs["item"].unpack([None] * 3)
    for user, count in ((users, 2), (users, 0), (loaded.codecs["user"].unpack([None] * 2), 3)):
        few = items._replace(records=items.records[:count], found=items.found[:count])
        given = fetched_rows(user), fetched_rows(few)
        assert loaded.frame.take(BODY, CAPACITY, *given, AT) == LACKING
    short = fetched_rows(users), fetched_rows(items._replace(found=items.found[:2]))
    with pytest.raises(ValueError, match="smaller"):
        loaded.frame.take(BODY, CAPACITY, *short, AT)


@pytest.mark.parametrize(("count", "outcome"), [(MAX_HISTORY, FILLED), (MAX_HISTORY + 1, LACKING)])
def test_history_of_a_state_or_a_row_is_bounded(
    count: int, outcome: "core.FillResult", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the core does not take, Python sees, and counts as damaged."""
    seen = clicked(*(f"i{place}" for place in range(count)))
    state = begin(1.0, 1.0, AT + 1, seen).pack()
    loaded = Loaded(tmp_path / "bundle")
    rows = core_rows(loaded.files["user"].memory()), core_rows(loaded.files["item"].memory())
    live = core.LiveStates(
        user=state,
        items=[None] * 3,
        stream=None,
        lag_s=900.0,
        user_half_life_s=1.0,
        item_half_life_s=1.0,
        unknown=None,
    )
    assert loaded.frame.take(BODY, CAPACITY, *rows, AT, None, lambda *_: live, False, False) == outcome

    monkeypatch.setattr("msd.contract.rows.MAX_HISTORY", count)  # as another's program may pack it
    codec, path = loaded.codecs["user"], tmp_path / "users.rows"
    write_row_file(path, codec, loaded.bundle.bundle_id, ["u1"], codec.missing, [seen])
    monkeypatch.undo()
    file = RowFile(path, codec, loaded.bundle.bundle_id)
    assert loaded.frame.take(BODY, CAPACITY, core_rows(file.memory()), rows[1], AT) == outcome
    assert file.get(["u1"]).damaged == (outcome == LACKING)


WORLDS, REQUESTS = 10, 30
_EVERY = 5


@pytest.mark.parametrize("is_file", [True, False], ids=["files", "arenas"])
def test_drawn_requests_are_equal_and_most_good_ones_are_filled(is_file: bool, tmp_path: Path) -> None:
    outcomes = []
    for seed in range(WORLDS):
        random = Random(seed)
        pair = Pair(CoreOfWorld(draw_world(random, tmp_path), random, is_file))
        outcomes += [pair.compare(random) for _ in range(REQUESTS)]

    # Half of them are spoilt on purpose.
    assert outcomes.count(FILLED) > 0.15 * WORLDS * REQUESTS
    assert outcomes.count(LACKING) > 0.01 * WORLDS * REQUESTS
    assert outcomes.count(UNREAD) > 0.1 * WORLDS * REQUESTS


def test_requests_of_the_corpus_are_what_they_were() -> None:
    known = corpus.known_digests()
    assert len(known) == corpus.REQUESTS
    for number, world, _, observed in corpus.entries(every=_EVERY):
        assert observed.digest() == known[number], (world, number, observed.body)


def test_values_beyond_a_bags_width_are_not_looked_up() -> None:
    """They would be unknown."""
    schema = FeatureSchema(
        fields=(
            Categorical(name="item_id", side="item", is_id=True, buckets=64),
            Sequence(name="history", length=3),
            Bag(name="tags", side="context", vocabulary=("a", "b"), max_values=2),
        )
    )
    codecs = {side: RowCodec(schema, side, "0" * 32) for side in ROW_SIDES}
    frame = core.Frame(core_schema(schema, codecs), SERVED, new_tensors(schema, CAPACITY), CAPACITY)
    given = fetched_rows(codecs["user"].unpack([None])), fetched_rows(codecs["item"].unpack([None]))
    for tags, places in ((["a", "b", *["x"] * 998], []), (["a", "x"], ["context.tags"])):
        body = json.dumps({"user_id": "u1", "context": {"tags": tags}, "candidates": {"id": ["i1"]}}).encode()
        assert frame.take(body, CAPACITY, *given, AT) == FILLED
        reply = json.loads(frame.reply("r", None, {"pctr": np.zeros(1, np.float32)}, 1, [], []))
        assert list(reply["degraded"].get("values", {})) == places
