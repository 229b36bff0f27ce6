"""Tasks on images: a classifier, and an autoencoder with binary codes.

States are flat: an image is a vector of channels × height × width; maps that convolve unflatten it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gradeval.arguments import widths_of
from gradeval.errors import GradevalError
from gradeval.model.maps import ImageMap
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.noise import Noise
from gradeval.model.objective import Objective
from gradeval.model.problem import Problem
from gradeval.model.randomness import generator
from gradeval.problems.image_files import Images, load_images
from gradeval.problems.tasks import Initialise, Task, standardise

HELD_OUT_SHARE = 0.15  # of the images: for validation, and for test where the data have no test set of their own


@dataclass(frozen=True)
class ImageSource:
    """Which images a task uses.

    Args:
        data, root: as of `load_images`.
        points: how many training images to use; None for all.
        seed: of the split into training, validation and test.
    """

    data: str = "digits"
    root: str = "data"
    points: int | None = None
    seed: int = 0

    def load(self) -> Images:
        """Read the images from disk, all of them.

        Returns:
            The images.

        Raises:
            GradevalError: as `load_images` does.
        """
        return load_images(self.data, self.root)


def split_images(images: Images, seed: int) -> dict[str, Int[Tensor, " points"]]:
    """Split images into a training, a validation and a test set of 70, 15 and 15 %.

    Where the data have a test set of their own, that is the test set, and 15 % of the rest are for validation.

    Args:
        images: what is split.
        seed: the split follows from it.

    Returns:
        By "train", "validation" and "test", the numbers of their images.

    Examples:
        >>> parts = split_images(load_images("digits"), seed=0)
        >>> {name: len(numbers) for name, numbers in parts.items()}
        {'train': 1257, 'validation': 270, 'test': 270}
    """
    count = len(images.labels)
    order = torch.randperm(count, generator=generator("cpu", "split", seed))
    if images.is_test is not None:
        test, rest = order[images.is_test[order]], order[~images.is_test[order]]
        held = round(HELD_OUT_SHARE * len(rest))
        return {"train": rest[held:], "validation": rest[:held], "test": test}
    held = round(HELD_OUT_SHARE * count)
    return {"train": order[2 * held :], "validation": order[:held], "test": order[held : 2 * held]}


def digits_task(
    units: str = "24c-48c-96",
    images: ImageSource = ImageSource(),
    *,
    noise: str | Noise = "logistic",
    states: tuple[float, float] = (-1.0, 1.0),
) -> Task:
    """Classification of images by a convolutional network of binary units and a linear head, with cross-entropy.

    Args:
        units: binary layers joined by "-": "16c" convolves to 16 channels (3 × 3, stride 2), "64" is linear.
        images: which images.
        noise, states: of the network.

    Returns:
        The task; its network has the initial parameters of the source's seed.

    Raises:
        GradevalError: layers that cannot be, images that are not there, or more points than there are.

    Examples:
        >>> digits_task("1c-2c", ImageSource(points=50)).train.widths
        [16, 8]
    """
    found = images.load()
    shape = tuple(found.pixels.shape[1:])
    maps, width = binary_maps(shape, units)
    network = StochasticBinaryNetwork(maps, _linear(width, len(found.classes)), noise, states)
    what = f"classification of {len(found.classes)} classes of {shape[1]}×{shape[2]} images, layers {units}"
    design = ImageDesign(network, found.labels, "cross-entropy", f"{images.data} {units}", what)
    return image_task(images, found, design)


def autoencoder_task(
    units: str = "8-8",
    encoder: str = "32",
    decoder: str = "32",
    images: ImageSource = ImageSource(),
    *,
    noise: str | Noise = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
) -> Task:
    """Reconstruction of images through layers of stochastic binary codes: squared error, summed over pixels.

    The network is real layers with tanh of the widths ``encoder``, then the binary code layers ``units`` (linear maps),
    then the decoder, a real network with tanh of the widths ``decoder`` and a sigmoid at the pixels.

    Args:
        units: widths of one to three code layers, "8-8".
        encoder, decoder: widths of real layers, "32"; "" for none.
        images: which images.
        noise, states: of the network.

    Returns:
        The task; its network has the initial parameters of the source's seed.

    Raises:
        GradevalError: widths that cannot be, images that are not there, or more points than there are.

    Examples:
        >>> autoencoder_task("4-3", images=ImageSource(points=50)).train.widths
        [4, 3]
    """
    found = images.load()
    pixels = found.pixels[0].numel()
    widths = widths_of("units", units)
    if not 1 <= len(widths) <= 3:
        raise GradevalError(f"units must be the widths of one to three code layers, such as 8-8; found '{units}'.")
    hidden = widths_of("encoder", encoder) if encoder else []
    maps: list[nn.Module] = [tanh_network([pixels, *hidden, widths[0]])]
    maps += [_linear(a, b) for a, b in itertools.pairwise(widths)]
    wide = widths_of("decoder", decoder) if decoder else []
    head = nn.Sequential(tanh_network([widths[-1], *wide, pixels]), nn.Sigmoid())
    network = StochasticBinaryNetwork(maps, head, noise, states)
    what = f"reconstruction of {pixels}-pixel images through binary codes {units}"
    design = ImageDesign(network, found.pixels.flatten(1), "squared", f"autoencoder {units}", what)
    return image_task(images, found, design)


def binary_maps(shape: tuple[int, ...], units: str) -> tuple[list[nn.Module], int]:
    """Make the maps of binary layers on flat images.

    Args:
        shape: of an image, (channels, height, width).
        units: such as "16c-32c-64": "16c" is a 3 × 3 convolution to 16 channels with stride 2 and padding 1; "64" is a
            linear map to 64 units.

    Returns:
        The maps, whose parameters are all zero, and the width of the last layer.

    Raises:
        GradevalError: another text, or a convolution after a linear map.

    Examples:
        >>> maps, width = binary_maps((1, 8, 8), "2c-5")
        >>> len(maps), width
        (2, 5)
    """
    maps: list[nn.Module] = []
    width = math.prod(shape)
    for piece in units.split("-"):
        found = re.fullmatch(r"([1-9]\d*)(c?)", piece)
        if not found:
            raise GradevalError(f"units must be layers joined by '-', such as 16c-32c-64; found '{units}'.")
        count = int(found[1])
        if not found[2]:
            maps.append(_linear(width, count))
            shape, width = (), count
            continue
        if not shape:
            raise GradevalError(f"units: a convolution cannot follow a linear layer; found '{units}'.")
        channels, *size = shape
        maps.append(ImageMap(shape, _zeros(nn.Conv2d, channels, count, 3, stride=2, padding=1)))
        shape = (count, *(-(-n // 2) for n in size))
        width = math.prod(shape)
    return maps, width


@dataclass(frozen=True)
class ImageDesign:
    """What is learned from images: a network, a target for each image and a loss.

    Args:
        network: whose parameters are filled in by ``initialise``.
        targets: of all images.
        loss: the problem's.
        name, description: shown in reports.
        inputs: of all images; by default their pixels.
        initialise: the initial parameters.
    """

    network: StochasticBinaryNetwork
    targets: Tensor
    loss: str | Objective
    name: str
    description: str
    inputs: Tensor | None = None
    initialise: Initialise = standardise

    def problem(self, images: Images, numbers: Tensor) -> Problem:
        """The problem of some images.

        Args:
            images: all of them.
            numbers: which.

        Returns:
            The problem; its network is the design's own.
        """
        every = images.pixels.flatten(1) if self.inputs is None else self.inputs
        return Problem(self.network, every[numbers], self.targets[numbers], self.loss, self.name, self.description)


def image_task(source: ImageSource, images: Images, design: ImageDesign) -> Task:
    """Make a task of images: split them, and give the network its initial parameters.

    Args:
        source: says how many training images are used, and the seed of all chance.
        images: all that there are.
        design: what is learned from them.

    Returns:
        The task.

    Raises:
        GradevalError: more points than there are, or none.
    """
    parts = split_images(images, source.seed)
    if source.points is not None:
        if not 1 <= source.points <= len(parts["train"]):
            raise GradevalError(f"points must be from 1 to {len(parts['train'])}, found {source.points}.")
        parts["train"] = parts["train"][: source.points]
    validation, test = (
        design.problem(images, parts[name]) if len(parts[name]) else None for name in ("validation", "test")
    )
    task = Task(design.problem(images, parts["train"]), validation, test, design.initialise)
    nn.utils.vector_to_parameters(task.initial_parameters(source.seed), design.network.trainable().values())
    return task


def _linear(inputs: int, outputs: int) -> nn.Module:
    return _zeros(nn.Linear, inputs, outputs)


def _zeros(kind: type[nn.Module], *sizes: int, **options: int) -> nn.Module:
    """A module with all parameters zero, made without the global random numbers that its own initialisation takes."""
    module: nn.Module = nn.utils.skip_init(kind, *sizes, **options, dtype=torch.float64)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def tanh_network(widths: Sequence[int]) -> nn.Module:
    """Linear maps with tanh between them, all parameters zero.

    Args:
        widths: of the input, the layers and the output; at least two.

    Returns:
        The map; of two widths it is linear.

    Examples:
        >>> tanh_network([2, 3, 1])
        Sequential(
          (0): Linear(in_features=2, out_features=3, bias=True)
          (1): Tanh()
          (2): Linear(in_features=3, out_features=1, bias=True)
        )
    """
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [_linear(a, b), nn.Tanh()]
    return layers[0] if len(layers) == 2 else nn.Sequential(*layers[:-1])
