"""Every id has its row, those that only the events know as well, and the last row stands for all others."""

import numpy as np

from msd.contract.encode import MISSING_INDEX, UNKNOWN_INDEX
from msd.dataset.load import Dataset
from msd.ranker.schema_fit import fit_schema
from msd.ranker.timeline import encode_entities
from tests.ranker.made import Columns, dataset_of

ROWS = [("u", "known" if n % 2 else "shown", 100 * n, n % 2) for n in range(10)]
ITEMS: Columns = {"item_id": ["known", "never"], "genre": ["x", "y"], "price": [2.0, None]}
FEATURES = [
    {"name": "genre", "side": "item", "kind": "categorical"},
    {"name": "price", "side": "item", "kind": "numeric"},
]


def _made() -> Dataset:
    return dataset_of(ROWS, items=ITEMS, features=FEATURES)


def test_ids_of_the_table_come_first_then_those_of_the_events() -> None:
    items = encode_entities(_made(), fit_schema(_made()), "item")
    assert items.ids == ["known", "never", "shown"]
    assert items.place == {"known": 0, "never": 1, "shown": 2}
    assert items.unknown == 3
    assert len(items.categorical) == len(items.numeric) == 4
    users = encode_entities(_made(), fit_schema(_made()), "user")
    assert users.ids == ["u"]


def test_an_id_that_only_events_know_has_its_own_embedding_and_missing_features() -> None:
    schema = fit_schema(_made())
    items = encode_entities(_made(), schema, "item")
    id_column, genre = schema.columns["item_id"].start, schema.columns["genre"].start
    assert items.categorical[:, id_column].tolist()[:2] == [2, UNKNOWN_INDEX]
    assert items.categorical[2, id_column] == 3
    assert items.categorical[:, genre].tolist() == [2, UNKNOWN_INDEX, MISSING_INDEX, MISSING_INDEX]
    assert items.numeric[:, 1].tolist() == [0.0, 1.0, 1.0, 1.0]


def test_the_last_row_is_missing_throughout(tiny: Dataset) -> None:
    schema = fit_schema(tiny)
    for side in ("user", "item"):
        entities = encode_entities(tiny, schema, side)
        assert not entities.categorical[entities.unknown].any()
        assert entities.numeric[entities.unknown].tolist() == [0.0, 1.0] * (schema.numeric_width(side) // 2)


def test_places_find_the_rows_of_events(tiny: Dataset) -> None:
    items = encode_entities(tiny, fit_schema(tiny), "item")
    places = items.places(tiny.events["item_id"])
    assert places.dtype == np.int32
    assert [items.ids[place] for place in places] == tiny.events["item_id"].to_list()
