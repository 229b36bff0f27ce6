"""What people give: many calls in one table, each with what it must give, or the words with which it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gradeval
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.model.noise import Logistic, Noise
from gradeval.problems.tasks import Task


class Refused(str):
    """Words of the message with which a call is refused."""


class Softsign(Noise):
    """F(a) = (1 + a/(1 + |a|))/2."""

    name = "softsign"

    def cdf(self, a):
        return 0.5 + 0.5 * a / (1 + a.abs())

    def pdf(self, a):
        return 0.5 / (1 + a.abs()) ** 2

    def icdf(self, u):
        t = 2 * u - 1
        return t / (1 - t.abs())


class WrongDensity(Softsign):
    name = "wrong"

    def pdf(self, a):
        return 1 / (1 + a.abs()) ** 2


class Lopsided(Softsign):
    name = "lopsided"

    def cdf(self, a):
        return torch.sigmoid(a - 1)


class Unnamed(Logistic):
    """It has the name of another noise."""


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, dtype=torch.float64)


def network(**options: Any) -> gradeval.StochasticBinaryNetwork:
    return gradeval.StochasticBinaryNetwork([linear(2, 2)], linear(2, 1), **options)


def marked(*others: nn.Module) -> nn.Sequential:
    units = gradeval.BinaryUnits(noise="normal", states=(-1, 1))
    return nn.Sequential(linear(2, 3), units, nn.Tanh(), linear(3, 2), units, linear(2, 1), *others)


X, Y = [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], [1, -1, 1]
WEIGHTS = [(np.ones((2, 2)), np.zeros(2)), ([[1.0, 2.0]], [0.0])]

CALLS: list[tuple[str, Any]] = [
    # names of problems and estimators, wherever one is meant
    ("exact_gradient(FILE).value == exact_gradient(str(FILE), 'layerwise').value == J", True),
    ("exact_gradient(Task(P)).value == J", True),
    ("evaluate(str(FILE), 'st', draws=20).manifest['problem']['exact_value'] == J", True),
    ("check('disarm', problems=FILE).verdict", "holds"),
    ("train(FILE, 'st', SHORT, folder=TMP).estimators", ["st"]),
    ("exact_gradient('expclas')", Refused("unknown problem 'expclas': did you mean expclass?")),
    ("exact_gradient(P.network)", Refused("found a network: a problem also has data and a loss")),
    ("exact_gradient(None)", Refused("a problem is a gradeval.Problem, a name such as 'expclass'")),
    ("exact_moments(P, 'psa').relative_bias()['all'] < 1e-9", True),
    ("exact_moments(P, 'pas')", Refused("unknown estimator 'pas': did you mean psa")),
    ("exact_moments(P, ['psa', 'st'])", Refused("one estimator is wanted here, found 2: psa, st.")),
    ("list(evaluate(P, 'psa', draws=20).moments)", ["psa"]),
    ("list(evaluate(P, 'psa, st', draws=20).moments)", ["psa", "st"]),
    ("list(evaluate(P, get('st'), draws=20).moments)", ["st"]),
    ("list(evaluate(P, {'a': 'st', 'b': get('st')}, draws=20).moments)", ["a", "b"]),
    ("evaluate('expclas', 'psa')", Refused("unknown problem 'expclas'")),
    ("evaluate(P, None)", Refused("an estimator is a spec such as 'psa', a function or an object that can be called")),
    ("evaluate(P, 3)", Refused("that can be called, found 3.")),
    ("evaluate(P, [])", Refused("no estimators given.")),
    ("evaluate(P, '')", Refused("no estimators given.")),
    ("evaluate(P, ['st', 'st'])", Refused("'st' is given twice. A dictionary names them")),
    ("evaluate(P, {1: 'st'})", Refused("the names of estimators must be printable texts, found 1.")),
    ("evaluate(P, {'a': 'st, psa'})", Refused("'a' names one estimator, found 2")),
    ("check('disarm', problems=P).verdict", "holds"),
    ("check('pas', problems=P)", Refused("unknown estimator 'pas'")),
    ("check(['psa', 'st'], problems=P)", Refused("one estimator is wanted here")),
    ("check(None, problems=P)", Refused("an estimator is a spec such as 'psa'")),
    ("check('psa', problems='expclas')", Refused("unknown problem 'expclas'")),
    ("check('psa', problems=[])", Refused("problems is empty")),
    ("check('psa', problems=P, equals='pas')", Refused("unknown estimator 'pas'")),
    ("train(P, 'st', SHORT, folder=TMP).estimators", ["st"]),
    ("train(P, {'mine': 'st'}, SHORT, folder=TMP).estimators", ["mine"]),
    ("train('expclas', 'st', SHORT, folder=TMP)", Refused("unknown problem 'expclas'")),
    # widths
    ("load_problem('expclass', units=(3, 3), stage=0).widths", [3, 3]),
    ("load_problem('expclass', units=[3, 3], stage=0).name", "expclass 3-3"),
    ("load_problem('expclass', units=3, stage=0).widths", [3]),
    ("load_problem('expclass', units=np.array([3, 2]), stage=0.0).widths", [3, 2]),
    ("load_problem('expclass', units=(3.5,), stage=0)", Refused("units must be widths, such as '5-5-5', (5, 5, 5)")),
    ("load_problem('expclass', units=0, stage=0)", Refused("every width must be at least 1; found '0'")),
    ("load_problem('expclass', units='3x3', stage=0)", Refused("units must be widths joined by '-'")),
    ("load_problem('expclass', units=None, stage=0)", Refused("units must be widths, such as '5-5-5'")),
    ("load_problem('digits', units=('1c', 2), points=9).widths", [16, 2]),
    ("load_problem('vae', units=(2,), encoder=(3,), decoder='', points=9).widths", [2]),
    ("Network.linear(2, '3-2', 1).layer_slices()['head']", slice(17, 20)),
    ("Network.linear(2, 3, 1).layer_slices()['head']", slice(9, 13)),
    ("Network.linear(2, [3, 0], 1)", Refused("every width must be at least 1; found '3-0'")),
    ("Network.linear(2, [3], 0)", Refused("outputs must be at least 1, found 0.")),
    # numbers
    ("evaluate(P, 'st', draws=2e1).manifest['draws']", 20),
    ("evaluate(P, 'st', draws=np.int64(20), seed=torch.tensor(1)).manifest['seed']", 1),
    ("evaluate(P, 'st', draws=20.5)", Refused("draws must be a whole number, found 20.5.")),
    ("evaluate(P, 'st', draws='20')", Refused("draws must be a whole number, found '20'.")),
    ("evaluate(P, 'st', draws=True)", Refused("draws must be a whole number, found True.")),
    ("evaluate(P, 'st', draws=19)", Refused("draws must be at least 20, found 19.")),
    ("evaluate(P, 'st', seed='0')", Refused("seed must be a whole number, found '0'.")),
    ("evaluate(P, 'st', seed=None)", Refused("seed must be a whole number, found None.")),
    ("evaluate(P, 'st', workers=1.5)", Refused("workers must be a whole number, found 1.5.")),
    ("evaluate(P, 'st', workers='2')", Refused("workers must be a whole number, found '2'.")),
    ("evaluate(P, 'st', workers=0)", Refused("workers must be at least 1, found 0.")),
    ("evaluate(P, 'st', detect='a')", Refused("detect must be a number, found 'a'.")),
    ("evaluate(P, 'st', working_memory='1')", Refused("working_memory must be a number, found '1'.")),
    ("evaluate(P, 'st', executor='processes', timeout='3')", Refused("timeout must be a number, found '3'.")),
    ("evaluate(P, 'st', executor=3)", Refused("unknown executor '3': known are processes, threads.")),
    ("evaluate(P, 'st', exact=True)", Refused("unknown choice of exact 'True'")),
    ("evaluate(P, 'st', reference=None)", Refused("unknown reference 'None'")),
    ("evaluate(P, 'st', precision='single')", Refused("unknown precision 'single'")),
    ("evaluate(P, 'st', worker=1)", Refused("unknown option of evaluate 'worker': did you mean workers")),
    ("evaluate(P, 'st', draw=100)", Refused("unknown option of evaluate 'draw': did you mean draws")),
    ("evaluate(P, 'st', folder=3)", Refused("folder must be a path, found 3.")),
    ("evaluate(P, 'st', arguments='a')", Refused("arguments must be a dictionary")),
    ("evaluate(P, 'st', progress=3)", Refused("progress must be True or an object with start, advance and finish")),
    ("check('psa', problems=P, alpha='a')", Refused("alpha must be a number, found 'a'.")),
    ("check('psa', problems=P, seed='a')", Refused("seed must be a whole number")),
    ("check('psa', problems=P, unbiased='yes')", Refused("unbiased must be True or False, found 'yes'.")),
    ("check('psa', problems=P, max_draws=2.5)", Refused("max_draws must be a whole number, found 2.5.")),
    ("check('psa', problems=P, max_relative_bias='a')", Refused("max_relative_bias must be a number, found 'a'.")),
    ("exact_gradient(P, None)", Refused("unknown method 'None'")),
    ("exact_gradient(P, seconds='a')", Refused("seconds must be a number, found 'a'.")),
    ("exact_moments(P, 'concrete', samples=1.5)", Refused("samples must be a whole number, found 1.5.")),
    ("load_problem('expclass', stage='1')", Refused("stage must be a whole number, found '1'.")),
    ("load_problem('expclass', stage=0, points='10')", Refused("points must be a whole number, found '10'.")),
    ("load_problem('expclass', unit='2')", Refused("unknown option of problem 'expclass' 'unit': did you mean units?")),
    ("load_problem(None)", Refused("the name of a problem, or the path of its file, must be a path, found None.")),
    ("Protocol(epochs=1.5)", Refused("epochs must be a whole number, found 1.5.")),
    ("Protocol(rates=0.1).rates", (0.1,)),
    ("Protocol(rates=['a'])", Refused("a rate must be a number, found 'a'.")),
    ("Protocol(gradient_epochs=1.0).snapshot_epochs", (1,)),
    ("train(P, 'st', {'epochs': 1}, folder=TMP)", Refused("protocol must be a gradeval.Protocol(epochs=…)")),
    # hyper-parameters in specs
    ("get('concrete:temperature=a')", Refused("concrete: temperature must be a number, found 'a'.")),
    ("get('gumbel-rao:samples=2.5')", Refused("gumbel-rao: samples must be a whole number, found '2.5'.")),
    ("get('concrete:temperature=1,temperature=2')", Refused("concrete: temperature is given twice.")),
    ("get('concrete:0.1')", Refused("unknown hyper-parameter of 'concrete' '0.1'")),
    # noise and states
    ("network(noise=Softsign()).noise.name", "softsign"),
    ("evaluate(Problem(network(noise=Softsign), X, Y), 'psa', draws=20).manifest['problem']['noise']", "softsign"),
    ("Problem(network(noise=Softsign), X, Y).save(TMP)", Refused("a noise of your own, softsign, cannot be saved")),
    ("network(noise=WrongDensity)", Refused("noise 'wrong': pdf is not the derivative of cdf.")),
    ("network(noise=Lopsided)", Refused("noise 'lopsided': cdf is not symmetric")),
    ("network(noise=Unnamed)", Refused("needs a name that no other has, found 'logistic'.")),
    ("network(noise=Noise)", Refused("needs a name that no other has, found None.")),
    ("network(noise='gauss')", Refused("unknown noise 'gauss'")),
    ("network(noise=3)", Refused("unknown noise '3'")),
    ("network(states=np.array([-1, 1])).states", (-1.0, 1.0)),
    ("network(states='01')", Refused("states must be two numbers (lo, hi), found '01'.")),
    ("network(states=(0, 1, 2))", Refused("states must be two numbers (lo, hi), found (0, 1, 2).")),
    ("network(states=(1, 0))", Refused("states must be [lo, hi] with lo < hi, found [1.0, 0.0].")),
    # data
    ("Problem(network(), X, Y).inputs.tolist() == X", True),
    ("Problem(network(), np.array(X), np.array(Y)).targets.tolist()", [1.0, -1.0, 1.0]),
    ("Problem(network(), pd.DataFrame(X), pd.DataFrame({'y': Y})).targets.tolist()", [1.0, -1.0, 1.0]),
    (
        "Problem(network(), pd.DataFrame(X), pd.Series(Y, index=[0, 2, 1]))",
        Refused("row 1 of inputs has the index 1, that of targets 2"),
    ),
    ("Problem(network(), pd.DataFrame(X), pd.Series(Y)).targets.tolist()", [1.0, -1.0, 1.0]),
    ("Problem(network(), pd.DataFrame(X, index=[np.nan] * 3), pd.Series(Y, index=[np.nan] * 3)).points", 3),
    (
        "Problem(network(), X, Y, lambda o, t, i: o)",
        Refused("the loss cannot be called with (outputs, targets): <lambda>() missing 1 required"),
    ),
    ("gradeval.atlas.load('tied-logit').problem.points", 1),
    ("Problem(network(), [[1, 2], [3]], [1, -1])", Refused("inputs must be rows of equal lengths, found [[1, 2]")),
    ("Problem(network(), pd.DataFrame([['a', 1.0]]), [1])", Refused("inputs must be numbers")),
    ("Problem(network(), pd.DataFrame([[None, 1.0]]), [1])", Refused("inputs[0, 0] is nan")),
    ("Problem(network(), [0.0, 1.0], [1, -1])", Refused("inputs must have a row for each point, [points, inputs]")),
    ("Problem(network(), None, Y)", Refused("inputs must be numbers, in a tensor, an array, a table or lists")),
    ("Problem(network(), np.ones((3, 2), complex), Y)", Refused("inputs must be real numbers")),
    ("Problem(network(), X, ['a', 'b', 'a'])", Refused("targets must be numbers")),
    ("Problem(network(), X, [0, 1, 0])", Refused("each -1 or 1; found 0, 1.")),
    ("Problem(network(), X, Y, 'square')", Refused("unknown loss 'square': did you mean squared?")),
    ("Problem(network(), X, Y, None)", Refused("unknown loss 'None'")),
    ("Problem(network(), X, Y, name=3)", Refused("name must be a text, found 3.")),
    ("P.to('cudaa')", Refused("device 'cudaa' cannot be used")),
    ("P.to(dtype='float32')", Refused("dtype must be one of torch's, such as torch.float32, found 'float32'.")),
    ("P.save('/nowhere/a.json')", Refused("cannot write /nowhere/a.json")),
    # networks from what there is
    ("Problem(marked(), X, Y).widths", [3, 2]),
    ("Problem(marked(), X, Y).network.states", (-1.0, 1.0)),
    ("len(marked()(torch.tensor(X, dtype=torch.float64)).unique()) <= 3", True),
    ("Problem(nn.Sequential(linear(2, 1)), X, Y)", Refused("has no binary units: put a gradeval.BinaryUnits()")),
    ("Problem(marked(BinaryUnits()), X, Y)", Refused("must have the same noise and states, found several")),
    ("Problem(marked(marked()[1]), X, Y)", Refused("BinaryUnits with no map after the last")),
    ("Problem(linear(2, 1), X, Y)", Refused("give the maps between its units: StochasticBinaryNetwork([map,")),
    ("BinaryUnits(noise='gauss')", Refused("unknown noise 'gauss'")),
    ("exact_gradient(Problem(Network.from_state_dict(P.network.state_dict()), P.inputs, P.targets)).value == J", True),
    ("Problem(Network.from_state_dict(WEIGHTS), X, Y).widths", [2]),
    ("Network.from_state_dict(nn.Conv2d(1, 2, 3).state_dict())", Refused("weight has the shape [2, 1, 3, 3]: only")),
    ("Network.from_state_dict({'a': np.ones((2, 3)), 'b': np.ones((1, 3))})", Refused("takes 3 inputs, but a gives")),
    ("Network.from_state_dict(WEIGHTS[:1])", Refused("at least one layer and a head, found 1 weights.")),
    ("Network.from_state_dict('model.pt')", Refused("weights must be a state dict")),
    ("Network([None], linear(2, 1))", Refused("maps[0] must be a module of torch, such as nn.Linear(2, 3)")),
    ("Network([linear(2, 2)], None)", Refused("head must be a module of torch")),
    ("Network(linear(2, 2), linear(2, 1)).layer_slices()['head']", slice(6, 9)),
]  # fmt: skip


@pytest.fixture(scope="module")
def names(small: gradeval.Problem, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the calls name."""
    file = tmp_path_factory.mktemp("problems") / "small.json"
    small.save(file)
    short = gradeval.Protocol(epochs=1, seeds=2, batch=4, rates=(0.1,), gradient_epochs=(), checks=1, samples=1)
    public = {name: getattr(gradeval, name) for name in gradeval.__all__}
    mine = {
        "pd": pd,
        "P": small,
        "FILE": file,
        "Task": Task,
        "J": gradeval.exact_gradient(small).value,
        "SHORT": short,
        "get": get_estimator,
    }
    return globals() | public | mine | {"Network": gradeval.StochasticBinaryNetwork}


