"""The guide in docs/own-model.md: its code is Python, and asks for names that MovieLens-100K's schema has."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
CODE = (ROOT / "docs" / "own-model.md").read_text("utf-8").split("```python\n")[1].split("```")[0]


def test_its_code_is_python_and_its_names_are_the_datasets() -> None:
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(CODE).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("SINGLE", "MANY", "NUMBERS")
    }
    dataset = tomllib.loads((ROOT / "msd" / "dataset" / "ml_100k.toml").read_text("utf-8"))
    kinds = {feature["name"]: feature["kind"] for feature in dataset["features"]}
    single = {name for name, kind in kinds.items() if kind == "categorical"} | {"user_id", "item_id"}
    assert set(lists["SINGLE"]) == single
    assert set(lists["MANY"]) == {name for name, kind in kinds.items() if kind == "bag"} | {"history_item_id"}
    numbers = {name for name, kind in kinds.items() if kind == "numeric"}
    assert set(lists["NUMBERS"]) == numbers | {"user_counts", "item_counts"}
