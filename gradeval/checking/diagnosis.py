"""What is wrong with an estimator, in words: the explanation that fits its mean gradients on all problems at once.

Layers are put into groups by their place (the head, the last layer, those below; the first; …). For each group with a
wrong layer the explanations are tried in turn, from "no gradient" over natural factors to "no single factor"; one fits
where it says what every mean gradient of the group is, the right ones included, within what is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from gradeval.checking.findings import ROUNDING, Finding, Place, Value

Factor = tuple[str, Callable[[Place, str], float]]


def _own(place: Place, layer: str) -> int:
    return place.outputs if layer == "head" else place.widths[int(layer) - 1]


def _below(place: Place, layer: str) -> int:
    below = [place.inputs, *place.widths]
    return below[-1] if layer == "head" else below[int(layer) - 1]


def _number(place: Place, layer: str) -> int:
    return len(place.widths) + 1 if layer == "head" else int(layer)


def _natural() -> Iterator[Factor]:
    """The factors that have a name, the likelier first, each with its inverse; then the same with a minus sign."""

    def delta(place: Place, layer: str) -> float:
        return place.states[1] - place.states[0]

    ratios: list[Factor] = [
        ("2", lambda p, k: 2),
        ("δ = hi − lo", delta),
        ("the number of data points", lambda p, k: p.points),
        ("the layer's own number of units", _own),
        ("the number of the layer's inputs", _below),
        ("the width of the last layer", lambda p, k: p.widths[-1]),
        ("the number of layers", lambda p, k: len(p.widths)),
        ("the number of layers and the head", lambda p, k: len(p.widths) + 1),
        ("the number of all units", lambda p, k: sum(p.widths)),
        ("the number of samples K", lambda p, k: p.samples),
        ("K/(K − 1) (is a sample in its own baseline?)", lambda p, k: p.samples / max(1, p.samples - 1)),
        ("1 + L/2, L the number of layers", lambda p, k: 1 + len(p.widths) / 2),
        ("(L + 1)/2, L the number of layers", lambda p, k: (len(p.widths) + 1) / 2),
        ("2 to the power of the number of layers", lambda p, k: 2 ** len(p.widths)),
        ("the layer's number, counted from the inputs", _number),
        ("the layer's number, counted from the head", lambda p, k: len(p.widths) + 1 - _number(p, k)),
        ("δ²", lambda p, k: delta(p, k) ** 2),
        ("δ/2 (right where the states are two apart)", lambda p, k: delta(p, k) / 2),
        ("3", lambda p, k: 3),
        ("4", lambda p, k: 4),
        ("10", lambda p, k: 10),
    ]
    inverses: dict[str, str] = {
        "2": "½",
        "δ = hi − lo": "1/δ, δ = hi − lo",
        "K/(K − 1) (is a sample in its own baseline?)": "(K − 1)/K (is a sample in its own baseline?)",
        "δ/2 (right where the states are two apart)": "2/δ (right where the states are two apart)",
        "3": "⅓",
        "4": "¼",
        "10": "1/10",
    }
    for sign, prefix in ((1, ""), (-1, "minus ")):
        for name, factor in ratios:
            yield prefix + name, _power(factor, 1, sign)
            yield prefix + inverses.get(name, f"1 / {name}"), _power(factor, -1, sign)


def _power(factor: Callable[[Place, str], float], exponent: int, sign: int) -> Callable[[Place, str], float]:
    def result(place: Place, layer: str) -> float:
        found = factor(place, layer)
        return sign * float(found) ** exponent if found else 0.0

    return result


NATURAL = tuple(_natural())
MOST_FACTORS = 3  # that are named where several fit
MOST_PROPERTIES = 5  # that the failing problems share, in one line

# the ways to put layers into groups by their place, from coarse to fine
GROUPINGS: tuple[dict[str, Callable[[Finding], bool]], ...] = (
    {"all layers and the head": lambda f: True},
    {"the head": lambda f: f.layer == "head", "all layers": lambda f: f.layer != "head"},
    {
        "the head": lambda f: f.layer == "head",
        "the last layer": lambda f: f.layer == str(len(f.place.widths)),
        "the layers below the last": lambda f: f.layer not in ("head", str(len(f.place.widths))),
    },
    {
        "the head": lambda f: f.layer == "head",
        "the first layer": lambda f: f.layer == "1",
        "the layers above the first": lambda f: f.layer not in ("head", "1"),
    },
    {
        "the head": lambda f: f.layer == "head",
        "the first layer, where there are several": lambda f: f.layer == "1" and len(f.place.widths) > 1,
        "the layers between the first and the last": lambda f: f.layer not in ("head", "1", str(len(f.place.widths))),
        "the last layer": lambda f: f.layer == str(len(f.place.widths)),
    },
)


def diagnose(findings: list[Finding], values: list[Value]) -> list[str]:
    """Explain in words what is wrong with an estimator.

    Args:
        findings: what is known of every layer of every problem.
        values: what is known of the mean value on every problem.

    Returns:
        One line for each group of wrong layers, then what the failing problems have in common, then the same for the
        value; no lines where nothing is wrong.
    """
    wrong = [f for f in findings if f.unequal]
    lines = []
    if wrong:
        lines += _groups(findings)
        lines += _where([f.place for f in wrong], [f.place for f in findings], "the gradient")
    false = [v for v in values if v.unequal]
    if false:
        lines += _value(values)
        lines += _where([v.place for v in false], [v.place for v in values], "the value")
    elif wrong and values:
        lines.append("the value is right on every problem: the error is in the gradient only")
    return lines


def _groups(findings: list[Finding]) -> list[str]:
    """One line for each group of the first grouping that explains every group with a wrong layer.

    Where none does, the line of a group without an explanation says in numbers how it is wrong.
    """
    # all together only where the head and some layer are wrong
    together = len({f.layer == "head" for f in findings if f.unequal}) == 2
    for grouping in GROUPINGS if together else GROUPINGS[1:]:
        groups = {name: [f for f in findings if member(f)] for name, member in grouping.items()}
        groups = {name: group for name, group in groups.items() if any(f.unequal for f in group)}
        found = {name: _explanation(group) for name, group in groups.items()}
        if all(found.values()):
            return [f"{name}: {explanation}" for name, explanation in found.items()]
    lines = []
    for name, member in GROUPINGS[2].items():
        group = [f for f in findings if member(f)]
        if any(f.unequal for f in group):
            lines.append(f"{name}: {_explanation(group) or _in_numbers([f for f in group if f.unequal])}")
    return lines


def _explanation(group: list[Finding]) -> str | None:
    constant = _constant_draws(f for f in group if f.unequal)
    for explain in (_nothing, _sign, _factor, _block, _transposed, _density, _units, _constant):
        if text := explain(group):
            if constant and explain not in (_nothing, _block, _units):
                text += "; it is the same in all draws: the gradient does not depend on the draw"
            return text
    return None


def _constant_draws(findings: Iterable[Finding]) -> bool:
    return all(f.variance_high < 1e-12 for f in findings)


def _nothing(group: list[Finding]) -> str | None:
    if all(f.is_near(0 * f.exact) for f in group):
        return "the mean gradient is zero: the layer is missing, or cut off by a detach"
    return None


def _sign(group: list[Finding]) -> str | None:
    return "the sign is wrong: minus the exact gradient" if all(f.is_near(-f.exact) for f in group) else None


def _factor(group: list[Finding]) -> str | None:
    fitting = [name for name, factor in NATURAL if _is_factor(factor, group)]
    if not fitting:
        return None
    scales, (first, *others) = _range(f.scale for f in group if f.unequal), fitting
    if not others:
        return f"the exact gradient times {first} (scale {scales})"
    if len(fitting) <= MOST_FACTORS:
        return (
            f"the exact gradient times {first} (scale {scales}), or times {' or '.join(others)}: "
            "these problems do not tell them apart"
        )
    return (
        f"the exact gradient times {first} (scale {scales}): these problems do not tell it from {others[0]} and "
        f"{len(others) - 1} others"
    )


def _is_factor(factor: Callable[[Place, str], float], group: list[Finding]) -> bool:
    # a factor of 1 explains no wrong layer, however little is known of it
    if any(factor(f.place, f.layer) == 1 for f in group if f.unequal):
        return False
    return all(f.is_near(factor(f.place, f.layer) * f.exact) for f in group)


def _block(group: list[Finding]) -> str | None:
    if not any(f.shape for f in group if f.unequal):
        return None
    for name, part in (("bias", 1), ("weight", 0)):

        def without(f: Finding, part: int = part) -> np.ndarray:
            if f.shape is None:
                return f.exact
            blocks = list(f.split(f.exact))
            blocks[part] = 0 * blocks[part]
            return np.concatenate([block.ravel() for block in blocks])

        if all(f.is_near(without(f)) for f in group):
            return f"the {name} gets no gradient, the rest is right"
    return None


def _transposed(group: list[Finding]) -> str | None:
    if not any(f.shape is not None and f.shape[0] == f.shape[1] for f in group if f.unequal):
        return None

    def turned(f: Finding) -> np.ndarray:
        if f.shape is None or f.shape[0] != f.shape[1]:
            return f.exact
        weight, bias = f.split(f.exact)
        return np.concatenate([weight.T.ravel(), bias])

    if all(f.is_near(turned(f)) for f in group):
        return "the weight's gradient is transposed (where the weight is square; the rest is right)"
    return None


def _density(group: list[Finding]) -> str | None:
    names = {name for f in group for name in f.others}
    for name in sorted(names):
        if all(f.is_near(f.others.get(name, f.exact)) for f in group):
            return f"as with the density of {name} noise in place of F', whatever the noise is"
    return None


def _units(group: list[Finding]) -> str | None:
    """Each unit's gradient is either right or zero."""
    silent: set[str] = set()
    for f in group:
        if f.shape is None:
            if not f.is_near(f.exact):
                return None
            continue
        (weight, bias), (mean, offset) = f.split(f.exact), f.split(f.mean)
        exact, found = np.column_stack([weight, bias]), np.column_stack([mean, offset])
        tolerance = f.radius + ROUNDING
        zero = np.linalg.norm(found, axis=1) <= tolerance
        right = np.linalg.norm(found - exact, axis=1) <= tolerance
        alive = np.linalg.norm(exact, axis=1) > tolerance  # a saturated unit's gradient is zero
        if not (zero | right).all() or (alive.sum() > 1 and zero.all()):
            return None
        missing = np.flatnonzero(zero & ~right)
        last = len(exact) - 1
        silent |= {"the last" if i == last else "the first" if i == 0 else "some" for i in missing}
    if not silent:
        return None
    which = f"{silent.pop()} unit gets" if len(silent) == 1 and "some" not in silent else "some units get"
    return f"{which} no gradient, the others are right"


