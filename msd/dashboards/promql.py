"""Queries over the series of the services that a dashboard's variables choose.

`$namespace` and `$job` are lists of names; a plain scrape has no namespace, which the empty one stands for.
"""

CHOSEN = 'namespace=~"$namespace",job=~"$job"'
RANGE = "$__rate_interval"


def series(name: str, where: str = "") -> str:
    """The chosen services' series of a name."""
    return f"{name}{{{CHOSEN}{',' if where else ''}{where}}}"


def total(name: str, by: str = "", where: str = "") -> str:
    """Their sum, by some labels."""
    return f"sum{_by(by)} ({series(name, where)})"


def most(name: str, by: str = "", where: str = "") -> str:
    """The greatest of them."""
    return f"max{_by(by)} ({series(name, where)})"


def rate(name: str, by: str = "", where: str = "") -> str:
    """How much a counter rises in a second."""
    return f"sum{_by(by)} (rate({series(name, where)}[{RANGE}]))"


def mean(histogram: str, by: str = "", where: str = "") -> str:
    """The mean of what a histogram counted."""
    return ratio(rate(f"{histogram}_sum", by, where), rate(f"{histogram}_count", by, where))


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """The value that a share of what a histogram counted is below."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, {rate(f'{histogram}_bucket', labels, where)})"


def ratio(part: str, whole: str) -> str:
    """One by the other, of equal labels."""
    return f"{part} / {whole}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
