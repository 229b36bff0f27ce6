"""A problem: a network, data and a loss. What is estimated is the gradient of J = mean over points of E[f(x^L)]."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from gradeval.arguments import folder_path, shown
from gradeval.errors import GradevalError, unknown_name
from gradeval.files import reason, write_whole
from gradeval.isolation import alone
from gradeval.model.data import Data, as_tensor, check_same_rows
from gradeval.model.elbo import IN_FILES, ElboObjective, MultiSampleBound, name_in_file, objective_in_file
from gradeval.model.head_loss import HeadLoss, PointLoss
from gradeval.model.losses import LOSSES, Loss, check_targets, get_loss
from gradeval.model.maps import BernoulliDecoder
from gradeval.model.network import StochasticBinaryNetwork, network_facts
from gradeval.model.noise import NOISES, is_built_in
from gradeval.model.objective import Objective, loss_identity, loss_title
from gradeval.model.problem_file import FORMAT, AffineMap, ProblemDocument, document_bytes, naming, read_document
from gradeval.model.purity import try_loss, try_network, try_objective
from gradeval.notebook import card
from gradeval.threads import threads_for


@dataclass(frozen=True, init=False)
class Problem:
    """A network with data and a loss; J = mean over points of E[f(x^L)], f(x^L) = loss(head(x^L), target).

    Where f depends on more of the network than the head, the loss is an object with a method ``bind(network, inputs,
    targets)`` that returns f as a function of x^L (`gradeval.model.objective`); it is bound to the network that is run.

    Args:
        network: the stochastic binary network, or an `nn.Sequential` with `gradeval.BinaryUnits` between its maps.
        inputs: x⁰, [points, inputs]: a tensor, an array, a DataFrame or lists.
        targets: [points] or [points, outputs], as the loss needs them; of the same kinds.
        loss: the name of a loss, as in problem files; a callable (output, target) -> [..., points] that accepts leading
            axes; or an `Objective`, such as `NegativeElbo`.
        name, description: shown in reports.

    Inputs and targets are brought to the precision and the device of the network.

    Raises:
        GradevalError: no points, no trainable parameters, NaN or infinite numbers, shapes that do not fit together, or
            a map or loss that is no function of one data point: with chance of its own (dropout), a memory, or mixing
            points (batch normalisation in training mode).

    Examples:
        >>> import torch
        >>> network = StochasticBinaryNetwork.linear(inputs=2, units=[3, 2], outputs=1)
        >>> problem = Problem(network, torch.eye(2), torch.tensor([1.0, -1.0]), loss="logistic")
        >>> problem.points, problem.widths
        (2, [3, 2])
    """

    network: StochasticBinaryNetwork
    inputs: Shaped[Tensor, "points *inputs"] = field(repr=False)
    targets: Shaped[Tensor, "_ *outputs"] = field(repr=False)
    loss: str | Loss | Objective = "logistic"
    name: str = "problem"
    description: str = ""
    _loss: Loss | None = field(init=False, repr=False, compare=False)  # None of an objective

    def __init__(
        self,
        network: StochasticBinaryNetwork | nn.Sequential,
        inputs: Data,
        targets: Data,
        loss: str | Loss | Objective = "logistic",
        name: str = "problem",
        description: str = "",
    ) -> None:
        _set(self, **_parts(network, inputs, targets, loss), **_texts(name=name, description=description))
        _check_numbers(self)
        _check_fit(self)

    @property
    def points(self) -> int:
        """Number of data points."""
        return len(self.inputs)

    @property
    def widths(self) -> list[int]:
        """Number of binary units of each layer."""
        widths, x = [], self.inputs[:1]
        with torch.no_grad():
            for layer in self.network.layers:
                x = layer.preactivation(x)
                widths.append(x[0].numel())
        return widths

    @property
    def output_loss(self) -> Loss | None:
        """The loss as a function of the head's outputs and the targets; None where it is an `Objective`."""
        return self._loss

    @property
    def objective(self) -> Objective | None:
        """The loss where it is an `Objective`, which is bound to a network; else None."""
        return self.loss if self._loss is None and isinstance(self.loss, Objective) else None

    def loss_function(
        self,
        network: StochasticBinaryNetwork | None = None,
        targets: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> PointLoss:
        """f as a function of the last layer's states, bound to a network and to data points.

        Args:
            network: whose head, and whatever else the loss depends on, is used; by default the problem's own.
            targets: of the points that the states belong to; by default of all points.
            inputs: of the same points; an `Objective` needs them where it is given targets.

        Returns:
            x_L ↦ f(x_L), such as loss(head(x_L), targets), [..., points, units] -> [..., points]. Bind an `Objective`
            anew for every draw: a part of its graph may stand for all calls.

        Raises:
            GradevalError: the loss is an `Objective`, and only one of targets and inputs is given.
        """
        return _bound(self, network or self.network, targets, inputs)

    def fingerprint(self) -> str:
        """A SHA-256 of everything that the exact gradient depends on.

        Returns:
            64 hexadecimal digits. Name and description do not enter.
        """
        return _fingerprint(self)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Problem:
        """The same problem on another device or in another precision.

        Args:
            device: by default the present one.
            dtype: a floating-point type; by default the present one.

        Returns:
            A copy, network and all.

        Raises:
            GradevalError: there is no such device, or the type is none of torch's.
        """
        return replace(self, network=_moved(self.network, device, dtype))

    def _repr_html_(self) -> str:
        return _card(self)

    def save(self, path: str | Path) -> None:
        """Write the problem as JSON (format gradeval-problem/1); numbers keep every bit.

        Args:
            path: where to; a file that is there is replaced, whole or not at all.

        Raises:
            GradevalError: a map that is not linear with a bias, frozen or tied parameters, a loss or a noise that is
                not registered by a name; or the file cannot be written.
        """
        _write(folder_path(path, "path"), problem_bytes(self))

    @classmethod
    def load(cls, path: str | Path, dtype: torch.dtype = torch.float64) -> Problem:
        """Read a problem file.

        Args:
            path: a JSON file of the format gradeval-problem/1, of at most 256 MiB.
            dtype: the precision of the network and the data.

        Returns:
            The problem; the file's name (without its ending) is its name where it holds none.

        Raises:
            GradevalError: one line that names the file and the place in it.
        """
        return _read(Path(path), dtype)


def _network_of(given: object) -> StochasticBinaryNetwork:
    if isinstance(given, nn.Sequential):
        return StochasticBinaryNetwork.from_sequential(given)
    if not isinstance(given, StochasticBinaryNetwork):
        raise GradevalError(
            f"network must be a StochasticBinaryNetwork, or an nn.Sequential with BinaryUnits, found {shown(given)}. "
            "Of a module of your own, give the maps between its units: StochasticBinaryNetwork([map, …], head)."
        )
    return given


def _parts(given: object, inputs: Data, targets: Data, loss: object) -> dict[str, object]:
    """What was given, as a problem keeps it."""
    network = _network_of(given)
    dtype, device = network.dtype, network.device
    check_same_rows(inputs, targets)
    data = {name: as_tensor(name, data).to(device, dtype) for name, data in (("inputs", inputs), ("targets", targets))}
    if isinstance(loss, str) and loss in ("logistic", "cross-entropy") and data["targets"].shape[1:] == (1,):
        data["targets"] = data["targets"].squeeze(1)  # a column of a table
    loss = (objective_in_file(loss) or loss) if isinstance(loss, str) else loss
    return {"network": network, **data, "loss": loss, "_loss": _loss_of(loss)}


def _card(problem: Problem) -> str:
    data = {"points": problem.points, "widths": problem.widths, "loss": loss_title(problem.loss)}
    return card(problem.name, data | network_facts(problem.network), problem.description)


def _loss_of(loss: object) -> Loss | None:
    """The loss as a function of outputs and targets; None of an objective."""
    if isinstance(loss, Objective):
        return None
    if isinstance(loss, str) and loss not in LOSSES:
        raise unknown_name("loss", loss, (*LOSSES, *IN_FILES))
    if not callable(loss):
        return get_loss(loss)  # type: ignore[arg-type]  # what is no name is refused there
    return loss


def _texts(**given: object) -> dict[str, object]:
    for name, value in given.items():
        if not isinstance(value, str):
            raise GradevalError(f"{name} must be a text, found {shown(value)}.")
    return given


def _moved(
    network: StochasticBinaryNetwork, device: torch.device | str | None, dtype: torch.dtype | None
) -> StochasticBinaryNetwork:
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise GradevalError(f"dtype must be one of torch's, such as torch.float32, found {shown(dtype)}.")
    try:
        torch.ones((), device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        message = f"device {shown(device)} cannot be used: {str(error).splitlines()[0]:.80}"
        raise GradevalError(message) from None
    return deepcopy(network).to(device=device, dtype=dtype)


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise GradevalError(f"cannot write {path}: {reason(error)}.") from None


def own_copy(problem: Problem) -> Problem:
    """The same problem with a network and data of its own, for code that might write to them.

    Args:
        problem: any.

    Returns:
        A copy. It is not checked again.
    """
    parts = {"inputs": problem.inputs.clone(), "targets": problem.targets.clone()}
    return _with(problem, network=deepcopy(problem.network), **parts)


def with_network(problem: Problem, network: StochasticBinaryNetwork) -> Problem:
    """The same problem with a network that differs in its parameters only: its maps are not tried again.

    Args:
        problem: any.
        network: a copy of its network, with other parameters.

    Returns:
        The problem with that network.

    Raises:
        GradevalError: a parameter is NaN or infinite.
    """
    found = _with(problem, network=network)
    _check_numbers(found)
    return found


def _with(problem: Problem, **parts: object) -> Problem:
    twin = copy(problem)
    _set(twin, **parts)
    return twin


def _set(problem: Problem, **parts: object) -> None:
    for name, part in parts.items():
        object.__setattr__(problem, name, part)


def _check_numbers(problem: Problem) -> None:
    if problem.points == 0:
        raise GradevalError("the problem has no data points (inputs is empty).")
    if len(problem.targets) != problem.points:
        raise GradevalError(f"inputs has {problem.points} points but targets has {len(problem.targets)}.")
    named = [*problem.network.named_parameters(), ("inputs", problem.inputs), ("targets", problem.targets)]
    for name, tensor in named:
        bad = ~torch.isfinite(tensor)
        if bad.any():
            where = tuple(torch.nonzero(bad)[0].tolist())
            raise GradevalError(f"{name}{list(where)} is {tensor[where].item()}; every number must be finite.")


def _check_fit(problem: Problem) -> None:
    """Whether each layer takes what the one below gives, the loss takes the head's outputs, and all are functions."""
    if not problem.network.trainable():
        raise GradevalError("no parameter of the network requires a gradient: there is nothing to estimate.")
    numbers = sum(p.numel() for p in problem.network.parameters())
    with threads_for(problem.points * numbers), torch.no_grad(), alone():
        network, inputs, targets = problem.network, problem.inputs, problem.targets
        states, outputs = try_network(network, inputs)
        if isinstance(problem.loss, str):
            check_targets(problem.loss, targets, outputs.shape[-1])
        if isinstance(problem.loss, ElboObjective):
            problem.loss.check(network, inputs, targets)
        if problem.objective is not None:
            try_objective(problem.objective, network, inputs, targets, states)
        else:
            assert problem.output_loss is not None
            try_loss(problem.output_loss, outputs, targets)


def _bound(
    problem: Problem, network: StochasticBinaryNetwork, targets: Tensor | None, inputs: Tensor | None
) -> PointLoss:
    if problem.output_loss is not None:
        return HeadLoss(network.head, problem.output_loss, problem.targets if targets is None else targets)
    if targets is None and inputs is None:
        targets, inputs = problem.targets, problem.inputs
    if targets is None or inputs is None:
        raise GradevalError(
            f"the loss {loss_title(problem.loss)} is bound to inputs and targets: give both, of the same points."
        )
    assert problem.objective is not None
    return problem.objective.bind(network, inputs, targets)


def _fingerprint(problem: Problem) -> str:
    network = problem.network
    tensors = [*network.state_dict().values(), problem.inputs, problem.targets]
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    special = f"|{frozen}|{_tied(network)}" if frozen or _tied(network) else ""
    loss, noise = loss_identity(problem.loss), network.noise
    name = noise.name if is_built_in(noise) else f"{noise.name} {loss_identity(noise)}"
    return _digest(f"{FORMAT}|{network!r}|{name}|{network.states}|{loss}{special}", tensors)


def _tied(network: nn.Module) -> list[str]:
    """The further names of parameters that several layers share."""
    once = {name for name, _ in network.named_parameters()}
    return [name for name, _ in network.named_parameters(remove_duplicate=False) if name not in once]


def _digest(text: str, tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(f"|{tensor.dtype}{list(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def problem_bytes(problem: Problem) -> bytes:
    """What `Problem.save` writes.

    Args:
        problem: whose maps and loss can be saved.

    Returns:
        The content of the file.

    Raises:
        GradevalError: as `Problem.save`.
    """
    return document_bytes(_to_document(problem))


def _to_document(problem: Problem) -> ProblemDocument:
    network, loss = problem.network, name_in_file(problem.loss) or problem.loss
    single = problem.loss.single(network) if isinstance(problem.loss, MultiSampleBound) else network
    head = single.head
    if not isinstance(loss, str):
        raise GradevalError(
            f"a problem with the loss {loss_title(loss)} cannot be saved: a file names its loss, one of "
            f"{', '.join((*LOSSES, *IN_FILES))}."
        )
    if not is_built_in(network.noise):
        raise GradevalError(
            f"a problem with a noise of your own, {network.noise.name}, cannot be saved: a file names its noise, one "
            f"of {', '.join(NOISES)}."
        )
    if _tied(network) or len(network.trainable()) < len(list(network.parameters())):
        raise GradevalError("a network with frozen or tied parameters cannot be saved: a file holds only numbers.")
    return ProblemDocument(
        format=FORMAT,
        name=problem.name,
        description=problem.description,
        noise=network.noise.name,
        states=network.states,
        layers=[_to_affine(layer.map, f"layers[{k}]") for k, layer in enumerate(single.layers)],
        head=_to_affine(head.map if isinstance(head, BernoulliDecoder) else head, "head"),
        prior_logits=head.prior_logits.tolist() if isinstance(head, BernoulliDecoder) else None,
        loss=loss,
        inputs=problem.inputs.tolist(),
        targets=problem.targets.tolist(),
    )


def _read(path: Path, dtype: torch.dtype) -> Problem:
    document = read_document(path)
    with naming(path):
        head: nn.Module = _from_affine(document.head, dtype)
        if document.prior_logits is not None:
            head = BernoulliDecoder(head, _tensor(document.prior_logits, dtype))
        maps = [_from_affine(layer, dtype) for layer in document.layers]
        network = StochasticBinaryNetwork(maps, head, document.noise, document.states)
        inputs, targets = (_tensor(numbers, dtype) for numbers in (document.inputs, document.targets))
        name = document.name or path.stem
        loss = objective_in_file(document.loss) or document.loss
        if isinstance(loss, MultiSampleBound):
            network = loss.network(network)
        return Problem(network, inputs, targets, loss, name, document.description)


def _to_affine(map: nn.Module, place: str) -> AffineMap:
    if not isinstance(map, nn.Linear) or map.bias is None:
        raise GradevalError(f"{place} is {type(map).__name__}; only linear maps with a bias can be saved.")
    return AffineMap(weight=map.weight.tolist(), bias=map.bias.tolist())


def _from_affine(affine: AffineMap, dtype: torch.dtype) -> nn.Linear:
    weight, bias = _tensor(affine.weight, dtype), _tensor(affine.bias, dtype)
    map = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=dtype)
    with torch.no_grad():
        map.weight.copy_(weight)
        map.bias.copy_(bias)
    return map


def _tensor(numbers: object, dtype: torch.dtype) -> Tensor:
    """Lists of numbers, of equal lengths, as a tensor; by way of numpy, which is faster at it than torch."""
    return torch.as_tensor(np.asarray(numbers, dtype=np.float64), dtype=dtype)
