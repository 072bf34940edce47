"""Which series there are, and which an expression asks for."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from service.telemetry.metrics import Metrics

FILES = Path(__file__).parents[2] / "helm/msd-ctr/files"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FILES / "rules.yaml").read_text("utf-8"))["groups"] for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
_ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@cache
def samples_named() -> set[str]:
    """The names of all samples that the service can tell."""
    return {f"{one.name}{ending}" for one in Metrics().families.collect() for ending in _ENDINGS[one.type]}


def asked_for(expression: object) -> set[str]:
    """The names of our series that a parsed expression asks for."""
    return set(re.findall(r"\b(?:job(?:_\w+)?:)?(?:msd|process)_[\w:]*", str(expression)))


def family_of(sample: str) -> str:
    """The family of a sample, by its name."""
    return re.sub(r"_(total|bucket|sum|count)$", "", sample)
