"""Made worlds: laws are calibrated, seeds reproduce, no scorer earns more than the law, and every log loads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lab.worlds.law import DAY_S, Law
from lab.worlds.log import truth_of, write_world
from lab.worlds.made import MadeWorld, make_world
from lab.worlds.recipe import RECIPES, WorldError, recipe_of
from msd.dataset.load import load_dataset
from msd.dataset.split import Part, split_events
from msd.metrics import roc_auc

ROWS = 4_000


@pytest.fixture(scope="module")
def worlds() -> dict[str, MadeWorld]:
    return {name: make_world(recipe.smaller(ROWS)) for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_truth_is_the_click_rate(worlds: dict[str, MadeWorld], name: str) -> None:
    """Of all rows, and of the quarters by truth: within four standard errors."""
    world = worlds[name]
    humans = ~world.law.users.bot[world.shown.user]
    assert world.truth[humans].mean() == pytest.approx(world.recipe.rate, rel=1e-6)
    order = np.argsort(world.truth)
    for rows in (order, *np.array_split(order, 4)):
        truth, clicks = world.truth[rows], world.clicks[rows]
        error = np.sqrt((truth * (1 - truth)).sum()) / len(truth)
        assert abs(truth.mean() - clicks.mean()) < 4 * error


@pytest.mark.parametrize("name", RECIPES)
def test_seed_reproduces_world_and_auctions(worlds: dict[str, MadeWorld], name: str) -> None:
    again, other = (make_world(worlds[name].recipe, seed) for seed in (0, 1))

    assert all(np.array_equal(one, two) for one, two in zip(again.shown, worlds[name].shown, strict=True))
    assert np.array_equal(again.clicks, worlds[name].clicks)
    assert not np.array_equal(other.clicks, again.clicks)
    first, second = (world.auctions(50) for world in (again, worlds[name]))
    assert np.array_equal(first.bids, second.bids)
    assert np.array_equal(first.chances, second.chances)
    assert not np.array_equal(first.chances, again.auctions(50, seed=1).chances)


@pytest.mark.parametrize("name", RECIPES)
def test_no_scorer_earns_more_than_the_law(worlds: dict[str, MadeWorld], name: str) -> None:
    auctions, rng = worlds[name].auctions(200), np.random.default_rng(0)
    law = auctions.paid.ravel()
    others = [np.ones_like(law), 1 - law, rng.random(len(law)), law * rng.lognormal(0.0, 0.3, len(law))]

    for places in (1, 4):
        best = auctions.revenue(law, places)
        assert all(auctions.revenue(scores, places) < best for scores in others)
    assert auctions.revenue(law, 4) > auctions.revenue(law)
    assert auctions.revenue(2 * law) == auctions.revenue(law)
    clicks = auctions.chances.ravel()
    assert auctions.within_auc(clicks) == max(auctions.within_auc(scores) for scores in [clicks, *others])


def test_within_auc_is_the_mean_over_drawn_clicks(worlds: dict[str, MadeWorld]) -> None:
    auctions, rng = worlds["segments"].auctions(200), np.random.default_rng(0)
    scores = auctions.chances * rng.lognormal(0.0, 0.5, auctions.chances.shape)
    right, pairs = 0.0, 0
    for _ in range(20):
        clicks = rng.random(auctions.chances.shape) < auctions.chances
        for clicked, found in zip(clicks, scores, strict=True):
            if 0 < (count := int(clicked.sum()) * int((~clicked).sum())):
                right += count * roc_auc(clicked.astype(np.float64), found)
                pairs += count

    assert auctions.within_auc(scores.ravel()) == pytest.approx(right / pairs, abs=0.01)


@pytest.mark.parametrize("name", RECIPES)
def test_log_loads_as_a_dataset(worlds: dict[str, MadeWorld], tmp_path: Path, name: str) -> None:
    written = write_world(tmp_path / name, worlds[name].recipe)
    data = load_dataset(tmp_path / name)
    parts = split_events(data.events, data.config)

    assert data.events.height == len(written.truth)
    assert {Part.TRAIN, Part.VALID, Part.TEST} <= set(parts.tolist())
    assert roc_auc(data.events["label"].to_numpy().astype(np.float64), truth_of(data)) > 0.65
    assert set(data.events["item_id"]) <= set(data.items["item_id"])
    assert set(data.events["user_id"]) <= set(data.users["user_id"])
    if written.recipe.by_time:
        at = data.events["at"].to_numpy()
        assert at[parts == Part.TRAIN].max() < at[parts == Part.VALID].min()
        assert at[parts == Part.VALID].max() < at[parts == Part.TEST].min()


def test_truth_is_in_the_order_of_events(worlds: dict[str, MadeWorld], tmp_path: Path) -> None:
    """Each row's truth is the law's of its own user, ad and slot."""
    world = write_world(tmp_path / "position", worlds["position"].recipe)
    data = load_dataset(tmp_path / "position")
    rows = zip(world.shown.user, world.shown.ad, world.shown.at, world.shown.slot, world.truth, strict=True)
    known = {(f"u{user}", f"i{ad}", at, str(slot + 1)): truth for user, ad, at, slot, truth in rows}
    found = data.events.select("user_id", "item_id", "at", "position").iter_rows()

    assert [known[row] for row in found] == truth_of(data).tolist()


def test_written_world_is_kept_and_other_content_refused(tmp_path: Path) -> None:
    recipe = recipe_of("segments").smaller(ROWS)
    write_world(tmp_path / "own", recipe)
    before = (tmp_path / "own" / "events.parquet").stat().st_mtime_ns
    write_world(tmp_path / "own", recipe)
    assert (tmp_path / "own" / "events.parquet").stat().st_mtime_ns == before

    write_world(tmp_path / "own", recipe, seed=1)
    assert (tmp_path / "own" / "events.parquet").stat().st_mtime_ns != before

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(WorldError, match="holds other things"):
        write_world(tmp_path / "other", recipe)
    with pytest.raises(WorldError, match="no made world 'mars'; there are segments, "):
        recipe_of("mars")


def test_truncated_truth_is_refused(tmp_path: Path) -> None:
    write_world(tmp_path / "own", recipe_of("segments").smaller(ROWS))
    data = load_dataset(tmp_path / "own")
    pl.read_parquet(tmp_path / "own" / "truth.parquet").head(10).write_parquet(tmp_path / "own" / "truth.parquet")
    with pytest.raises(WorldError, match="10 rows, where the log has 4000"):
        truth_of(data)
    (tmp_path / "own" / "truth.parquet").unlink()
    with pytest.raises(WorldError, match="cannot be read"):
        truth_of(data)


def test_drift_changes_tastes_at_its_time(worlds: dict[str, MadeWorld]) -> None:
    world = worlds["drift"]
    before = world.shown._replace(at=np.full_like(world.shown.at, int(world.law.changes_at) - 7 * DAY_S))
    after = before._replace(at=before.at + 7 * DAY_S)
    assert np.corrcoef(world.law.odds(before), world.law.odds(after))[0, 1] < 0.8

    calm = worlds["late"].law
    assert np.array_equal(calm.odds(before), calm.odds(after))


def test_fatigue_lowers_chances_with_each_impression(worlds: dict[str, MadeWorld]) -> None:
    world = worlds["fatigue"]
    assert (world.shown.seen > 0).mean() > 0.3
    fresh = world.law.odds(world.shown._replace(seen=np.zeros_like(world.shown.seen)))
    assert np.allclose(fresh - world.law.odds(world.shown), 0.6 * np.minimum(world.shown.seen, 5))
    assert world.auctions(100).shown.seen.max() > 0


def test_seen_counts_earlier_impressions(worlds: dict[str, MadeWorld]) -> None:
    met: dict[tuple[int, int], int] = {}
    shown = worlds["fatigue"].shown
    for user, ad, seen in zip(shown.user.tolist(), shown.ad.tolist(), shown.seen.tolist(), strict=True):
        assert met.get((user, ad), 0) == seen
        met[user, ad] = seen + 1


def test_pages_have_slots_of_different_ads(worlds: dict[str, MadeWorld]) -> None:
    world = worlds["position"]
    pages = world.shown.ad.reshape(-1, 4)
    assert all(len(set(page)) == 4 for page in pages.tolist())
    by_slot = [world.truth[world.shown.slot == slot].mean() for slot in range(4)]
    assert by_slot == sorted(by_slot, reverse=True)
    auctions = world.auctions(100)
    law = auctions.chances.ravel()
    ranked = -np.sort(-auctions.bids * auctions.chances, axis=1)[:, :4]
    assert auctions.revenue(law, 4) == pytest.approx(1_000 * (ranked @ [1.0, 0.7, 0.5, 0.35]).mean())


def test_most_users_of_tails_come_once(worlds: dict[str, MadeWorld]) -> None:
    _, times = np.unique(worlds["tails"].shown.user, return_counts=True)
    assert 0.85 < (times == 1).mean() < 0.95
    shown = np.sort(np.bincount(worlds["tails"].shown.ad))[::-1]
    assert shown[:100].sum() > 0.5 * shown.sum()
    newcomers = ~np.isin(worlds["tails"].auctions(500).shown.user, worlds["tails"].shown.user)
    assert newcomers.mean() > 0.2


def test_churning_ads_live_three_days() -> None:
    world = make_world(replace(recipe_of("churn"), rows=ROWS, new_ads=30))
    age = world.shown.at - world.law.ads.starts[world.shown.ad]
    assert age.min() >= 0
    assert age.max() < 3 * DAY_S
    running = world.auctions(50).shown.ad
    assert (world.law.ads.ends[running] >= world.law.ends_at).all()


def test_late_conversions_are_unknown_in_the_log(tmp_path: Path) -> None:
    world = write_world(tmp_path / "late", recipe_of("late").smaller(ROWS))
    events = load_dataset(tmp_path / "late").events
    clicks = events.filter(pl.col("label") == 1)
    converted, at = clicks["conversion"].to_numpy(), clicks["at"].to_numpy()

    assert 0 < converted.sum() < world.converted.sum()
    assert clicks["converted_at"].drop_nulls().to_numpy().max() < world.law.ends_at
    assert converted[at > world.law.ends_at - 2 * DAY_S].mean() < 0.7 * converted.mean()


def test_bots_click_by_chance_and_earn_nothing(worlds: dict[str, MadeWorld]) -> None:
    world = worlds["bots"]
    bots = world.law.users.bot[world.shown.user]
    assert set(world.truth[bots]) == {0.3}
    assert 0.03 < bots.mean() < 0.3
    assert not world.law.users.bot[world.auctions(500).shown.user].any()


def test_seasons_move_topics_by_hour() -> None:
    def spread(law: Law) -> float:
        return float(law.hour.std(axis=0).mean())

    assert spread(make_world(recipe_of("seasons").smaller(ROWS)).law) > 0.1
    assert spread(make_world(recipe_of("segments").smaller(ROWS)).law) == 0.0


def test_world_of_one_ad_one_user_and_one_segment(tmp_path: Path) -> None:
    """All scorers earn the same, and none can rank."""
    one = replace(recipe_of("segments"), rows=300, users=1, segments=1, ads=1, topics=1, advertisers=1)
    auctions = write_world(tmp_path / "one", one).auctions(20)
    data = load_dataset(tmp_path / "one")
    assert (data.events["item_id"].n_unique(), data.events["user_id"].n_unique()) == (1, 1)
    assert auctions.bids.shape == (20, 1)
    assert auctions.revenue(np.ones(20)) == auctions.revenue(auctions.chances.ravel(), 4)
    assert np.isnan(auctions.within_auc(np.ones(20)))
