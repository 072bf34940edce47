"""Console table of our service and its peers. Measures nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from lab.bench.peers.contest import Ways
from msd.report import table


def peer_tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """Return a table by graph: requests per second of each peer, ours in the same rounds, and their ratio; then the
    peers that were left out."""
    workers, count = figures["workers"], figures["candidates"]
    titles = {
        Ways.FP32: "factorised, fp32",
        Ways.BEST: f"factorised, {figures['precision']}",
        Ways.AS_DEPLOYED: f"as traced; ours in {figures['precision']}",
    }
    made = table(f"{workers} workers, N = {count}: peer's requests/s, ours, ratio", ["peer", *titles.values()])
    for peer, ways in figures["absolute"].items():
        cells = []
        for way in titles:
            found = {name: one["goodput"] for name, one in ways[way].items()}
            ratio = figures[f"peer_ratio_{way}"][peer]
            cells.append(f"{found['peer']:,.0f}, {found['ours']:,.0f}, {ratio:.2f} ×")
        made.add_row(f"{peer} {figures['peer_versions'][peer]}", *cells)
    yield made
    if figures["left_out"]:
        others = table(None, ("peer", "left out, because"), texts=2)
        for peer, reason in figures["left_out"].items():
            others.add_row(peer, reason)
        yield others
