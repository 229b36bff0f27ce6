"""What the reports share: templates that escape every text, and figures inside the page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, **values: Any) -> str:
    """Fill in a template. Names and notes may come from strangers' files, so all texts are escaped.

    Args:
        package: the package that holds the template.
        template: the name of its file.
        values: what the template names; it is an error to leave one out.

    Returns:
        The page as HTML.
    """
    environment = Environment(
        loader=PackageLoader(package, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def image_source(path: Path) -> str:
    """An SVG file as a data URI, so that a page needs no other file.

    Args:
        path: of the figure.

    Returns:
        The ``src`` of an image.
    """
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
