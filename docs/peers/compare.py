"""Value and gradient of J by general tools that enumerate, beside this one: tox -e peers.

    python docs/peers/compare.py                  writes docs/peers/comparison.md (some minutes)

Each measurement is a process of its own, stopped at a limit of time and memory. Its value and gradient must equal this
project's to 1e-9 before its time counts (Storchastic's to 1e-7: it adds costs up in float32). The peers are general:
they take any distribution and any program, and this project one family of networks; the comparison shows what the
restriction buys, not a fault of theirs.

Pyro: `TraceEnum_ELBO` (tensor variable elimination), every unit one enumerated Bernoulli of the guide. The model holds
the same units, so that the ELBO is E[−f] − KL(q‖q) = E[−f]. Storchastic: `Expect`, one per layer.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient

NETS = ("5-5", "5-5-5", "8-8", "10-10")
POINTS = 200


def task(net: str) -> Problem:
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(2, [int(n) for n in net.split("-")], 1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    inputs = torch.randn(POINTS, 2, generator=random)
    return Problem(network, inputs, 2 * torch.randint(0, 2, (POINTS,), generator=random) - 1)


def value_and_gradient(network: StochasticBinaryNetwork, value: Tensor) -> tuple[float, Tensor]:
    gradients = torch.autograd.grad(value, list(network.parameters()))
    return value.item(), torch.cat([g.flatten() for g in gradients])


def with_gradeval(problem: Problem) -> tuple[float, Tensor]:
    exact = exact_gradient(problem)
    return exact.value, exact.vector


def with_pyro(problem: Problem) -> tuple[float, Tensor]:
    import pyro
    from pyro import distributions, infer

    network = problem.network

    def units() -> list[Tensor]:
        """Samples every unit given those below; each sample has an enumeration dimension of its own."""
        states = list(problem.inputs.unbind(-1))
        for k, layer in enumerate(network.layers):
            chances = [
                layer.probability(sum(w * x for w, x in zip(row, states, strict=True)) + b)  # type: ignore[arg-type]
                for row, b in zip(layer.map.weight, layer.map.bias, strict=True)
            ]
            states = [pyro.sample(f"{k}.{j}", distributions.Bernoulli(p)) for j, p in enumerate(chances)]
        return states

    def model() -> None:
        with pyro.plate("points", problem.points):
            states = units()
            output = sum(w * x for w, x in zip(network.head.weight[0], states, strict=True)) + network.head.bias
            pyro.factor("loss", -torch.nn.functional.softplus(-problem.targets * output))

    @infer.config_enumerate  # type: ignore[misc]
    def guide() -> None:
        with pyro.plate("points", problem.points):
            units()

    pyro.clear_param_store()
    elbo = infer.TraceEnum_ELBO(max_plate_nesting=1)
    return value_and_gradient(network, elbo.differentiable_loss(model, guide) / problem.points)


def with_storchastic(problem: Problem) -> tuple[float, Tensor]:
    import storch
    from torch.distributions import Bernoulli

    network = problem.network
    storch.reset()
    x = storch.denote_independent(problem.inputs, 0, "points")
    y = storch.denote_independent(problem.targets, 0, "points")
    for k, layer in enumerate(network.layers):
        x = storch.method.Expect(f"layer{k}", budget=2**20)(Bernoulli(probs=layer.probability(layer.preactivation(x))))
    loss = torch.nn.functional.softplus(-y * network.head(x).squeeze(-1))
    storch.add_cost(loss, "loss")
    network.zero_grad()
    value = storch.backward()
    return value.item(), torch.cat([p.grad.flatten() for p in network.parameters()])  # type: ignore[union-attr]


TOOLS: dict[str, Callable[[Problem], tuple[float, Tensor]]] = {
    "gradeval": with_gradeval,
    "pyro-ppl": with_pyro,
    "storchastic": with_storchastic,
}


def measure(tool: str, net: str, memory: int) -> dict[str, float]:
    """Seconds and peak bytes in this process. Raises AssertionError if the tool's result is another."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    problem, function = task(net), TOOLS[tool]
    right = exact_gradient(problem)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    value, gradient = function(problem)
    times = [time.perf_counter() - began]
    tolerance = 1e-7 if tool == "storchastic" else 1e-9
    assert abs(value - right.value) < tolerance, f"the value is {value}, not {right.value}"
    error = float((gradient - right.vector).abs().max())
    assert error < tolerance, f"the gradient differs by {error}"
    while sum(times) < 5 and len(times) < 100:
        began = time.perf_counter()
        function(problem)
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    return {"seconds": min(times), "bytes": peak * 2**10}


