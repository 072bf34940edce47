"""Pages hold what was known before, and what came after as labels."""

from pathlib import Path

import polars as pl
import pytest

from msd.contract.errors import MsdError
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.savings.pages import pages_of
from tests.dataset.tiny import write_tiny_dataset

CONTEXT = ["device", "hour"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset"))


def test_a_page_tells_what_was_met_and_knows_nothing_of_it_before(dataset: Dataset) -> None:
    events = dataset.events.with_columns(part=pl.Series(split_events(dataset.events, dataset.config)))

    for page in pages_of(dataset, CONTEXT, users=5, candidates=30):
        own = events.filter(pl.col("user_id") == page.user_id)
        test = {item: label for item, label in own.filter(pl.col("part") == Part.TEST)["item_id", "label"].iter_rows()}
        assert [test[item] for item in page.items[: len(page.labels)]] == page.labels
        assert not set(page.items[len(page.labels) :]) & set(own["item_id"])
        assert len(set(page.items)) == len(page.items)
        clicked = own.filter((pl.col("label") == 1) & (pl.col("at") < page.at))["item_id"].to_list()
        assert page.liked == clicked[-10:]
        assert page.at == own.filter(pl.col("part") == Part.TEST)["at"].min()
        assert set(page.request(3)["context"]) == {"device", "hour"}
        assert page.request(3)["candidates"] == {"id": page.items[:3]}


def test_the_same_seed_gives_the_same_pages(dataset: Dataset) -> None:
    assert pages_of(dataset, CONTEXT, 3, 20, seed=1) == pages_of(dataset, CONTEXT, 3, 20, seed=1)
    assert pages_of(dataset, CONTEXT, 3, 20, seed=1) != pages_of(dataset, CONTEXT, 3, 20, seed=2)


def test_users_of_few_events_are_told_of(tmp_path: Path, dataset: Dataset) -> None:
    few = Dataset(
        dataset.config,
        tmp_path,
        dataset.events.group_by("user_id", maintain_order=True).head(20),
        dataset.items,
        dataset.users,
        dataset.fingerprint,
    )

    with pytest.raises(MsdError, match="no user has 5 events in the test part"):
        pages_of(few, CONTEXT, 3, 20)
