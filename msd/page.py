"""Reports as one HTML page: a package's template within the common layout. A page needs no network and no script, and
escapes every value; templates mark only drawings as safe.
"""

import jinja2


def render_page(package: str, template: str, **values: object) -> str:
    """Fill a package's template, which extends `layout.html.j2`."""
    folders = [jinja2.PackageLoader(package, "."), jinja2.PackageLoader("msd", ".")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(values)
