"""The gains that the page on benchmarks claims are those of the kept results."""

import json
import re

from tests.docs.leaderboard import RESULTS, gain
from tests.docs.pages import ROOT

CLAIMS, _, _ = (ROOT / "docs" / "benchmarks.md").read_text("utf-8").partition("## Results")
GAIN = re.compile(r"[+−]\.\d{4} \([+−]\.\d{4}, [+−]\.\d{4}\)(?! on valid)")


def test_claims_are_those_of_the_results() -> None:
    kept = {
        gain(found)
        for path in RESULTS.glob("*.json")
        for view in json.loads(path.read_text("utf-8"))["views"].values()
        for line in view["lines"].values()
        for found in line["gains"].values()
        if found["ci95"]
    }
    claimed = GAIN.findall(CLAIMS)

    assert len(claimed) > 15
    assert [one for one in claimed if one not in kept] == []
