"""What all figures share: the look of a paper, a style for each estimator, axes, legends and files.

An estimator keeps one colour and marker in every figure. A solid line or a filled marker belongs to an estimator that
claims to be unbiased, a dashed line or a hollow marker to one that does not.
"""

from __future__ import annotations

import io
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gradeval.errors import GradevalError, unknown_name
from gradeval.files import write_whole

FIGURE_FORMATS = ("svg", "png", "pdf")
FONT = "DejaVu Sans"  # comes with matplotlib, so a figure has the same letters on every machine
NOISE_FLOOR = 1e-9  # relative errors below this are floating-point noise: on a logarithmic axis they count as zero
SOLID, DASHED = "-", (0, (4, 1.5))  # lines of estimators that claim to be unbiased, and of those that do not

# Okabe and Ito's palette for the colour-blind without its yellow, which is too pale on white, and two of Paul Tol's
# muted colours.
VERMILION, ORANGE, BLUE = "#D55E00", "#E69F00", "#0072B2"
PURPLE, GREEN, BLACK = "#CC79A7", "#009E73", "#000000"
WINE, INDIGO = "#882255", "#332288"
COLOURS = (VERMILION, ORANGE, BLUE, PURPLE, GREEN, INDIGO, WINE)
SHADES = (0.0, -0.35, 0.4, -0.6, 0.65, 0.2)  # of the members of a family: towards black, or towards white
PALER = (0.0, 0.45, 0.25, 0.6, 0.12, 0.35)  # of a dark hue, which would be black otherwise
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "p", "h", "*", "d")


@dataclass(frozen=True)
class Style:
    """How one estimator looks in every figure.

    Attributes:
        colour: as matplotlib names it.
        marker: as matplotlib names it.
    """

    colour: str
    marker: str


def shaded(colour: str, shade: float) -> str:
    """A colour moved towards black or white.

    Args:
        colour: as matplotlib names it.
        shade: from -1, black, to 1, white.

    Returns:
        The colour.

    Examples:
        >>> shaded("#808080", 0.0), shaded("#808080", 1.0), shaded("#808080", -1.0)
        ('#808080', '#ffffff', '#000000')
    """
    red, green, blue = ((1 - abs(shade)) * part + max(shade, 0.0) for part in to_rgb(colour))
    return to_hex((red, green, blue))


FAMILIES = {  # a hue, and of each member a marker
    "score function": (VERMILION, {"reinforce": "o", "rloo": "s", "nvil": "D", "vimco": "^", "local-rloo": "v"}),
    "antithetic": (
        ORANGE,
        {
            **{"arm": "s", "disarm": "D", "arms": "^", "bitflip": "v", "ugc": "p"},
            **{"local-disarm": "X", "local-arms": "P"},
        },
    ),
    "control variates": (INDIGO, {"muprop": "v", "rebar": "^", "relax": "<", "double-cv": ">", "rodeo": "d"}),
    "marginalisation": (
        WINE,
        {
            **{"ram": "X", "leg": "P", "measure-valued": "s", "stochastic-ad": "h"},
            **{"sum-and-sample": "<", "unordered-set": ">"},
        },
    ),
    "relaxation": (
        BLUE,
        {
            **{"concrete:temperature=1.0": "v", "st-gumbel": "p", "concrete:temperature=0.1": "^", "gumbel-rao": "h"},
            **{"concrete": "d", "bayesbinn": "X"},
        },
    ),
    "straight-through": (
        GREEN,
        {"st": "D", "hard-st": "<", "identity-st": ">", "reinmax": "h", "decoupled-st": "s", "reinmax-rao": "P"},
    ),
    "moments": (PURPLE, {"tanh": "P", "adf": "X", "local-reparam": "p", "mve": "h"}),
    "path sums": (BLACK, {"psa": "*", "exact": "H", "sa": "d"}),
}
STYLES = {
    name: Style(shaded(hue, shade), marker)
    for hue, members in FAMILIES.values()
    for shade, (name, marker) in zip(
        itertools.cycle(PALER if hue in (BLACK, WINE, INDIGO) else SHADES), members.items(), strict=False
    )
}
OTHERS = "others"


