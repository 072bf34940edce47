"""Small real bundles for tests: every kind of field, a ranker without torch that depends on every input, real rows,
and goldens made by running that ranker. `build_bundle(folder)` is all that other tests need."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
from numpy.typing import NDArray

from msd.contract.bundle import (
    ENCODER,
    GOLDENS,
    RANKER,
    RANKER_INT8,
    ROWS,
    TOKENIZER,
    Bundle,
    Manifest,
    bundle_id_of,
    file_entries,
    new_bundle,
    open_bundle,
    tolerance_key,
    write_manifest,
)
from msd.contract.encode import Value, canonical
from msd.contract.encoder_record import EncoderRecord, Probe
from msd.contract.golden import Golden, GoldenEvent, write_goldens
from msd.contract.row_file import RowFile
from msd.contract.row_writer import write_row_file
from msd.contract.rows import RowCodec, RowContents, RowSide
from msd.contract.schema import (
    Bag,
    Categorical,
    FeatureSchema,
    Numeric,
    Semantic,
    State,
)
from msd.contract.schema import (
    Sequence as HistoryField,
)
from msd.contract.state import Impression
from msd.contract.tensors import Tensors
from native.bundle_rows import BundleRows
from native.columns import encode_side
from tests.bundles.encoder_graph import build_encoder, build_tokenizer, encode_alone
from tests.bundles.ranker_graph import Recipe, build_ranker


def has_bf16() -> bool:
    """Asks OpenVINO."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


AT = 1_764_066_000.0
USERS = 20
ITEMS = 300
_DIM = 8
_SIDES: tuple[RowSide, ...] = ("user", "item")


def example_schema() -> FeatureSchema:
    """Every kind of field on every side that it can be on."""
    return FeatureSchema(
        fields=(
            Categorical(name="user_id", side="user", is_id=True, buckets=64),
            Categorical(name="gender", side="user", vocabulary=("f", "m")),
            Bag(name="interests", side="user", vocabulary=("cars", "food", "games"), max_values=3),
            Numeric(name="age", side="user", mean=35.0, scale=12.0),
            HistoryField(name="history", length=6),
            Semantic(name="user_text", side="user", dim=_DIM),
            _counts("user_counts", "user"),
            Categorical(name="item_id", side="item", is_id=True, vocabulary=tuple(f"i{n}" for n in range(ITEMS))),
            Categorical(name="category", side="item", vocabulary=("books", "games", "travel")),
            Bag(name="genres", side="item", buckets=16, max_values=2),
            Numeric(name="price", side="item", log=True, mean=2.0, scale=1.5),
            Semantic(name="item_text", side="item", dim=_DIM),
            _counts("item_counts", "item"),
            Categorical(name="hour", side="context", vocabulary=tuple(str(hour) for hour in range(24))),
            Categorical(name="device", side="context", buckets=8),
            Categorical(name="position", side="context", vocabulary=("1", "2", "3"), serving_value="1"),
            Numeric(name="temperature", side="context", mean=15.0, scale=10.0),
        ),
        item_text="{title}",
    )


def _counts(name: str, side: RowSide) -> State:
    return State(name=name, side=side, prior=0.1, strength=20.0, half_life_s=2_592_000.0, age_cap_s=7_776_000.0)


def build_bundle(folder: Path, recipe: Recipe | None = None) -> Bundle:
    """Writes a bundle of users `u0` … `u19` and items `i0` … `i299`, and opens it."""
    recipe = recipe or Recipe()
    schema = example_schema()
    with new_bundle(folder) as temporary:
        model = build_ranker(schema, recipe)
        graph = model.SerializeToString()
        (temporary / RANKER).write_bytes(graph)
        if recipe.int8:
            from model_export.precision.int8 import quantise  # with onnx, which few bundles need

            (temporary / RANKER_INT8).write_bytes(quantise(graph, some_tensors(schema)))
        encoder = _write_encoder(temporary, recipe) if recipe.encoder else None
        entries = file_entries(temporary)
        bundle_id = bundle_id_of(schema, {name: entries[name].sha256 for name in (RANKER, ENCODER) if name in entries})
        for side in _SIDES:
            _write_rows(temporary, schema, side, USERS if side == "user" else ITEMS, bundle_id)
        write_goldens(temporary / GOLDENS, _goldens(temporary, schema, bundle_id, model))
        manifest = Manifest(
            bundle_id=bundle_id,
            model_version=f"test-{recipe.seed}",
            created_at=AT,
            feature_schema=schema,
            heads=recipe.heads,
            files=file_entries(temporary),
            tolerances={tolerance_key("onnxruntime", "cpu", "fp32"): 1e-5},
            calibration={},
            metrics={"auc": 0.75},
            provenance={"made_by": "tests"},
            encoder=encoder,
            uncertainty=recipe.uncertainty,
        )
        write_manifest(temporary, manifest)
    return open_bundle(folder)


def _write_encoder(folder: Path, recipe: Recipe) -> EncoderRecord:
    graph, tokenizer = build_encoder(_DIM, recipe.seed), build_tokenizer()
    (folder / ENCODER).write_bytes(graph)
    tokenizer.save(str(folder / TOKENIZER))
    probes = [
        Probe(text=text, vector=tuple(map(float, encode_alone(graph, tokenizer, text))))
        for text in ("a tent", "Ein Café in São Paulo, 東京 ☕", "far too long " * 20)
    ]
    return EncoderRecord(tolerance=1e-3, probes=tuple(probes), cold_ads=recipe.cold_ads)


