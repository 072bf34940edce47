"""Among many candidates the core chooses as the reference does, to the last digit of the propensity."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import native
from msd.contract.pricing import PRICED
from native.layout import choice_of, core_model, core_rows, core_schema, new_tensors
from tests.native.observed import FILLED
from tests.native.worlds import AT, SIDES, draw_world
from tests.reference.exploration import first_of
from tests.reference.reply import Choice
from tests.reference.request import read_request
from tests.reference.schema import Schema

assert native.core is not None, "tests of the core are collected where it is built"
core = native.core
MOST = 300


@pytest.mark.parametrize("policy", ["thompson", "ucb", "uniform"])
@pytest.mark.parametrize("pricing", [None, "cpc", "mixed"])
def test_many_candidates_are_explored_to_the_last_digit(policy: str, pricing: str | None, tmp_path: Path) -> None:
    random = Random(7)
    world = draw_world(random, tmp_path)
    files = world.files()
    frame = core.Frame(
        core_schema(world.schema, world.codecs),
        core_model("v", PRICED, 0.7),
        new_tensors(world.schema, MOST),
        MOST,
    )
    explored = set()
    for seed in range(30):
        count = random.choice([2, 20, 200, MOST])
        body = _body(random, count, policy, seed, pricing)
        users, items = (core_rows(files[side].memory()) for side in SIDES)
        assert frame.take(body, MOST, users, items, AT) == FILLED
        rng = np.random.default_rng(seed)
        scores = {
            "pctr": (1 / (1 + np.exp(-rng.normal(-3, 1, count)))).astype(np.float32),
            "pcvr": rng.uniform(0, 0.2, count).astype(np.float32),
            "logit_std": rng.uniform(0.05, 0.9, count).astype(np.float32),
        }
        if policy == "uniform" and seed % 2:
            del scores["logit_std"]
        frame.reply("r", None, scores, count, [], [])
        request = read_request(body, Schema(world.schema.model_dump()))
        assert request.explore is not None
        choice = first_of(request.explore, 0.7, "r", request, scores, PRICED)
        assert Choice(*choice_of(frame) or ()) == choice
        explored.add(choice.explored)
    assert explored == {True, False}


def _body(random: Random, count: int, policy: str, seed: int, pricing: str | None) -> bytes:
    candidates: dict[str, Any] = {"id": [f"c{n}" for n in range(count)]}
    if pricing is not None:
        candidates["bid"] = [random.choice([None, random.uniform(0.01, 3)]) for _ in range(count)]
    if pricing == "mixed":
        candidates["pricing"] = [random.choice(["cpm", "cpc", "cpa"]) for _ in range(count)]
    explore = {"policy": policy, "seed": seed}
    return json.dumps({"user_id": "u", "candidates": candidates, "explore": explore}).encode()
