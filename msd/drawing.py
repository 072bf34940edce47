"""Matplotlib figures as SVG for a page, or as a small PNG."""

import io

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

_COLOURS = 48


def to_svg(figure: Figure) -> str:
    """Return the figure as an `<svg>` element, the same bytes for the same figure."""
    text = io.StringIO()
    # A fixed salt and no date make equal figures equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "msd", "font.size": 9.0}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def to_png(figure: Figure, dots_per_inch: float = 80.0) -> bytes:
    """Return the figure as a PNG with few colours: with many lines, a tenth of the SVG's size."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dots_per_inch)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(small, "png", optimize=True)
    return small.getvalue()