def family_of(name: str) -> str:
    """The family that an estimator is shown with.

    Args:
        name: of an estimator, with its options.

    Returns:
        A key of `FAMILIES`; "others" for one that is not known.

    Examples:
        >>> family_of("rloo:samples=4"), family_of("mine.py:Tempered")
        ('score function', 'others')
    """
    known = (title for title, (_, members) in FAMILIES.items() if {name, name.partition(":")[0]} & set(members))
    return next(known, OTHERS)


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name, all different (up to the 91 there are); it does not depend on the order of the names.

    A known name has a fixed style, a variant of one (`rloo:samples=4`) its colour. Any other name is hashed to a place
    among the styles that are left, and moves on from there only where two names meet.

    Args:
        names: of estimators.

    Returns:
        Styles by name.

    Examples:
        >>> styles(["psa", "mine"])["psa"]
        Style(colour='#000000', marker='*')
    """
    every = [Style(colour, marker) for marker in MARKERS for colour in COLOURS]
    taken = set(STYLES.values())
    chosen = {}
    for name in sorted(set(names)):
        if name in STYLES:
            chosen[name] = STYLES[name]
            continue
        start = zlib.crc32(name.encode("utf-8", "replace")) % len(every)
        candidates = every[start:] + every[:start]
        family = STYLES.get(name.split(":")[0])
        if family:
            turn = start % len(MARKERS)
            candidates = [Style(family.colour, m) for m in MARKERS[turn:] + MARKERS[:turn]] + candidates
        chosen[name] = next((style for style in candidates if style not in taken), candidates[0])
        taken.add(chosen[name])
    return chosen


StyleSheet: TypeAlias = str | Path | dict[str, Any] | Sequence[str | Path | dict[str, Any]]
"""A style as matplotlib takes it: the name of a style sheet, its file, settings, or several of these."""

LETTERS = 8.0  # points of ordinary text


@contextmanager
def paper_style(style: StyleSheet = ()) -> Iterator[None]:
    """The look of all figures, whatever the reader's matplotlibrc says; matplotlib's settings are restored after.

    Args:
        style: of the caller, on top of it. All letters grow with its "font.size".

    Yields:
        Nothing; figures made or saved within have the look.

    Raises:
        GradevalError: matplotlib has no such style or setting.

    Examples:
        >>> with paper_style({"font.size": 10}):
        ...     matplotlib.rcParams["axes.titlesize"]
        10.0
    """
    sheets = [style] if isinstance(style, str | Path | dict) else list(style)
    size = _letter_size(sheets) / LETTERS if sheets else 1.0
    settings = {
        **sns.axes_style("ticks"),
        "font.family": [FONT],
        "font.sans-serif": [FONT],
        "font.size": LETTERS,
        **dict.fromkeys(("axes.titlesize", "axes.labelsize", "figure.labelsize"), 8 * size),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 7 * size),
        "legend.fontsize": 7.5 * size,
        "axes.linewidth": 0.7,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "svg.hashsalt": "gradeval",  # otherwise the element names in an SVG change from one run to the next
        "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3 fonts
    }
    with matplotlib.style.context(["default", settings, *sheets]):
        yield


def _letter_size(sheets: Sequence[str | Path | dict[str, Any]]) -> float:
    """The size of ordinary letters in a style, which is checked."""
    for sheet in sheets:
        for name in sheet if isinstance(sheet, dict) else ():
            if name not in matplotlib.rcParams:
                raise unknown_name("setting of matplotlib", name, matplotlib.rcParams)
        try:
            with matplotlib.style.context(sheet):
                pass
        except OSError:
            raise unknown_name("style of matplotlib", str(sheet), [*matplotlib.style.available, "default"]) from None
        except ValueError as error:
            raise GradevalError(f"the style {sheet!r} cannot be used: {error}.") from None
    with matplotlib.style.context(["default", {"font.size": LETTERS}, *sheets]):
        return float(matplotlib.rcParams["font.size"])


def letters(points: float) -> float:
    """The size of small letters, which grow with the style.

    Args:
        points: where ordinary text has 8.

    Returns:
        Points.

    Examples:
        >>> with paper_style({"font.size": 16}):
        ...     letters(6)
        12.0
    """
    return points * float(matplotlib.rcParams["font.size"]) / LETTERS


def mark_empty(ax: Axes, why: str = "no finite value") -> None:
    """Say on an empty panel why it is empty.

    Args:
        ax: the panel.
        why: a few words.
    """
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="0.45", fontsize=letters(7))


def log_limits(*columns: pd.Series, room: float = 1.6) -> tuple[float, float]:
    """Limits of a logarithmic axis that holds every finite value above rounding, and at least one decade.

    Args:
        columns: the values.
        room: the factor that is left beyond the smallest and the largest.

    Returns:
        The lower and the upper limit.

    Examples:
        >>> log_limits(pd.Series([1.0, 100.0, 0.0]), room=2.0)
        (0.5, 200.0)
    """
    values = np.concatenate([np.asarray(column, dtype=float) for column in columns])
    values = values[np.isfinite(values) & (values > NOISE_FLOOR)]
    if not values.size:
        return 0.1, 10.0
    low, high = float(values.min()) / room, float(values.max()) * room
    widen = max(1.0, math.sqrt(10 * low / high))
    return low / widen, high * widen


def log_axis(ax: Axes, name: str, low: float, high: float) -> None:
    """Make an axis logarithmic, with ticks at powers of ten, or at 1, 2, 5 where it is short; no slow minor ticks.

    Args:
        ax: the panel.
        name: "x" or "y".
        low, high: the limits.
    """
    short = high < 50 * low
    ax.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis: Axis = getattr(ax, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_words(value)))
    axis.set_minor_locator(NullLocator())


def tick_words(value: float) -> str:
    """A number at a tick, as a power of ten where it has many zeros.

    Args:
        value: 1, 2 or 5 times a power of ten.

    Returns:
        Text for matplotlib.

    Examples:
        >>> tick_words(0.05), tick_words(20_000.0), tick_words(2e6), tick_words(1e-5)
        ('0.05', '20,000', '$2\\\\cdot 10^{6}$', '$10^{-5}$')
    """
    if 1e-4 <= value < 1e6:
        return f"{value:,g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1" else rf"${mantissa}\cdot {power}$"


def tidy(ax: Axes, grid: Literal["x", "y", "both"] = "both") -> None:
    """Give a panel a faint grid and no frame above and on the right.

    Args:
        ax: the panel.
        grid: "x", "y" or "both".
    """
    ax.grid(axis=grid, color="0.92", linewidth=0.6)
    sns.despine(ax=ax)


def save_figure(figure: Figure | None, folder: Path, name: str) -> list[Path]:
    """Write a figure as SVG, PNG and PDF; remove these files where there is no figure.

    Args:
        figure: None where the tables have nothing to show.
        folder: must exist.
        name: of the files, without their ending.

    Returns:
        The paths of the files.
    """
    if figure is not None:
        with paper_style():  # lay out once, not once a format: it takes most of the time
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
    written = []
    for extension in FIGURE_FORMATS:
        path = folder / f"{name}.{extension}"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        write_whole(path, render(figure, extension))
        written.append(path)
    return written


def render(figure: Figure, extension: str) -> bytes:
    """The figure as a file's bytes, without the time of day, which would make every run's files differ.

    Args:
        figure: any.
        extension: "svg", "png" or "pdf".

    Returns:
        The content of the file.
    """
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[extension]
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format=extension, dpi=200, metadata=dateless)
    return buffer.getvalue()
