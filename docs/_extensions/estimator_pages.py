"""A directive that shows every built-in estimator: its facts, its formula, and beside it its code."""

from __future__ import annotations

import inspect
from importlib import import_module

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from gradeval.estimators import BUILT_IN
from gradeval.estimators.facts import ANY_LOSS


class Estimators(SphinxDirective):
    """All estimators of the table, by family: the first paragraph of the module's docstring, then each estimator."""

    def run(self) -> list[nodes.Node]:
        families: dict[str, list[str]] = {}
        for name, facts in BUILT_IN.items():
            families.setdefault(facts.target.partition(":")[0], []).append(name)
        lines: list[str] = []
        for module, names in families.items():
            about = inspect.getdoc(import_module(f"gradeval.estimators.{module}")) or ""
            lines += [f"## {about.partition('.')[0]}", ""]
            for name in names:
                lines += _shown(name)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _shown(name: str) -> list[str]:
    facts = BUILT_IN[name]
    module, _, of_class = facts.target.partition(":")
    code = inspect.getsource(getattr(import_module(f"gradeval.estimators.{module}"), of_class)).rstrip()
    known = [
        "unbiased" if facts.unbiased else "biased",
        "needs the derivative of the loss" if facts.differentiable else "takes the loss as a black box",
        f"{facts.layer_evaluations} layer and {facts.loss_evaluations} loss evaluations a draw",
    ]
    if facts.defaults:
        known.append(f"defaults: {facts.defaults}")
    if facts.loss != ANY_LOSS:
        known.append(f"only for {facts.loss}")
    if facts.aliases:
        known.append(f"also called {', '.join(facts.aliases)}")
    shown = f".. autoclass:: gradeval.estimators.{module}.{of_class}"
    return [
        f"### {name}", "", f"*{'; '.join(known)}.*".replace(" * ", " × "), "",
        "```{eval-rst}", shown, "   :no-index:", "   :no-members:", "```", "",
        "````{dropdown} The code", "```{code-block} python", code, "```", "````", "",
    ]  # fmt: skip


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("estimators", Estimators)
