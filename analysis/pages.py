"""What the reports share: templates that escape every text, a policy that lets nothing foreign run, inner figures."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, **values: Any) -> str:
    """Fill in a template. Names and notes may come from strangers' files, so all texts are escaped.

    The page's Content-Security-Policy, in place of ``{{ policy }}``, allows the template's styles and scripts, by their
    hashes, images inside the page, and nothing else.

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
    page = environment.get_template(template).render(policy=_POLICY, **values)
    return page.replace(_POLICY, _policy_of(page), 1)


_POLICY = "content-security-policy-of-this-page"


def _policy_of(page: str) -> str:
    """What the browser may use of a page; texts in it are escaped, so that each tag is the template's."""
    found: dict[str, list[str]] = {"style": [], "script": []}
    for tag, content in re.findall(r"<(style|script)>(.*?)</\1>", page, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        found[tag].append(f"'sha256-{digest}'")
    allowed = [f"{tag}-src {' '.join(hashes)}" for tag, hashes in found.items() if hashes]
    return "; ".join(["default-src 'none'", "img-src data:", *allowed])


def image_source(path: Path) -> str:
    """An SVG file as a data URI, so that a page needs no other file.

    Args:
        path: of the figure.

    Returns:
        The ``src`` of an image.
    """
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