def cell(tool: str, net: str, seconds: float, memory: int) -> tuple[str, float]:
    """What the table says, and the seconds (NaN where there are none)."""
    arguments = [sys.executable, "-W", "ignore", __file__, "--measure", tool, net, "--memory", str(memory)]
    try:
        run = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"over {seconds:.0f} s", math.nan
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"ended by signal {-run.returncode}"])[-1]
        print(f"{tool} {net}: {run.stderr}", file=sys.stderr)
        memory_ended = "allocate memory" in last or "MemoryError" in last or "bad_alloc" in last
        return f"over {memory / 2**30:.0f} GiB" if memory_ended else f"fails: {last[:160]}", math.nan
    found = json.loads(run.stdout.splitlines()[-1])
    time_taken = f"{found['seconds']:.3g} s" if found["seconds"] >= 1 else f"{1e3 * found['seconds']:.3g} ms"
    return f"{time_taken}, {found['bytes'] / 2**20:.0f} MiB", found["seconds"]


def draw(seconds: Mapping[str, Sequence[float]]) -> None:
    """The figure: time of every tool on every net."""
    plt.rcParams["svg.hashsalt"] = "gradeval"
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for (tool, times), colour, marker in zip(
        seconds.items(), ("#0072B2", "#E69F00", "#D55E00"), ("o", "s", "^"), strict=True
    ):
        axes.semilogy(NETS, times, color=colour, marker=marker, label=tool)
    axes.set(xlabel="units of each layer", ylabel="seconds for J and its gradient")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(Path(__file__).parent / "comparison.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, metavar=("TOOL", "NET"), help="measure here, and print JSON")
    parser.add_argument("--seconds", type=float, default=600, help="limit for one measurement")
    parser.add_argument("--memory", type=int, default=12 * 2**30, help="limit of address space in bytes")
    arguments = parser.parse_args()
    if arguments.measure:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(*arguments.measure, arguments.memory)))
        return
    lines = [f"| net | {' | '.join(TOOLS)} |", "|---" * (1 + len(TOOLS)) + "|"]
    seconds: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for net in NETS:
        cells = [cell(tool, net, arguments.seconds, arguments.memory) for tool in TOOLS]
        for tool, (_, found) in zip(TOOLS, cells, strict=True):
            seconds[tool].append(found)
        lines.append(f"| {net} | {' | '.join(text for text, _ in cells)} |")
        print(lines[-1], file=sys.stderr)
    draw(seconds)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pyro-ppl", "storchastic"))
    settings = f"{platform.machine()}, {torch.get_num_threads()} threads; {versions}"
    limits = f"{arguments.seconds:.0f} s and {arguments.memory / 2**30:.0f} GiB of address space"
    table = "\n".join(lines)
    (Path(__file__).parent / "comparison.md").write_text(f"""\
# Exact value and gradient: general tools beside this one

Written by `tox -e peers` ({settings}).
{POINTS} points, two inputs, two labels, float64; best time, and peak memory beyond the imported libraries. Every value
and gradient equals this project's to 1e-9 (Storchastic's, added up in float32, to 1e-7). Limits: {limits}.

![time of every tool on every net](comparison.svg)

{table}

The peers are general: Pyro eliminates the variables of any discrete program, Storchastic enumerates any distribution
with finite support. Neither can know that all points share the tables of a layer, or that a layer's states split into
halves. Storchastic enumerates the product of all layers' states for every point. Pyro treats every unit as a variable;
written as the bound of a guide, as here, it eliminates the guide's units beside the model's.
""")


if __name__ == "__main__":
    main()