def _constant(group: list[Finding]) -> str | None:
    best = min(group, key=lambda f: f.radius)
    if all(f.is_near(best.scale * f.exact) for f in group):
        return f"the exact gradient times {best.scale:.4g} on every problem: one factor, near no natural number"
    return None


def _in_numbers(wrong: list[Finding]) -> str:
    scales, cosines = _range(f.scale for f in wrong), _range(f.cosine[0] for f in wrong)
    biases = _range(f.relative_bias[0] for f in wrong)
    what = "it is the same in all draws: the gradient does not depend on the draw"
    if not _constant_draws(wrong):
        what = "no single factor, sign, transposition or density explains it"
    return f"relative bias {biases}, scale {scales}, cosine of the mean {cosines}: {what}"


def _range(numbers: Iterable[float]) -> str:
    numbers = list(numbers)
    low, high = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return low if low == high else f"{low} to {high}"


def _value(values: list[Value]) -> list[str]:
    def fits(factor: Callable[[Place, str], float]) -> bool:
        tolerances = (v.radius + ROUNDING * abs(v.exact) for v in values)
        pairs = zip(values, tolerances, strict=True)
        return all(abs(v.mean - factor(v.place, "head") * v.exact) <= tolerance for v, tolerance in pairs)

    if fits(lambda place, layer: 0):
        return ["the value: E[value] is zero on every problem, not J"]
    if fits(lambda place, layer: -1):
        return ["the value: its sign is wrong, E[value] = −J"]
    for name, factor in NATURAL:
        if fits(factor):
            return [f"the value: E[value] is J times {name}"]
    worst = max((v for v in values if v.unequal), key=lambda v: abs(v.mean - v.exact) / max(abs(v.exact), 1e-300))
    return [f"the value: E[value] is {worst.mean:.4g}, J is {worst.exact:.4g} on {worst.place.name}"]


