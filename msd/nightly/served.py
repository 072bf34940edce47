"""The folder of bundles that services follow: which bundle serves, which night trained it, and how another gets in."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import polars as pl

from msd.contract.bundle import MANIFEST
from msd.nightly.config import NightlyConfig
from msd.nightly.record import NightRecord, RefreshRecord, known_record

NIGHTS, REFRESHES = "nights", "refreshes"


class Served(NamedTuple):
    """The served bundle; the night that trained it, None if none here did; the folder of its model; the bundle of that
    training, which is the served one unless it is a refresh; and the IDs of all bundles that refreshed it."""

    bundle: Path
    night: NightRecord | None
    model: Path
    trained: Path
    refreshed: frozenset[str] = frozenset()

    @property
    def is_trained(self) -> bool:
        """Return whether no refresh serves."""
        return self.trained == self.bundle

    @classmethod
    def of(cls, config: NightlyConfig) -> Self:
        """Return what serves. Raises NightlyError."""
        bundle = config.served()
        own = config.work / REFRESHES / bundle.name
        refresh = known_record(own, RefreshRecord)
        if refresh is None:
            folder = config.work / NIGHTS / bundle.name
            return cls(bundle, known_record(folder, NightRecord), folder / "model", bundle)
        night, trained = known_record(config.work / NIGHTS / refresh.base, NightRecord), config.bundles / refresh.base
        records = (known_record(one, RefreshRecord) for one in own.parent.iterdir() if one.is_dir())
        ids = frozenset(one.bundle_id for one in records if one and one.base == refresh.base)
        return cls(bundle, night, own / "model", trained if (trained / MANIFEST).is_file() else bundle, ids)


def place_bundle(config: NightlyConfig, new: Path, name: str) -> Path:
    """Copy a bundle beside the others, unless it is there, and return its folder."""
    place = config.bundles / name
    known = place / MANIFEST
    if not known.is_file() or known.read_bytes() != (new / MANIFEST).read_bytes():
        half = config.bundles / f".{name}.half"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(new, half)
        shutil.rmtree(place, ignore_errors=True)
        half.rename(place)
    return place


def prune_refreshes(config: NightlyConfig, *, whole: bool = False) -> None:
    """Remove models and bundles of refreshes to which no pointer leads; `whole`: and their records."""
    kept = {one.name for pointer in ("current", "previous") if (one := config.pointed(pointer))}
    for own in (config.work / REFRESHES).glob("[!.]*/"):
        if own.is_dir() and own.name not in kept:
            shutil.rmtree(own if whole else own / "model", ignore_errors=True)
            shutil.rmtree(config.bundles / own.name, ignore_errors=True)


def finished_nights(config: NightlyConfig, but: Path | None = None) -> list[NightRecord]:
    """Return the records of nights that did not fail, the latest data last. Raises NightlyError for a damaged one."""
    found = [known_record(one, NightRecord) for one in sorted((config.work / NIGHTS).glob("*")) if one != but]
    return sorted((one for one in found if one and one.status != "failed"), key=lambda one: one.until)


def place_after(impressions: pl.DataFrame, at: float) -> int:
    """Return the number of impressions, sorted by time, up to a time (Unix s)."""
    return int(impressions["at"].search_sorted(at, "right"))


def without_refused(impressions: pl.DataFrame, nights: Sequence[NightRecord]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return impressions without those of refused nights: of their input, or because what they made earned less; and
    the numbers of these by night."""
    left_out = {}
    for one in nights:
        if not one.is_accepted and one.until:
            start, end = (place_after(impressions, at) for at in (one.began, one.until))
            left_out[one.night] = end - start
            impressions = pl.concat([impressions[:start], impressions[end:]], rechunk=False)
    return impressions, left_out
