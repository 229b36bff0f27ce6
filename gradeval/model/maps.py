"""Maps Aₖ between layers of binary units that torch does not have.

States are flat, [..., points, units]; `ImageMap` lets convolutions and pooling see them as images. What all flips of a
layer's inputs cost depends on its map, see `gradeval.model.affine`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ImageMap(nn.Sequential):
    """Modules applied to images: [..., channels · height · width] -> [..., channels′ · height′ · width′].

    Leading axes are free (torch's convolutions allow only one).

    Args:
        shape: channels, height and width of the input.
        modules: applied in turn to [N, channels, height, width].

    Examples:
        >>> map = ImageMap((1, 8, 8), nn.Conv2d(1, 4, kernel_size=3, stride=2), nn.AvgPool2d(3))
        >>> map(torch.zeros(10, 64)).shape
        torch.Size([10, 4])
    """

    def __init__(self, shape: Sequence[int], *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.shape = tuple(shape)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
        images: Tensor = super().forward(x.unflatten(-1, self.shape).reshape(-1, *self.shape))
        return images.reshape(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


class ScaleBias(nn.Module):
    """weight ∘ x + bias: normalisation without a batch.

    Args:
        shape: of weight and bias: the units, or (channels, 1, 1) for images.

    Examples:
        >>> ScaleBias(2)(torch.tensor([[3.0, 4.0]])).tolist()
        [[3.0, 4.0]]
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.addcmul(self.bias, self.weight, x)


class BernoulliDecoder(nn.Module):
    """A head that gives the logits of p(x | s), with a learned prior p(s) of independent units beside it.

    Args:
        map: from the states, [..., points, units], to the logits, [..., points, outputs].
        prior_logits: log πⱼ/(1 − πⱼ) of the prior probability that unit j is on, [units]; they become a parameter.

    Attributes:
        map: the map.
        prior_logits: the parameter, [units].

    Examples:
        >>> decoder = BernoulliDecoder(nn.Linear(2, 4), torch.zeros(2))
        >>> decoder(torch.zeros(10, 2)).shape, [name for name, _ in decoder.named_parameters()]
        (torch.Size([10, 4]), ['prior_logits', 'map.weight', 'map.bias'])
    """

    map: nn.Module
    prior_logits: nn.Parameter

    def __init__(self, map: nn.Module, prior_logits: Tensor) -> None:
        super().__init__()
        self.map = map
        self.prior_logits = nn.Parameter(prior_logits.detach().clone())

    def forward(self, x: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points outputs"]:
        return self.map(x)


class Copies(nn.Module):
    """The outputs of a map K times over: units that share its parameters and are independent given the input.

    Args:
        map: from [..., inputs] to [..., units].
        copies: K.

    Examples:
        >>> Copies(ScaleBias(2), 2)(torch.tensor([[3.0, 4.0]])).tolist()
        [[3.0, 4.0, 3.0, 4.0]]
    """

    map: nn.Module

    def __init__(self, map: nn.Module, copies: int) -> None:
        super().__init__()
        self.map = map
        self.copies = copies

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
        return torch.cat([self.map(x)] * self.copies, -1)

    def extra_repr(self) -> str:
        return f"copies={self.copies}"


class EachCopy(nn.Module):
    """A map of each of K copies of its inputs, such as of the units that `Copies` makes.

    Args:
        map: from [..., units] to [..., outputs].
        copies: K.

    Examples:
        >>> EachCopy(nn.AvgPool1d(2), 2)(torch.tensor([[3.0, 5.0, 1.0, 3.0]])).tolist()
        [[4.0, 2.0]]
    """

    map: nn.Module

    def __init__(self, map: nn.Module, copies: int) -> None:
        super().__init__()
        self.map = map
        self.copies = copies

    def forward(self, x: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch outputs"]:
        outputs: Tensor = self.map(x.unflatten(-1, (self.copies, -1)))
        return outputs.flatten(-2)

    def extra_repr(self) -> str:
        return f"copies={self.copies}"


class Residual(nn.Module):
    """Σ branch(x), the sum of several maps of the same input.

    Args:
        branches: modules with the same output shape.

    Examples:
        >>> residual = Residual(nn.Identity(), ScaleBias(2))
        >>> residual(torch.tensor([[3.0, 4.0]])).tolist()
        [[6.0, 8.0]]
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.stack([branch(x) for branch in self.branches]).sum(0)
