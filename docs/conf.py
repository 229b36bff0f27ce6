"""The site: `tox -e docs` builds it; tutorials are executed, warnings are errors."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project, author, copyright = "gradeval", "the gradeval authors", "the gradeval authors"
release = metadata.version("gradeval")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "estimator_pages",
]
exclude_patterns = ["_build", "_extensions"]
html_theme, html_title = "furo", "gradeval"
html_static_path, html_css_files, html_js_files = ["_static"], ["tables.css"], ["sortable.js"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode, nb_execution_timeout, nb_execution_raise_on_error = "force", 240, True
nb_execution_show_tb, nb_merge_streams = True, True

autodoc_member_order, autodoc_typehints = "bysource", "signature"
autodoc_default_options = {"members": True}
suppress_warnings = ["ref.python"]  # attributes of several classes have the same name
napoleon_google_docstring, napoleon_numpy_docstring, napoleon_use_ivar = True, False, True
napoleon_use_rtype, napoleon_attr_annotations = False, False
default_role = "code"
copybutton_exclude = ".linenos, .gp, .go"


def _as_plain_text(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with formulas: a bar or a star is no markup, code in back-ticks stays."""
    code = False
    for number, line in enumerate(lines):
        code = line.lstrip().startswith(">>>") or (code and bool(line.strip()))
        if not code:
            bullet = re.match(r"\s*(?:\* )?", line)[0]
            parts = re.split(r"(`[^`]*`)", line[len(bullet) :])
            parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
            lines[number] = bullet + "".join(parts)


def _is_foreign(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """What a class inherits from another library is documented there."""
    return True if not (getattr(obj, "__module__", None) or "gradeval").startswith("gradeval") else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", _is_foreign)
    app.connect("autodoc-process-docstring", _as_plain_text, priority=400)  # before napoleon
