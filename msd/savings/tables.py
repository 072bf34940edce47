"""Console tables of the savings. Measures nothing."""

from typing import Any

from rich.table import Table

from msd.report import table

NAMES = {
    "service": "this service",
    "without_semantics": "the same ranker without semantics",
    "language_model": "a language model at request time",
}


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the tables of one request's cost and AUC, and of the capacity for the assumed request rate."""
    return [_of_a_request(found), _of_all(found)]


def _of_a_request(found: dict[str, Any]) -> Table:
    count = found["ways"]["service"]["candidates"]
    title = f"One request, {count} candidates; AUC of {found['rows']} rows of {found['users']} users"
    made = table(title, ("", "p50", "processor", "memory", "AUC", "the service is ahead by"))
    for name, way in found["ways"].items():
        ends = found["gain_interval"].get(name)
        made.add_row(
            _name(name, found),
            _time(way["p50_ms"]),
            _time(way["cpu_ms"]),
            f"{way['memory_mb']:,.0f} MB",
            f"{found['auc'][name]:.4f}",
            f"{found['auc']['service'] - found['auc'][name]:+.4f} ({ends[0]:+.4f} to {ends[1]:+.4f})" if ends else "",
        )
    return made


def _of_all(found: dict[str, Any]) -> Table:
    assumed = found["assumed"]
    made = table(
        f"{assumed['requests_per_s']:,.0f} requests a second, cores {assumed['busy']:.0%} busy, "
        f"{assumed['cores_a_machine']} of them a machine, {assumed['core_hour']} $ a core and hour (computed)",
        ("", "cores", "machines", "memory", "$ an hour", "$ for a million requests"),
    )
    for name, way in found["ways"].items():
        need = way["capacity"]
        made.add_row(
            _name(name, found),
            f"{need['cores']:,}",
            f"{need['machines']:,}",
            f"{need['memory'] / 2**40:,.1f} TB",
            f"{need['per_hour']:,.0f}",
            f"{need['per_million']:,.2f}",
        )
    return made


def _name(name: str, found: dict[str, Any]) -> str:
    if name != "language_model":
        return NAMES[name]
    model = found["language_model"]
    return f"{NAMES[name]} ({model['name']}, {model['parameters'] / 1e6:,.0f} M parameters)"


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:,.1f} s" if milliseconds >= 1_000 else f"{milliseconds:.2f} ms"
