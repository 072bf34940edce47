"""Records tests/feedback/open_bandit.json: rows of the Open Bandit Dataset's sample, and what the estimators of its own
library, obp, say of them. Tests read the file; they need neither.

`python -m tests.feedback.record_open_bandit OBP` with OBP the unpacked wheel of obp 0.4.1 (PyPI), which has the sample.
The dataset is by ZOZO, Inc. (Saito, Aihara, Matsutani and Narita, arXiv 2008.07146), licensed CC BY 4.0.
"""

import csv
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parent / "open_bandit.json"
ITEMS = 80
_KEPT = 300


def main(obp: Path) -> None:
    """Write the file, and write out what is estimated from the whole sample."""
    rows = {policy: _read(obp / f"obp/dataset/obd/{policy}/all/all.csv") for policy in ("bts", "random")}
    rates = _rates(rows["random"])
    whole = _estimated(obp, rows["bts"], rates)
    shown = {name: float(np.mean([row["click"] for row in found])) for name, found in rows.items()}
    sys.stdout.write(json.dumps({"rows": len(rows["bts"]), "click_rates": shown, "estimates": whole}, indent=2) + "\n")
    kept = [row for number, row in enumerate(rows["bts"]) if number < _KEPT or row["click"]]
    document = {
        "source": "Open Bandit Dataset, sample in obp 0.4.1: obd/bts/all; ZOZO, Inc., CC BY 4.0, arXiv 2008.07146;"
        f" the first {_KEPT} rows and all with a click, without user features",
        "target": f"uniform over {ITEMS} items",
        "predicted": [round(rate, 6) for rate in rates.tolist()],
        "rows": [list(row.values()) for row in kept],
    }
    estimates = _estimated(obp, kept, np.array(document["predicted"]))
    FILE.write_text(json.dumps({**document, "estimates": estimates}) + "\n", "utf-8")


def _read(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return [
            {
                "item": int(row["item_id"]),
                "position": int(row["position"]),
                "click": int(row["click"]),
                "propensity": float(row["propensity_score"]),
            }
            for row in csv.DictReader(file)
        ]


def _rates(rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Click rates by item [80], smoothed: the model of rewards, from the other policy's rows."""
    clicks = np.bincount([row["item"] for row in rows], [row["click"] for row in rows], minlength=ITEMS)
    shown = np.bincount([row["item"] for row in rows], minlength=ITEMS)
    mean = clicks.sum() / shown.sum()
    rates: NDArray[np.float64] = (clicks + 200 * mean) / (shown + 200)
    return rates


def _estimated(obp: Path, rows: list[dict[str, Any]], rates: NDArray[np.float64]) -> dict[str, float]:
    """Say what obp's classes estimate of showing every item alike."""
    estimators = _load(obp)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    given = {
        "reward": columns["click"],
        "action": columns["item"],
        "position": np.zeros(len(rows), int),
        "pscore": columns["propensity"],
        "action_dist": np.full((len(rows), ITEMS, 1), 1 / ITEMS),
    }
    predicted = np.tile(rates[None, :, None], (len(rows), 1, 1))
    return {
        "ips": float(estimators.InverseProbabilityWeighting().estimate_policy_value(**given)),
        "snips": float(estimators.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**given)),
        "dr": float(estimators.DoublyRobust().estimate_policy_value(**given, estimated_rewards_by_reg_model=predicted)),
    }


def _load(obp: Path) -> ModuleType:
    """Load the estimators alone: the package imports much more."""
    for name in ("obp", "obp.ope"):
        package = ModuleType(name)
        package.__path__ = [str(obp / name.replace(".", "/"))]
        sys.modules[name] = package
    return importlib.import_module("obp.ope.estimators")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
