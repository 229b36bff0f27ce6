"""A problem: a network, data and a loss. What is estimated is the gradient of J = mean over points of E[f(x^L)]."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradeval.errors import GradevalError
from gradeval.files import reason
from gradeval.model.losses import Loss, check_targets, get_loss
from gradeval.model.maps import Dense, affine_form
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.noise import get_noise
from gradeval.torch_private import inside_transform

FORMAT = "gradeval-problem/1"
FLIP_ENTRIES = 2**22  # the most outputs of flips that are kept at once
MAX_FILE_BYTES = 256 * 2**20
PointLoss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HeadLoss:
    """x_L ↦ loss(head(x_L), targets)."""

    head: nn.Module
    loss: Loss
    targets: Tensor

    def __call__(self, x: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points"]:
        return self.loss(self.head(x), self.targets)

    def flipped(
        self, layer: BinaryLayer, s: Float[Tensor, "*batch points units"]
    ) -> Float[Tensor, "units *batch points"]:
        """f with every unit of the last layer flipped in turn. Of an affine head, a flip adds a column to its outputs.

        Where all outputs would take much memory they are made in parts, and again for the gradient.
        """
        x, units = layer.encode(s), s.shape[-1]
        form = affine_form(self.head, units, x)
        if isinstance(form, Dense):
            output = self.head(x)
            # outputs first and contiguous: there are few, and the loss works on long rows
            outputs = output.reshape(-1, output.shape[-1]).mT.contiguous()[:, None, :]
            change, columns = (layer.encode(1 - s) - x).reshape(-1, units).mT.contiguous(), form.weight[:, :, None]

            def part(start: int, stop: int) -> Tensor:
                flipped = torch.addcmul(outputs, columns[:, start:stop], change[start:stop])
                return self.loss(flipped.movedim(0, -1).reshape(-1, *output.shape), self.targets)

            size = output.numel()
        else:
            identity = torch.eye(units, dtype=s.dtype, device=s.device)

            def part(start: int, stop: int) -> Tensor:
                unit = identity[start:stop].reshape(-1, *[1] * (s.ndim - 1), units)
                return self(layer.encode(s + unit * (1 - 2 * s)))

            size = s.numel()
        at_once = max(1, FLIP_ENTRIES // max(1, size))
        if at_once >= units or inside_transform():  # which do not take checkpoints
            return part(0, units)
        starts = range(0, units, at_once)
        return torch.cat([checkpoint(part, i, i + at_once, use_reentrant=False) for i in starts])


@dataclass(frozen=True)
class Problem:
    """A network with data and a loss.

    Args:
        network: the stochastic binary network.
        inputs: x⁰, [points, inputs].
        targets: [points] or [points, outputs], as the loss needs them.
        loss: the name of a loss, or a callable (output, target) -> [..., points] that accepts leading axes.
        name, description: shown in reports.

    Raises:
        GradevalError: no points, NaN or infinite numbers, or shapes that do not fit together.
    """

    network: StochasticBinaryNetwork
    inputs: Shaped[Tensor, "points *inputs"]
    targets: Shaped[Tensor, "_ *outputs"]
    loss: str | Loss = "logistic"
    name: str = "problem"
    description: str = ""
    _loss: Loss = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        dtype, device = self.network.dtype, self.network.device
        for name in ("inputs", "targets"):
            object.__setattr__(self, name, getattr(self, name).to(dtype=dtype, device=device))
        object.__setattr__(self, "_loss", get_loss(self.loss) if isinstance(self.loss, str) else self.loss)
        self._check()

    def _check(self) -> None:
        points = len(self.inputs)
        if points == 0:
            raise GradevalError("the problem has no data points (inputs is empty).")
        if len(self.targets) != points:
            raise GradevalError(f"inputs has {points} points but targets has {len(self.targets)}.")
        named = [*self.network.named_parameters(), ("inputs", self.inputs), ("targets", self.targets)]
        for name, tensor in named:
            bad = ~torch.isfinite(tensor)
            if bad.any():
                where = tuple(torch.nonzero(bad)[0].tolist())
                raise GradevalError(f"{name}{list(where)} is {tensor[where].item()}; every number must be finite.")
        with torch.no_grad():
            x = self.inputs
            for k, layer in enumerate(self.network.layers, 1):
                try:
                    x = torch.zeros_like(layer.preactivation(x))
                except RuntimeError as error:
                    raise GradevalError(
                        f"layer {k} does not accept its input of shape {list(x.shape)}: {error}"
                    ) from None
                if x.shape[-1] == 0:
                    raise GradevalError(f"layer {k} has width 0; every width must be at least 1.")
            try:
                output = self.network.head(x)
            except RuntimeError as error:
                raise GradevalError(f"the head does not accept its input of shape {list(x.shape)}: {error}") from None
            if isinstance(self.loss, str):
                check_targets(self.loss, self.targets, output.shape[-1])
            try:
                losses = self._loss(output, self.targets)
            except (RuntimeError, IndexError) as error:
                raise GradevalError(f"the loss cannot take an output of shape {list(output.shape)}: {error}") from None
            if losses.shape != (points,):
                raise GradevalError(f"the loss must give one number per point, [{points}], found {list(losses.shape)}.")

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

    def loss_function(self, network: StochasticBinaryNetwork | None = None, targets: Tensor | None = None) -> PointLoss:
        """x_L ↦ loss(head(x_L), targets): [..., points, units] -> [..., points]."""
        targets = self.targets if targets is None else targets
        return HeadLoss((network or self.network).head, self._loss, targets)

    def output_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """loss(output, targets) of outputs of the head: [..., points, outputs] -> [..., points]."""
        return self._loss(output, targets)

    def fingerprint(self) -> str:
        """A SHA-256 of everything the exact gradient depends on."""
        digest = hashlib.sha256()
        network = self.network
        loss = self.loss if isinstance(self.loss, str) else f"{self.loss.__module__}:{self.loss.__qualname__}"
        digest.update(f"{FORMAT}|{network!r}|{network.noise.name}|{network.states}|{loss}".encode())
        for tensor in (*network.state_dict().values(), self.inputs, self.targets):
            digest.update(f"|{tensor.dtype}{list(tensor.shape)}|".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Problem:
        """The same problem (a copy) on another device or in another precision."""
        network = StochasticBinaryNetwork(
            [deepcopy(layer.map) for layer in self.network.layers],
            deepcopy(self.network.head),
            self.network.noise.name,
            self.network.states,
        ).to(device=device, dtype=dtype)
        return replace(self, network=network)

    def save(self, path: str | Path) -> None:
        """Write the problem as JSON (format gradeval-problem/1); numbers keep every bit.

        Raises:
            GradevalError: layers that are not linear, or a loss without a registered name.
        """
        if not isinstance(self.loss, str):
            raise GradevalError("a problem with a loss of your own cannot be saved: a file names its loss.")

        def linear(map: nn.Module, place: str) -> dict[str, Any]:
            if not isinstance(map, nn.Linear) or map.bias is None:
                raise GradevalError(f"{place} is {type(map).__name__}; only linear maps with a bias can be saved.")
            return {"weight": map.weight.tolist(), "bias": map.bias.tolist()}

        document = {
            "format": FORMAT,
            "name": self.name,
            "description": self.description,
            "noise": self.network.noise.name,
            "states": list(self.network.states),
            "layers": [linear(layer.map, f"layers[{k}]") for k, layer in enumerate(self.network.layers)],
            "head": linear(self.network.head, "head"),
            "loss": self.loss,
            "inputs": self.inputs.tolist(),
            "targets": self.targets.tolist(),
        }
        path = Path(path)
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(json.dumps(document))
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path, dtype: torch.dtype = torch.float64) -> Problem:
        """Read a problem file. Raises GradevalError with one line that names the file and the place in it."""
        path = Path(path)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise GradevalError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB.")
            return _from_document(json.loads(path.read_text(encoding="utf-8")), path.stem, dtype)
        except OSError as error:
            raise GradevalError(f"cannot read problem file {path}: {error.strerror}.") from None
        except (UnicodeDecodeError, RecursionError, ValueError) as error:
            raise GradevalError(f"{path}: not a JSON file ({reason(error)}).") from None
        except GradevalError as error:
            raise GradevalError(f"{path}: {error}") from None


def _from_document(document: Any, name: str, dtype: torch.dtype) -> Problem:
    if not isinstance(document, dict):
        raise GradevalError(f"the file must hold a JSON object, found {type(document).__name__}.")
    found = document.get("format")
    if found != FORMAT:
        raise GradevalError(f"format: this version reads '{FORMAT}', found {found!r}.")
    for key in ("noise", "states", "layers", "head", "loss", "inputs", "targets"):
        if key not in document:
            raise GradevalError(f"{key}: missing.")
    for key, look_up in (("noise", get_noise), ("loss", get_loss)):
        if not isinstance(document[key], str):
            raise GradevalError(f"{key}: must be a name, found {document[key]!r}.")
        look_up(document[key])
    lo, hi = _array(document["states"], "states", (2,)).tolist()
    layers = document["layers"]
    if not isinstance(layers, list) or not layers:
        raise GradevalError("layers: must be a list of at least one layer.")
    inputs = _array(document["inputs"], "inputs", (None, None))
    maps, fan_in = [], inputs.shape[1]
    for k, layer in enumerate(layers):
        maps.append(_linear(layer, f"layers[{k}]", fan_in, dtype))
        fan_in = maps[-1].out_features
    head = _linear(document["head"], "head", fan_in, dtype)
    network = StochasticBinaryNetwork(maps, head, document["noise"], (lo, hi))
    targets = document["targets"]
    nested = isinstance(targets, list) and bool(targets) and isinstance(targets[0], list)
    return Problem(
        network,
        torch.as_tensor(inputs, dtype=dtype),
        torch.as_tensor(_array(targets, "targets", (len(inputs), None) if nested else (len(inputs),)), dtype=dtype),
        document["loss"],
        _text(document.get("name", name), "name") or name,
        _text(document.get("description", ""), "description"),
    )


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise GradevalError(f"{place}: must be printable text, found {str(value)[:40]!r}.")
    return value


def _linear(layer: Any, place: str, fan_in: int, dtype: torch.dtype) -> nn.Linear:
    for key in ("weight", "bias"):
        if not isinstance(layer, dict) or key not in layer:
            raise GradevalError(f"{place}.{key}: missing.")
    weight = _array(layer["weight"], f"{place}.weight", (None, fan_in))
    bias = _array(layer["bias"], f"{place}.bias", (weight.shape[0],))
    map = nn.utils.skip_init(nn.Linear, fan_in, weight.shape[0], dtype=dtype)
    with torch.no_grad():
        map.weight.copy_(torch.as_tensor(weight))
        map.bias.copy_(torch.as_tensor(bias))
    return map


def _array(value: Any, place: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Nested lists of finite numbers of the given shape (None: any length but zero) as an array."""

    def check(value: Any, place: str, depth: int) -> None:
        if depth == len(shape):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise GradevalError(f"{place}: must be a number, found {str(value)[:40]!r}.")
            if not abs(value) < 1e300:
                raise GradevalError(f"{place}: must be a finite number below 1e300, found {str(value)[:40]}.")
            return
        if not isinstance(value, list):
            raise GradevalError(f"{place}: must be a list, found {str(value)[:40]!r}.")
        wanted = shape[depth]
        if not value or (wanted is not None and len(value) != wanted):
            raise GradevalError(f"{place}: must have {wanted or 'at least 1'} entries, found {len(value)}.")
        if depth + 1 < len(shape) and isinstance(value[0], list):
            for k, row in enumerate(value):
                if isinstance(row, list) and len(row) != len(value[0]):
                    raise GradevalError(
                        f"{place}[{k}]: must have {len(value[0])} entries as row 0 has, found {len(row)}."
                    )
        for k, entry in enumerate(value):
            check(entry, f"{place}[{k}]", depth + 1)

    check(value, place, 0)
    return np.asarray(value, dtype=np.float64)
