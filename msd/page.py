"""Reports as one HTML page: a package's template within the common layout, and Matplotlib figures as SVG. A page
needs no network and no script, and escapes every value; templates mark only drawings as safe.
"""

import io

import jinja2
import matplotlib
from matplotlib.figure import Figure


def render_page(package: str, template: str, **values: object) -> str:
    """Fill a package's template, which extends `layout.html.j2`."""
    folders = [jinja2.PackageLoader(package, "."), jinja2.PackageLoader("msd", ".")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(values)


def to_svg(figure: Figure) -> str:
    """Return the figure as an `<svg>` element, the same bytes for the same figure."""
    text = io.StringIO()
    # A fixed salt and no date make equal figures equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "msd", "font.size": 9.0}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