@pytest.mark.parametrize(("call", "expected"), CALLS, ids=[call for call, _ in CALLS])
def test_what_people_give(
    call: str, expected: Any, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADEVAL_CACHE", str(tmp_path / "cache"))
    names = names | {"TMP": tmp_path / "run"}
    if not isinstance(expected, Refused):
        assert eval(call, names) == expected
        return
    with pytest.raises(GradevalError, match=re.escape(expected)) as refused:
        eval(call, names)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("run*")), "nothing is written before a call is refused"


def test_networks_of_a_training_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = gradeval.load_task("expclass", units=(2,), points=4)
    protocol = gradeval.Protocol(epochs=2, seeds=2, rates=(0.1,), gradient_epochs=(0, 1), checks=1, gradient_draws=2)
    training = gradeval.train(task, "concrete:temperature=0.5, st", protocol, folder="run")
    final = training.tables["curves"].query("estimator == 'st' and seed == 1 and epoch == 2")
    found = gradeval.load_problem("run:st@2/1")
    assert found.name == "expclass 2, st@2"
    assert gradeval.exact_gradient(found).value == pytest.approx(final["objective"].iloc[0], rel=1e-9)
    assert gradeval.load_problem("run:st").fingerprint() == gradeval.load_problem("run:st@2").fingerprint()
    begun = gradeval.exact_gradient("run:concrete:temperature=0.5@0").vector
    assert torch.equal(begun, gradeval.exact_gradient("run:st@0").vector)  # all begin alike
    for name, message in (
        ("run:st@7", "keeps those after 0, 1, 2 epochs; found 7."),
        ("run:ts@1", "unknown estimator of run 'ts': did you mean st?"),
        ("run:st@1/2", "run has the seeds 0 to 1, found 2."),
        ("run:st@x", "FOLDER:ESTIMATOR@EPOCH"),
        ("nowhere:st@1", "nowhere holds no training"),
        ("run", "run holds a training: a network of it is named run:ESTIMATOR@EPOCH."),
    ):
        with pytest.raises(GradevalError, match=re.escape(message)):
            gradeval.load_problem(name)
    other = gradeval.load_task("expclass", units=(2,), points=6)
    with pytest.raises(GradevalError, match="run was not trained on this task"):
        gradeval.load_problem("run:st@1", task=other)
