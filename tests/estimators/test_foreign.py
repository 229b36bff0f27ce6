"""Foreign code that samples and calls backward itself, as an estimator."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import torch

from gradeval.checking.battery import ROWS, make_problem
from gradeval.checking.procedure import check
from gradeval.estimators.foreign import Foreign
from gradeval.sampling.sampler import Sampler

ONE = [make_problem(ROWS[0])]


QUIET = [make_problem(ROWS[3])]  # little variance: few draws of what is drawn in a loop


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_documents_example_of_foreign_code_runs(tmp_path: Path) -> None:
    """The Python block of docs/check.md on the adapter is a file that `gradeval check` takes."""
    text = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "Foreign(" in b)
    (tmp_path / "theirs.py").write_text(block)
    adapter = module_of(tmp_path / "theirs.py").theirs
    verdict = check(adapter, detect=0.3, alpha=0.01, problems=QUIET, workers=1)
    assert verdict.verdict == "holds", verdict
    assert any("it owns its sampling" in note for note in verdict.notes)
    first, again, other = (Sampler(QUIET[0], "theirs", adapter).chunk(5, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)  # its draws follow from the seed
    assert not torch.equal(first, other)


def foreign(scale: float, value: object = None, backward: bool = True):
    def sample(network, inputs, loss):
        x, log_prob = inputs, 0.0
        for layer in network.layers:
            a = layer.preactivation(x)
            s = torch.bernoulli(layer.probability(a).detach())
            log_prob, x = log_prob + layer.log_prob(s, a), layer.encode(s)
        f = loss(x)
        if backward:
            (f + scale * f.detach() * log_prob).mean().backward()
        return f.detach() if value is None else value

    return Foreign(sample, unbiased=True)


def test_foreign_code_that_is_wrong_fails() -> None:
    before = torch.get_rng_state()
    verdict = check(foreign(2.0), detect=0.3, alpha=0.01, problems=QUIET, workers=1)
    assert torch.equal(before, torch.get_rng_state())
    assert verdict.diagnosis[0].startswith("all layers: the exact gradient times 2"), verdict
    left = check(foreign(1.0, backward=False), problems=ONE)
    assert "left no gradient" in left.diagnosis[0]
    no_value = check(foreign(1.0, value="text"), problems=ONE)
    assert "must return its estimate of the loss" in no_value.diagnosis[0]