def some_tensors(schema: FeatureSchema) -> list[Tensors]:
    """Of a few requests, to take scales from."""
    rng = np.random.default_rng(9)
    return [
        {
            spec.name: np.zeros((50 if spec.side == "item" else 1, *spec.shape), np.int32)
            if spec.dtype == "int32"
            else rng.standard_normal((50 if spec.side == "item" else 1, *spec.shape)).astype(np.float32)
            for spec in schema.tensors
        }
        for _ in range(4)
    ]


def _write_rows(folder: Path, schema: FeatureSchema, side: RowSide, count: int, bundle_id: str) -> None:
    """Rows with known, unknown and missing values; every fifth has no vector, every seventh user no history."""
    rng = np.random.default_rng(7 if side == "user" else 8)
    codec = RowCodec(schema, side, bundle_id)
    ids = [f"{side[0]}{number}" for number in range(count)]
    columns = _columns(schema, side, ids, rng)
    categorical, numeric = encode_side(schema, side, columns, count)
    impressions = rng.integers(0, 500, count).astype(np.float64)
    contents = RowContents(
        categorical=categorical,
        numeric=numeric,
        semantic=rng.standard_normal((count, _DIM)).astype(np.float32),
        present=np.arange(count) % 5 != 4,
        impressions=impressions,
        clicks=np.floor(impressions * rng.uniform(0, 0.3, count)),
        as_of=np.full(count, AT - 86_400.0),
    )
    histories = [
        [
            Impression(AT - 86_400.0 * (9 - order), f"i{place}", 1.0 + place % 3, float(order % 2))
            for order, place in enumerate(rng.integers(0, ITEMS, 3 + number % 9 if number % 7 else 0).tolist())
        ]
        for number in range(count)
    ]
    records = codec.pack(contents, AT)
    write_row_file(folder / ROWS[side], codec, bundle_id, ids, records, histories if side == "user" else [])


def _columns(
    schema: FeatureSchema, side: RowSide, ids: Sequence[str], rng: np.random.Generator
) -> dict[str, list[Value]]:
    raw: dict[str, Sequence[object]] = {
        "user_id": ids,
        "item_id": ids,
        "gender": rng.choice(["f", "m", "x"], len(ids)).tolist(),
        "interests": [list(rng.choice(["cars", "food", "games", "?"], number % 4)) for number in range(len(ids))],
        "age": [None if number % 6 == 0 else float(18 + number) for number in range(len(ids))],
        "category": [(None, "books", "games", "travel", "?")[number % 5] for number in range(len(ids))],
        "genres": [["g1", f"g{number % 9}"] for number in range(len(ids))],
        "price": [None if number % 8 == 0 else float(number) for number in range(len(ids))],
    }
    fields: Mapping[str, Any] = {field.name: field for field in (*schema.indexed(side), *schema.numerics(side))}
    return {name: [canonical(field, _plain(value)) for value in raw[name]] for name, field in fields.items()}


def _plain(value: object) -> object:
    return [str(one) for one in value] if isinstance(value, list) else value


UNCLICKED = {"item_id": "i6", "clicked": False, "at": AT - 3_600}
"""An entry of a request's history."""


def golden_requests() -> list[dict[str, Any]]:
    """Requests that take every way through the merge: stored, unknown, overridden, with and without history."""
    return [
        {
            "user_id": "u1",
            "at": AT,
            "context": {"hour": 13, "device": "ios", "temperature": 21.5},
            "candidates": {"id": ["i1", "i2", "i3", "i250"], "bid": [0.4, 1.2, None, 0.7]},
        },
        {"user_id": "u7", "at": AT, "candidates": {"id": ["i9"]}},
        {"user_id": "nobody", "at": AT, "context": {"hour": "5"}, "candidates": {"id": ["i4", "nothing", "i4"]}},
        {
            "user_id": "stranger",
            "at": AT,
            "context": {"device": "never seen", "temperature": None},
            "candidates": {"id": ["i5", "new ad"], "bid": [1.0, 2.0]},
            "user": {
                "features": {"gender": "f", "age": 44, "interests": ["cars"]},
                "history": [*["i8"] * 9, "?", "i9", UNCLICKED],
            },
            "items": {"new ad": {"features": {"category": "games", "price": 9.5}}, "i5": {"features": {"genres": []}}},
            "top_k": 1,
        },
        {"user_id": "u2", "at": AT, "candidates": {"id": [f"i{number}" for number in range(200)]}},
    ]


def golden_events() -> list[GoldenEvent]:
    """What the user of the first request did since: was shown an ad, clicked it, was shown another."""
    seen = (("i2", 300, False), ("i2", 295, True), ("i250", 20, False))
    return [GoldenEvent(item_id=item_id, at=AT - age_s, is_click=is_click) for item_id, age_s, is_click in seen]


def _goldens(folder: Path, schema: FeatureSchema, bundle_id: str, model: onnx.ModelProto) -> list[Golden]:
    """One for each request, and the first again after events."""
    files = (RowFile(folder / ROWS[side], RowCodec(schema, side, bundle_id), bundle_id) for side in _SIDES)
    rows = BundleRows(schema, *files)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    heads = [output.name for output in session.get_outputs()]
    goldens = []
    for document, events in [*((one, []) for one in golden_requests()), (golden_requests()[0], golden_events())]:
        golden = rows.golden(document).model_copy(update={"events": tuple(events)})
        tensors = rows.tensors(golden)
        scores: list[NDArray[np.float32]] = session.run(heads, tensors)
        expected = {head: [float(x) for x in column] for head, column in zip(heads, scores, strict=True)}
        goldens.append(golden.model_copy(update={"expected": expected}))
    return goldens


def reseal(folder: Path, **changes: object) -> None:
    """Rewrites a bundle's manifest with some entries changed and its hashes made right again."""
    document = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest = Manifest.model_validate({**document, "files": file_entries(folder), **changes})
    write_manifest(folder, manifest)
