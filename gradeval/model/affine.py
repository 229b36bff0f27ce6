"""Finds the matrix of a map that is *affine by structure*, as `gradeval.model.forms`.

That is a map made of linear maps, convolutions, average pooling, scale–bias, reshaping and sums of those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradeval.model.forms import Dense, Form, Windows
from gradeval.model.maps import BernoulliDecoder, Copies, EachCopy, ImageMap, Residual, ScaleBias

DENSE_ENTRIES = 2**25  # the most entries of a matrix that is made from a map


def affine_form(map: nn.Module, inputs: int, like: Tensor) -> Form | None:
    """The matrix M of a map that is affine by structure, x ↦ M x + constant.

    Windows after windows are merged into one where that is exact, else they become a dense matrix.

    Args:
        map: from [..., inputs].
        inputs: their number.
        like: has the precision and the device of the inputs.

    Returns:
        M, a differentiable function of the map's parameters; None of a map that is not affine by structure.

    Examples:
        >>> affine_form(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), 3, torch.empty(0)).weight.shape
        torch.Size([2, 3])
        >>> affine_form(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), 3, torch.empty(0)) is None
        True
    """
    walk = _Walk(like.dtype, like.device)
    try:
        form, _ = walk.after(map, None, (inputs,))
    except _NotAffine:
        return None
    return form or walk.unit((inputs,))


class _NotAffine(Exception):
    """Found while walking through the modules."""


Shape = tuple[int, ...]
_RESHAPING = (nn.Identity.forward, nn.Flatten.forward, nn.Unflatten.forward)
_OTHER_AFFINE = tuple(
    cls.forward
    for cls in (
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, Copies, EachCopy),
    )
)


@dataclass(frozen=True)
class _Walk:
    """From module to module, composing their matrices. A module is known by its forward: subclasses may change it."""

    dtype: torch.dtype
    device: torch.device

    def after(self, module: nn.Module, first: Form | None, shape: Shape) -> tuple[Form | None, Shape]:
        """``module`` after ``first`` (None: the identity), whose output has ``shape`` per point; and its own shape."""
        forward = type(module).forward
        if forward is nn.Sequential.forward:
            for part in module.children():
                first, shape = self.after(part, first, shape)
            return first, shape
        if isinstance(module, ImageMap) and forward is ImageMap.forward:
            inner: Shape = module.shape
            for part in module.children():
                first, inner = self.after(part, first, inner)
            return first, (math.prod(inner),)
        if isinstance(module, BernoulliDecoder) and forward is BernoulliDecoder.forward:
            return self.after(module.map, first, shape)
        if forward is Residual.forward:
            branches = [self.after(branch, None, shape) for branch in module.get_submodule("branches").children()]
            return self.compose(self.add([form or self.unit(shape) for form, _ in branches]), first), branches[0][1]
        if forward in _RESHAPING:
            return first, tuple(module(torch.empty(1, *shape, device="meta")).shape[1:])
        if isinstance(module, nn.Linear) and forward is nn.Linear.forward and len(shape) == 1:
            return self.compose(Dense(module.weight), first), (module.out_features,)
        windows = self.windows(module, shape)
        if windows is not None:
            return self.compose(windows, first), windows.output if len(shape) == 3 else shape
        if forward not in _OTHER_AFFINE:
            raise _NotAffine
        if isinstance(module, Copies | EachCopy):  # whose own map must be affine, too
            self.after(module.map, None, shape if isinstance(module, Copies) else (shape[0] // module.copies,))
        inputs = math.prod(shape)
        constant = module(torch.zeros(1, *shape, dtype=self.dtype, device=self.device))
        if inputs * max(inputs, constant.numel()) > DENSE_ENTRIES:
            raise _NotAffine
        columns = module(self.identity(inputs).reshape(-1, *shape)) - constant
        return self.compose(Dense(columns.flatten(1).mT), first), tuple(constant.shape[1:])

    def windows(self, module: nn.Module, shape: Shape) -> Windows | None:
        """Scale–bias, a two-dimensional convolution or average pooling as windows; None where it is not so."""
        forward = type(module).forward
        if isinstance(module, ScaleBias) and forward is ScaleBias.forward:
            if module.weight.shape != (shape[0], *[1] * (len(shape) - 1)) or len(shape) not in (1, 3):
                raise _NotAffine
            return Windows(module.weight.reshape(-1, 1, 1, 1), (1, 1), (0, 0), _image(shape), True)
        if len(shape) != 3:
            return None
        channels, height, width = image = _image(shape)
        if isinstance(module, nn.Conv2d) and forward is nn.Conv2d.forward:
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                return None
            weight, channelwise = module.weight, 1 < module.groups == channels == len(module.weight)
            if module.groups > 1 and not channelwise:
                # zero between groups: a flip changes nothing there
                weight = torch.cat(
                    [
                        functional.pad(part, (0, 0, 0, 0, k * part.shape[1], channels - (k + 1) * part.shape[1]))
                        for k, part in enumerate(weight.chunk(module.groups))
                    ]
                )
            weight = _spread(weight, _two(module.dilation))
            return Windows(weight, _two(module.stride), _two(module.padding), image, channelwise)
        if isinstance(module, nn.AvgPool2d) and forward is nn.AvgPool2d.forward:
            padding = _two(module.padding)
            if module.ceil_mode or module.divisor_override or not (module.count_include_pad or padding == (0, 0)):
                return None
            return self.mean(channels, _two(module.kernel_size), _two(module.stride), padding, image)
        if isinstance(module, nn.AdaptiveAvgPool2d) and forward is nn.AdaptiveAvgPool2d.forward:
            rows, columns = _two(module.output_size)
            rows, columns = rows or height, columns or width
            if height % rows or width % columns:
                return None
            kernel = (height // rows, width // columns)
            return self.mean(channels, kernel, kernel, (0, 0), image)
        return None

    def mean(
        self,
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        image: tuple[int, int, int],
    ) -> Windows:
        weight = torch.full((channels, 1, *kernel), 1 / math.prod(kernel), dtype=self.dtype, device=self.device)
        return Windows(weight, stride, padding, image, True)

    def identity(self, size: int) -> Tensor:
        return torch.eye(size, dtype=self.dtype, device=self.device)

    def unit(self, shape: Shape) -> Form:
        """The identity."""
        image = _image(shape if len(shape) == 3 else (math.prod(shape),))
        return self.mean(image[0], (1, 1), (1, 1), (0, 0), image)

    def matrix(self, form: Form) -> Tensor:
        """M as a dense matrix, [units, inputs]."""
        if isinstance(form, Dense):
            return form.weight
        inputs = math.prod(form.image)
        if inputs * max(inputs, math.prod(form.output)) > DENSE_ENTRIES:
            raise _NotAffine
        return form.forward(self.identity(inputs)).mT

    def compose(self, second: Form, first: Form | None) -> Form:
        """The matrix of ``second`` after ``first``."""
        if first is None:
            return second
        if isinstance(second, Dense):
            return Dense(first.transposed(second.weight))
        if isinstance(first, Dense):
            return Dense(second.forward(first.weight.mT).mT)
        return _merge(second, first) or Dense(second.forward(self.matrix(first).mT).mT)

    def add(self, forms: Sequence[Form]) -> Form:
        """The sum of matrices; of windows with the same stride and output it is windows again."""
        windows = [form for form in forms if isinstance(form, Windows)]
        if len(windows) == len(forms) and (merged := _add(windows)):
            return merged
        return Dense(torch.stack([self.matrix(form) for form in forms]).sum(0))


def _image(shape: Shape) -> tuple[int, int, int]:
    """The shape of an image; flat units are channels of one pixel."""
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width


def _two(value: Any) -> Any:
    """A torch option for height and width as a pair."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _spread(weight: Tensor, step: tuple[int, int]) -> Tensor:
    """A kernel with step − 1 zeros between its entries."""
    if step == (1, 1):
        return weight
    height, width = weight.shape[2:]
    wide = functional.pad(weight[..., :, None, :, None], (0, step[1] - 1, 0, 0, 0, step[0] - 1))
    wide = wide.reshape(*weight.shape[:2], height * step[0], width * step[1])
    return wide[..., : (height - 1) * step[0] + 1, : (width - 1) * step[1] + 1]


