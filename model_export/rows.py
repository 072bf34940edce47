"""Writer of users and items as a bundle's rows: encoded columns, adapted vectors, counts and histories."""

from pathlib import Path

import numpy as np

from msd.contract.bundle import ROWS
from msd.contract.row_writer import write_row_file
from msd.contract.rows import RowCodec, RowContents, RowSide
from msd.contract.state import EntityState, decay, state_rules
from msd.contract.words import BagOfWords
from msd.ranker.adaptor import Adaptors
from msd.ranker.features import Features
from msd.student.record import HEADS


def write_rows(
    folder: Path,
    adaptors: Adaptors,
    words: BagOfWords | None,
    features: Features,
    bundle_id: str,
    written_at: float,
) -> None:
    """Write users.rows and items.rows. Counts and histories come from the window and train rows. `words`: makes the
    words block of items, as a service makes it of later items."""
    for side in ("user", "item"):
        codec = RowCodec(features.schema, side, bundle_id)
        entities = (features.user if side == "user" else features.item).entities
        states = _states(features, side)
        records = codec.pack(_contents(adaptors, words, features, side, states), written_at)
        histories = [state.history for state in states] if side == "user" else []
        write_row_file(folder / ROWS[side], codec, bundle_id, entities.ids, records, histories)


def _states(features: Features, side: RowSide) -> list[EntityState]:
    """Return users as of their last counted row, because their later rows are not counted; items as of the end."""
    timeline = features.timeline
    if side == "user":
        return [timeline.user.final.get(row, EntityState()) for row in range(features.user.entities.unknown)]
    rule, ends_at = state_rules(features.schema)["user"], timeline.ends_at
    final = [timeline.item.final.get(row, EntityState()) for row in range(features.item.entities.unknown)]
    fades = [decay(max(ends_at - state.as_of, 0.0), rule.half_life_s) for state in final]
    return [
        EntityState(state.impressions * fade, state.clicks * fade, max(state.as_of, ends_at))
        for state, fade in zip(final, fades, strict=True)
    ]


def _contents(
    adaptors: Adaptors, words: BagOfWords | None, features: Features, side: RowSide, states: list[EntityState]
) -> RowContents:
    one = features.user if side == "user" else features.item
    semantic = None
    present = np.zeros(len(states), bool)
    if features.schema.semantic(side):
        present = one.present[:-1].numpy()
        semantic = adaptors.eval().adapt(features).adapted[side][:-1].numpy()
        if side == "item" and words:
            semantic[present, -len(words.bias) :] = words.block(one.vectors[:-1].numpy()[present, HEADS["words"]])
    counts = np.array([(state.impressions, state.clicks, state.as_of) for state in states], np.float64).reshape(-1, 3)
    return RowContents(one.entities.categorical[:-1], one.entities.numeric[:-1], semantic, present, *counts.T)
