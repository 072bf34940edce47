"""A matplotlib figure as SVG for a page. Knows nothing of what is drawn."""

import io

import matplotlib
from matplotlib.figure import Figure


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element, the same bytes for the same figure."""
    text = io.StringIO()
    # A fixed salt and no date make equal figures equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "msd", "font.size": 9.0}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