def _merge(second: Windows, first: Windows) -> Windows | None:
    """Windows after windows as one, where that is exact.

    Padding of the second must see zeros in the first, too: its windows at −1 and beyond the last lie in the padding.
    """
    sizes = zip(
        *(first.weight.shape[2:], first.stride, first.padding, second.padding, first.image[1:], first.output[1:]),
        strict=True,
    )
    for kernel, stride, own, padding, full, places in sizes:
        if padding and (kernel > stride + own or places * stride < full + own):
            return None
    (sy, sx), (py, px) = first.stride, first.padding
    if second.channelwise:
        # the kernel of every output channel is spread by its own window
        inner = second.weight.reshape(1, *second.output[:1], *second.weight.shape[2:])
        merged = functional.conv_transpose2d(inner, first.weight, stride=first.stride, groups=len(first.weight))
        merged = merged.reshape(*first.weight.shape[:2], *merged.shape[2:])
    else:
        groups = len(first.weight) if first.channelwise else 1
        merged = functional.conv_transpose2d(second.weight, first.weight, stride=first.stride, groups=groups)
    return Windows(
        merged,
        (sy * second.stride[0], sx * second.stride[1]),
        (py + sy * second.padding[0], px + sx * second.padding[1]),
        first.image,
        first.channelwise and second.channelwise,
    )


def _add(forms: Sequence[Windows]) -> Windows | None:
    """The sum of windows with the same stride and output, aligned by where they begin and end; None if they differ."""
    if len({(form.stride, form.image, form.output) for form in forms}) > 1:
        return None
    top, left = (max(form.padding[axis] for form in forms) for axis in (0, 1))
    bottom, right = (max(form.weight.shape[2 + axis] - form.padding[axis] for form in forms) for axis in (0, 1))
    channelwise = all(form.channelwise for form in forms)
    total: Tensor | None = None
    for form in forms:
        weight = form.weight
        if form.channelwise and not channelwise:
            weight = torch.diag_embed(weight.squeeze(1).movedim(0, -1)).movedim((-2, -1), (0, 1))
        (height, width), (py, px) = weight.shape[2:], form.padding
        around = (left - px, right - (width - px), top - py, bottom - (height - py))
        weight = functional.pad(weight, around)
        total = weight if total is None else total + weight
    assert total is not None
    summed = Windows(total, forms[0].stride, (top, left), forms[0].image, channelwise)
    return summed if summed.output == forms[0].output else None
