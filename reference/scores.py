"""Norms of the score in a network of linear layers, without its gradient: for rare states of many parameters."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.model.maps import BernoulliDecoder
from gradeval.model.problem import Problem, own_copy


@dataclass(frozen=True)
class LinearScores:
    """Squared norms of ∇ log P(s) of every layer, and of the head's gradient of the loss, on many joint states.

    The gradient of a linear layer's log-probability is δ ⊗ (x, 1), δ = ∂ log P/∂a at the preactivation a: so its norm
    is ‖δ‖ ‖(x, 1)‖, and no gradient is made. So it is for a linear head, or decoder, with δ the loss's gradient in its
    outputs; a decoder's prior logits have the gradient π − s.

    Attributes:
        problem: all its layers and its head, or the map of its `BernoulliDecoder`, are `torch.nn.Linear`, each on its
            own, with all parameters trainable.
        numbers: of one row, that are made at once.
    """

    problem: Problem
    numbers: int
    _own: threading.local = field(default_factory=threading.local, compare=False)

    @classmethod
    def of(cls, problem: Problem) -> LinearScores | None:
        """The scores of a problem.

        Args:
            problem: network, data and loss.

        Returns:
            None where a layer is of another kind.
        """
        network = problem.network
        maps: list[Any] = [*(layer.map for layer in network.layers), _outputs_map(network.head)]
        linear = all(isinstance(one, nn.Linear) and type(one).forward is nn.Linear.forward for one in maps)
        slices = network.layer_slices()
        names = [*(str(k + 1) for k in range(len(network.layers))), "head", "all"]
        sizes = [sum(p.numel() for p in one.parameters()) for one in (*maps[:-1], network.head)]
        if not linear or list(slices) != names or [s.stop - s.start for s in slices.values()] != [*sizes, sum(sizes)]:
            return None
        if any(one._forward_hooks or one._forward_pre_hooks or one._parameters.keys() > {"weight", "bias"}
               for one in maps):  # fmt: skip
            return None
        scores = cls(problem, problem.points * (sum(problem.widths) + maps[-1].out_features + maps[0].in_features))
        try:
            found, _ = scores(torch.full((1, sum(problem.widths)), 0.5, dtype=network.dtype), least=0.25)
        except Exception:  # a loss of one's own that uses the head in another way
            return None
        return scores if all(bool(torch.isfinite(square).all()) for square in found.values()) else None

    def __call__(
        self, rows: Float[Tensor, "rows bits"], least: float | None
    ) -> tuple[dict[str, Tensor], Float[Tensor, "rows points"]]:
        """The squared norms.

        Args:
            rows: joint states, or where ``least`` is given uniform variables that paths are drawn by.
            least: the smallest probability that a state of a unit is drawn with, see `FlattenedStates`.

        Returns:
            By layer the squared norms, [rows, points], and the weights of the states.

        Raises:
            ValueError: the loss does not use the head once.
        """
        if not hasattr(self._own, "problem"):  # this thread's: the hook is on its head
            self._own.problem = own_copy(self.problem)
        problem = self._own.problem
        network, squares, start = problem.network, dict[str, Tensor](), 0
        x = problem.inputs.expand(len(rows), *problem.inputs.shape)
        weights = torch.ones(x.shape[:2], dtype=rows.dtype, device=rows.device)
        for k, layer in enumerate(network.layers):
            with torch.no_grad():
                a = layer.preactivation(x)
                p = layer.probability(a)
            own, start = rows[:, None, start : start + p.shape[-1]], start + p.shape[-1]
            drawn = p.clamp(least, 1 - least) if least is not None else torch.ones_like(p)
            s = (own < drawn).to(p.dtype) if least is not None else own.expand(p.shape)
            other = 1 - drawn if least is not None else drawn
            weights = weights * torch.where(s > 0.5, p / drawn, (1 - p) / other).prod(-1)
            with torch.enable_grad():
                leaf = a.requires_grad_()
                (delta,) = torch.autograd.grad(layer.log_prob(s, leaf).sum(), leaf)
            squares[str(k + 1)] = _outer(delta, x, layer.map.bias is not None)
            x = layer.encode(s)
        squares["head"] = _outer(self._head(problem, x), x, _outputs_map(network.head).bias is not None)
        if isinstance(network.head, BernoulliDecoder):
            prior = torch.sigmoid(network.head.prior_logits.detach())
            squares["head"] = squares["head"] + ((prior - s) ** 2).sum(-1)
        squares = {layer: torch.where(weights > 0, square, 0.0).double() for layer, square in squares.items()}
        return squares, weights.double()

    @staticmethod
    def _head(problem: Problem, x: Tensor) -> Tensor:
        """The loss's gradient in the head's outputs."""
        met: list[Tensor] = []

        def shifted(_module: nn.Module, _inputs: Any, outputs: Tensor) -> Tensor:
            met.append(torch.zeros_like(outputs, requires_grad=True))
            return outputs.detach() + met[-1]

        hook = _outputs_map(problem.network.head).register_forward_hook(shifted)
        try:
            with torch.enable_grad():
                value = problem.loss_function(problem.network)(x)
                if len(met) != 1 or met[0].shape[:-1] != x.shape[:-1]:
                    raise ValueError("the loss does not use the head once")
                (found,) = torch.autograd.grad(value.sum(), met)
        finally:
            hook.remove()
        return found


def _outputs_map(head: nn.Module) -> Any:
    """What makes the outputs."""
    return head.map if isinstance(head, BernoulliDecoder) else head


def _outer(delta: Tensor, x: Tensor, bias: bool) -> Tensor:
    """‖δ ⊗ (x, 1)‖²."""
    return (delta**2).sum(-1) * ((x**2).sum(-1) + float(bias))
