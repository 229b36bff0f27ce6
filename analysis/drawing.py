"""What a caller may want of a figure: which estimators, in which order, under which names, how large, on which axes.

Every function that draws a figure takes a `Drawing` and axes, and returns `Panels`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib.style
import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser

from gradeval.analysis.legends import add_legend, printable
from gradeval.analysis.plotting import (
    DASHED,
    FIGURE_FORMATS,
    SOLID,
    Style,
    StyleSheet,
    paper_style,
    render,
    styles,
)
from gradeval.errors import GradevalError, unknown_name
from gradeval.files import CannotWrite, write_whole

GivenAxes: TypeAlias = Axes | Iterable[Axes] | None
"""Axes of the caller's own: one, or as many as the figure has panels; None for a new figure."""


@dataclass(frozen=True)
class Drawing:
    """How a figure is to be drawn; what is not given is as in the reports.

    Attributes:
        estimators: names of those that are drawn, in this order.
        layers: those that are drawn, in this order: "1", …, "head", "all". On a single pair of axes it is "all".
        panels: those that are drawn, in this order, where panels are not layers; each function says what they are.
        labels: what is written for an estimator, by its name; mathematics stands between dollar signs.
        looks: colour and marker of an estimator, by its name.
        size: width and height of a new figure in inches; its legend is within.
        style: of matplotlib, on top of ours: the name of a style sheet, settings, or several. All letters grow with
            the setting "font.size", which is 8.
        legend: whether a new figure has one.

    Raises:
        GradevalError: a size, style or label that cannot be drawn. What names no estimator, layer or panel is refused
            when the figure is drawn.

    Examples:
        >>> paper = Drawing(("st", "psa"), labels={"st": "ST", "psa": "PSA (ours)"}, size=(3.3, 2.4))
        >>> Drawing(size=(0, 1))
        Traceback (most recent call last):
        gradeval.errors.GradevalError: size must be a width and a height in inches, both above 0; found (0, 1).
    """

    estimators: Sequence[str] | None = None
    layers: Sequence[str] | None = None
    panels: Sequence[str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    looks: Mapping[str, Style] = field(default_factory=dict)
    size: tuple[float, float] | None = None
    style: StyleSheet = ()
    legend: bool = True

    def __post_init__(self) -> None:
        if self.size is not None and not _is_size(self.size):
            raise GradevalError(f"size must be a width and a height in inches, both above 0; found {self.size!r}.")
        if len(set(self.labels.values())) < len(self.labels):
            raise GradevalError("labels must differ: two estimators with one label could not be told apart.")
        for label in self.labels.values():
            try:
                MathTextParser("path").parse(label)
            except ValueError as error:
                raise GradevalError(f"label {label!r} cannot be drawn: {str(error).splitlines()[-1]}.") from None
        if self.style:
            with paper_style(self.style):
                pass

    @contextmanager
    def settings(self, ax: GivenAxes) -> Iterator[None]:
        """The settings of matplotlib under which the figure is drawn: on the caller's axes those of the caller.

        Args:
            ax: the caller's axes, if any.

        Yields:
            Nothing.
        """
        with paper_style(self.style) if ax is None else matplotlib.style.context(self.style or ()):
            yield

    def look(self, every: Iterable[str], unbiased: Mapping[str, bool], usual: Sequence[str] | None = None) -> Look:
        """The look of the estimators of a figure.

        Args:
            every: names that could be drawn.
            unbiased: which of them claim to be unbiased.
            usual: names that are drawn if none are chosen; all if not given.

        Returns:
            The look.

        Raises:
            GradevalError: an estimator, label or look is for a name that is not there.
        """
        known = list(every)
        for kind, given in (("estimator with a label", self.labels), ("estimator with a look", self.looks)):
            chosen(kind, list(given), known, ())
        usual = known if usual is None else usual
        names = chosen("estimator", self.estimators, known, usual)
        found = styles([*usual, *names]) | dict(self.looks)
        return Look(names, {name: found[name] for name in names}, {n: bool(unbiased[n]) for n in names}, self.labels)


USUAL = Drawing()


def _is_size(size: object) -> bool:
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        return False
    return all(isinstance(side, int | float) and math.isfinite(side) and side > 0 for side in size)


def chosen(kind: str, wanted: Sequence[str] | None, known: Sequence[str], usual: Sequence[str]) -> list[str]:
    """The names that a caller wants, each once.

    Args:
        kind: what they name, for the error.
        wanted: in the order they are drawn in; one name may stand alone; None for the usual ones.
        known: that there are.
        usual: what is drawn where nothing is wanted.

    Returns:
        The names.

    Raises:
        GradevalError: a name is not known.

    Examples:
        >>> chosen("layer", "head", ["1", "head", "all"], ["all"]), chosen("layer", None, ["1", "all"], ["all"])
        (['head'], ['all'])
        >>> chosen("layer", ["haed"], ["1", "head", "all"], ["all"])
        Traceback (most recent call last):
        gradeval.errors.GradevalError: unknown layer 'haed': did you mean head?
    """
    if wanted is None:
        return list(usual)
    names = [wanted] if isinstance(wanted, str) else list(dict.fromkeys(wanted))
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
    return names


@dataclass(frozen=True)
class Look:
    """What a figure needs to know about the estimators that it shows, in the order it shows them.

    Attributes:
        names: of the estimators.
        styles: by estimator.
        unbiased: by estimator, whether it claims to be unbiased.
        labels: what the caller wants written for some of them.
    """

    names: list[str]
    styles: dict[str, Style]
    unbiased: dict[str, bool]
    labels: Mapping[str, str]

    def marker(self, name: str) -> dict[str, Any]:
        """The marker of an estimator.

        Args:
            name: of the estimator.

        Returns:
            Arguments of matplotlib's ``plot``.
        """
        style = self.styles[name]
        return {
            "color": style.colour,
            "marker": style.marker,
            "markersize": 6.5 if style.marker == "*" else 4,  # a star fills less of its box
            "markerfacecolor": style.colour if self.unbiased[name] else "white",
            "markeredgecolor": style.colour,
        }

    def line(self, name: str) -> dict[str, Any]:
        """The line of an estimator, with its marker.

        Args:
            name: of the estimator.

        Returns:
            Arguments of matplotlib's ``plot``.
        """
        return {**self.marker(name), "linestyle": SOLID if self.unbiased[name] else DASHED}

    def entry(self, name: str, line: bool) -> Line2D:
        """What stands for an estimator in a legend.

        Args:
            name: of the estimator.
            line: whether it is drawn as a line, else as a marker.

        Returns:
            The line or the marker.
        """
        return Line2D([], [], **(self.line(name) if line else {**self.marker(name), "linestyle": "none"}))

    def label(self, name: str) -> str:
        """What is written for an estimator: the caller's words, or its name, which is never read as mathematics.

        Args:
            name: of the estimator.

        Returns:
            Text for matplotlib.
        """
        return self.labels.get(name) or printable(name).replace("$", r"\$")

    def name_ticks(self, axis: Axis, places: Iterable[float], names: Sequence[str], **words: Any) -> None:
        """Write estimators at the ticks of an axis.

        Args:
            axis: of a panel.
            places: of the ticks.
            names: of the estimators.
            words: further arguments of matplotlib for the text.
        """
        axis.set_ticks(list(places), [self.label(name) for name in names], **words)


class Panels(dict[str, Axes]):
    """The axes of a figure by what they show; empty where there is nothing to show.

    Attributes:
        new: whether the figure was made for them; else the axes are the caller's.
    """

    new: bool = True

    @classmethod
    def open(
        cls, keys: Sequence[str], drawing: Drawing, ax: GivenAxes, size: tuple[float, float], columns: int, **grid: Any
    ) -> Panels:
        """Panels on a new figure, or on the caller's axes.

        Args:
            keys: what they show.
            drawing: its size counts.
            ax: the caller's axes.
            size: of the figure where the drawing has none.
            columns: of a new figure's grid.
            grid: further arguments of matplotlib's ``subplots``.

        Returns:
            The panels.

        Raises:
            GradevalError: not as many axes as there are panels.
        """
        if ax is not None:
            return cls._given(keys, ax)
        figure = Figure(figsize=drawing.size or size, layout="constrained")
        cells = figure.subplots(math.ceil(len(keys) / columns), columns, squeeze=False, **grid).ravel()
        for spare in cells[len(keys) :]:
            spare.set_axis_off()
        return cls(zip(keys, cells, strict=False))

    @classmethod
    def _given(cls, keys: Sequence[str], ax: Axes | Iterable[Axes]) -> Panels:
        axes = [ax] if isinstance(ax, Axes) else list(np.ravel(np.array(ax, dtype=object)))
        for found in axes:
            if not isinstance(found, Axes):
                raise GradevalError(f"ax must be axes of matplotlib, one for each panel; found {found!r}.")
        if len(axes) != len(keys):
            raise GradevalError(
                f"the figure has {len(keys)} panels ({', '.join(keys)}) and was given {len(axes)} axes: give as many, "
                "or choose among the panels by a Drawing."
            )
        panels = cls(zip(keys, axes, strict=True))
        panels.new = False
        return panels

    @property
    def figure(self) -> Figure | None:
        """The figure that the panels are on; None where there are none."""
        return next((ax.get_figure(root=True) for ax in self.values()), None)

    def name_axes(self, x: str, y: str) -> None:
        """Say what the axes are: once on a new figure, on every panel of the caller's.

        Args:
            x: what is across.
            y: what is upwards.
        """
        if self.new and self.figure is not None:
            room = [int(side * 72 / (0.56 * rcParams["axes.labelsize"])) for side in self.figure.get_size_inches()]
            self.figure.supxlabel(_wrapped(x, room[0]))
            self.figure.supylabel(_wrapped(y, room[1]))
            return
        for ax in self.values():
            ax.set(xlabel=x, ylabel=y)

    def finish(self, drawing: Drawing, entries: Mapping[str, Line2D], title: str | None = None) -> Panels:
        """Give a new figure its legend and its size. The caller's axes keep theirs: lines have labels for a legend.

        Args:
            drawing: says whether there is a legend.
            entries: lines by name.
            title: of the legend.

        Returns:
            The panels.
        """
        if self.new and self.figure is not None:
            if drawing.legend:
                add_legend(self.figure, entries, title, drawing.labels)
            if drawing.size is not None:
                self.figure.set_size_inches(drawing.size)
        return self

    def save(self, path: str | Path) -> Path:
        """Write the figure, with fonts that publishers take, and the same bytes from the same numbers.

        Args:
            path: of the file; its ending says the format: .pdf, .svg or .png.

        Returns:
            The path.

        Raises:
            GradevalError: another format, or there is nothing to show.
            CannotWrite: the disk is full, say.
        """
        path = Path(path)
        extension = path.suffix[1:].lower()
        if extension not in FIGURE_FORMATS:
            raise unknown_name("format of a figure", extension, FIGURE_FORMATS)
        if self.figure is None:
            raise GradevalError(f"{path} was not written: there is nothing to show.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, render(self.figure, extension))
        except OSError as error:
            raise CannotWrite(path, error) from None
        return path

    def _repr_svg_(self) -> str | None:
        """What a notebook shows: the figure, unless it is the caller's, who shows it."""
        return render(self.figure, "svg").decode() if self.new and self.figure is not None else None


def _wrapped(label: str, room: int) -> str:
    """A label that has room for so many letters, about: on two lines where it is longer, best after a comma."""
    if len(label) <= room:
        return label
    return label.replace(", ", ",\n") if ", " in label else textwrap.fill(label, room)
