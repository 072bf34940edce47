"""PromQL queries over the series of the services that a dashboard's variables choose.

`$namespace` and `$job` are lists of names. A plain scrape has no namespace, which matches as an empty name.
"""

CHOSEN = 'namespace=~"$namespace",job=~"$job"'
RANGE = "$__rate_interval"


def series(name: str, where: str = "") -> str:
    """Return the selector of a metric's series of the chosen services."""
    return f"{name}{{{CHOSEN}{',' if where else ''}{where}}}"


def total(name: str, by: str = "", where: str = "") -> str:
    """Return the sum of these series, by labels."""
    return f"sum{_by(by)} ({series(name, where)})"


def most(name: str, by: str = "", where: str = "") -> str:
    """Return the maximum of these series, by labels."""
    return f"max{_by(by)} ({series(name, where)})"


def rate(name: str, by: str = "", where: str = "") -> str:
    """Return a counter's increase per second, summed by labels."""
    return f"sum{_by(by)} (rate({series(name, where)}[{RANGE}]))"


def mean(histogram: str, by: str = "", where: str = "") -> str:
    """Return the mean of a histogram's observations."""
    return ratio(rate(f"{histogram}_sum", by, where), rate(f"{histogram}_count", by, where))


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """Return the quantile `share` of a histogram's observations."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, {rate(f'{histogram}_bucket', labels, where)})"


def ratio(part: str, whole: str) -> str:
    """Return the ratio of two expressions with equal labels."""
    return f"{part} / {whole}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