def _where(wrong: list[Place], every: list[Place], what: str) -> list[str]:
    """The properties that the failing problems have and no other problem has, if there are any."""
    bad, names = {p.name for p in wrong}, {p.name for p in every}
    if bad == names:
        return []
    tests: dict[str, Callable[[Place], bool]] = {
        "there is one layer": lambda p: len(p.widths) == 1,
        "units are saturated": lambda p: p.saturated,
    }
    sizes: dict[str, Callable[[Place], int]] = {
        "there are more than {} data points": lambda p: p.points,
        "there are more than {} layers": lambda p: len(p.widths),
        "a layer has more than {} units": lambda p: max(p.widths),
        "there are more than {} outputs": lambda p: p.outputs,
    }
    for text, size in sizes.items():
        for bound in sorted({size(p) for p in every}):
            tests[_plural(text.format(bound))] = _above(size, bound)
    for trait in sorted({trait for p in every for trait in p.traits}):
        tests[trait] = _among(trait)
    usual = [s for s in ((0.0, 1.0), (-1.0, 1.0)) if s in {p.states for p in every}]
    if usual:
        words = " or ".join(f"{{{lo:g}, {hi:g}}}" for lo, hi in usual)
        tests[f"the states are not {words}"] = lambda p: p.states not in usual
    for states in sorted({p.states for p in every}):
        tests[f"the states are {{{states[0]:g}, {states[1]:g}}}"] = _having(lambda p: p.states, states)
    for noise in sorted({p.noise for p in every}):
        tests[f"the noise is {noise}"] = _having(lambda p: p.noise, noise)
        tests[f"the noise is not {noise}"] = _lacking(lambda p: p.noise, noise)
    for loss in sorted({p.loss for p in every}):
        tests[f"the loss is {loss}"] = _having(lambda p: p.loss, loss)
        tests[f"the loss is not {loss}"] = _lacking(lambda p: p.loss, loss)
    rarest = sorted({p.rarest for p in every})
    for above in rarest[1:]:  # one bound between any two problems, rounded down to one digit
        decade = 10.0 ** math.floor(math.log10(above))
        rare = decade * math.floor(above / decade)
        tests[f"a state has a probability below {rare:g}, but not zero"] = _above(lambda p: -p.rarest, -rare)
    having = {text: {p.name for p in every if test(p)} for text, test in tests.items()}
    fitting = [text for text, found in having.items() if found == bad]
    if not fitting:
        wider = {text: found for text, found in having.items() if bad < found and 2 * len(found) <= len(names)}
        tightest = min(wider, key=lambda text: len(wider[text]), default="")
        return [f"{what} is wrong only where {tightest}, though not on all of these problems"] if wider else []
    same = f" (on these problems that is: {'; '.join(fitting[1:MOST_PROPERTIES])})" if len(fitting) > 1 else ""
    return [f"{what} is wrong exactly where {fitting[0]}{same}"]


def _plural(text: str) -> str:
    """“Are more than 1 layers” as one says it."""
    for many, one in (("points", "point"), ("layers", "layer"), ("units", "unit"), ("outputs", "output")):
        if text.endswith(f"than 1 {many}") or text.endswith(f"than 1 data {many}"):
            return text.replace("are", "is").replace("than 1", "than one").removesuffix(many) + one
    return text


def _above(size: Callable[[Place], int | float], bound: int | float) -> Callable[[Place], bool]:
    return lambda place: size(place) > bound


def _among(trait: str) -> Callable[[Place], bool]:
    return lambda place: trait in place.traits


def _having(fact: Callable[[Place], object], value: object) -> Callable[[Place], bool]:
    return lambda place: fact(place) == value


def _lacking(fact: Callable[[Place], object], value: object) -> Callable[[Place], bool]:
    return lambda place: fact(place) != value
