"""Tasks on images: a classifier, and an autoencoder with binary codes, on images on disk. Nothing is downloaded.

Pixels are in [0, 1], states flat: an image is a vector of channels × height × width; maps that convolve unflatten it.
"""

from __future__ import annotations

import gzip
import itertools
import math
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradeval.errors import GradevalError, unknown_name
from gradeval.model.maps import ImageMap
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.model.randomness import generator
from gradeval.problems.tasks import Task

MNIST = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")
HELD_OUT = 0.15  # the share of points for validation, and for test where the data have no test set of their own


class Images(NamedTuple):
    """Images with class numbers, and which of them are a test set by their makers' word."""

    pixels: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]
    classes: list[str]
    is_test: Tensor | None = None


def load_images(data: str = "digits", root: str = "data") -> Images:
    """Images on disk, with pixels in [0, 1].

    Args:
        data: "digits" (scikit-learn's 1797 handwritten digits, 8 × 8); "mnist", "fashion-mnist", "kmnist" or "cifar10"
            as torchvision keeps them in the folder ``root``; or a folder with one folder of images for every class.

    Raises:
        GradevalError: an unknown name, data that are not on disk (it says where it looked), or images of unequal sizes.
    """
    if data == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = torch.as_tensor(found.images / 16.0)[:, None]
        return Images(pixels, torch.as_tensor(found.target, dtype=torch.int64), [str(name) for name in range(10)])
    if data in MNIST:
        return _mnist(Path(root), data)
    if data == "cifar10":
        return _cifar10(Path(root), data)
    if not Path(data).is_dir():
        hint = unknown_name("data", data, ["digits", *MNIST, "cifar10"])
        raise GradevalError(f"{hint} A folder of images is given by its path; none is at {Path(data).resolve()}.")
    return _folder(Path(data))


def _mnist(root: Path, name: str) -> Images:
    raw = root / MNIST[name] / "raw"
    parts = [_idx(raw, name, f"{part}-images-idx3-ubyte", 3) for part in ("train", "t10k")]
    labels = [_idx(raw, name, f"{part}-labels-idx1-ubyte", 1) for part in ("train", "t10k")]
    for pixels, numbers in zip(parts, labels, strict=True):
        if len(pixels) != len(numbers):
            raise GradevalError(f"{raw}: {len(pixels)} images but {len(numbers)} labels.")
    return _of_two(parts, labels)


def _idx(folder: Path, name: str, file: str, axes: int) -> np.ndarray:
    """An array of bytes in MNIST's format: two zero bytes, 8 for bytes, the number of axes; sizes; the entries."""
    path = next((p for p in (folder / file, folder / f"{file}.gz") if p.exists()), None)
    if path is None:
        raise _missing(name, folder / file)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as source:
        content = source.read()
    sizes = np.frombuffer(content, ">u4", axes, 4) if len(content) >= 4 + 4 * axes else np.zeros(0, dtype=int)
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) != 4 + 4 * axes + math.prod(map(int, sizes)):
        raise GradevalError(f"{path}: not {axes}-dimensional bytes in MNIST's (idx) format.")
    return np.frombuffer(content, np.uint8, -1, 4 + 4 * axes).reshape(sizes)


class _Arrays(pickle.Unpickler):
    """Unpickles numpy arrays and what Python builds in, and nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype"} if module.split(".")[0] == "numpy" else {"encode"}
        if name in allowed and module.split(".")[0] in ("numpy", "_codecs"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it would run {module}.{name}")


def _cifar10(root: Path, name: str) -> Images:
    folder = root / "cifar-10-batches-py"
    parts, labels = [], []
    for files in (tuple(f"data_batch_{k}" for k in range(1, 6)), ("test_batch",)):
        batches = []
        for file in files:
            try:
                with (folder / file).open("rb") as source:
                    batches.append(_Arrays(source, encoding="latin1").load())
                batches[-1]["data"] = batches[-1]["data"].reshape(-1, 3, 32, 32)
            except FileNotFoundError:
                raise _missing(name, folder / file) from None
            except (pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
                raise GradevalError(f"{folder / file}: not a batch of CIFAR-10 ({error}).") from None
        parts.append(np.concatenate([batch["data"] for batch in batches]))
        labels.append(np.concatenate([np.asarray(batch["labels"], dtype=np.uint8) for batch in batches]))
    return _of_two(parts, labels)


def _missing(name: str, path: Path) -> GradevalError:
    return GradevalError(
        f"data '{name}': {path.resolve()} is not there. gradeval downloads nothing: put the files there as torchvision "
        "keeps them, or say by root where that folder is."
    )


def _of_two(parts: list[np.ndarray], labels: list[np.ndarray]) -> Images:
    """A training and a test set of bytes, [images, (channels,) height, width], as one."""
    pixels = torch.as_tensor(np.concatenate(parts)).to(torch.float64) / 255
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    classes = torch.as_tensor(np.concatenate(labels).astype(np.int64))
    return Images(pixels, classes, [str(k) for k in range(10)], torch.arange(len(classes)) >= len(labels[0]))


def _folder(folder: Path) -> Images:
    from PIL import Image

    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    arrays, labels, shape = [], [], None
    for number, name in enumerate(classes):
        for path in sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in IMAGE_FILES):
            try:
                with Image.open(path) as image:
                    colour = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
                    array = np.atleast_3d(np.asarray(colour, dtype=np.float64)) / 255
            except OSError as error:
                raise GradevalError(f"{path}: not a readable image ({error}).") from None
            shape = shape or array.shape
            if array.shape != shape:
                raise GradevalError(
                    f"{path}: every image must have the size of the first, {shape}, found {array.shape}."
                )
            arrays.append(array)
            labels.append(number)
    if len(set(labels)) < 2:
        raise GradevalError(
            f"{folder.resolve()}: needs at least two folders, one for every class, with images "
            f"({', '.join(IMAGE_FILES)}); found {len(classes)} folders with {len(arrays)} images."
        )
    pixels = torch.as_tensor(np.stack(arrays)).movedim(-1, 1).contiguous()
    return Images(pixels, torch.tensor(labels), classes)


def split(images: Images, seed: int) -> dict[str, Int[Tensor, " points"]]:
    """The numbers of the images of the training, validation and test set: 70, 15 and 15 %, fixed by the seed.

    Where the data have a test set of their own, that is the test set, and 15 % of the rest are for validation.
    """
    count = len(images.labels)
    order = torch.randperm(count, generator=generator("cpu", "split", seed))
    if images.is_test is not None:
        test, rest = order[images.is_test[order]], order[~images.is_test[order]]
        held = round(HELD_OUT * len(rest))
        return {"train": rest[held:], "validation": rest[:held], "test": test}
    held = round(HELD_OUT * count)
    return {"train": order[2 * held :], "validation": order[:held], "test": order[held : 2 * held]}


def digits_task(
    units: str = "24c-48c-96",
    *,
    data: str = "digits",
    root: str = "data",
    points: int | None = None,
    seed: int = 0,
    noise: str = "logistic",
    states: tuple[float, float] = (-1.0, 1.0),
) -> Task:
    """Classification of images by a convolutional network of binary units and a linear head, with cross-entropy.

    Args:
        units: binary layers joined by "-": "16c" convolves to 16 channels (3 × 3, stride 2), "64" is linear.
        data, root: see `load_images`.
        points: training points to use; all if not given.
        seed: of the split into training, validation and test.
        noise, states: of the network.
    """
    images = load_images(data, root)
    shape = tuple(images.pixels.shape[1:])
    maps, width = binary_maps(shape, units)
    network = StochasticBinaryNetwork(maps, _linear(width, len(images.classes)), noise, states)
    name = f"digits {units}" if data == "digits" else f"{data} {units}"
    what = f"classification of {len(images.classes)} classes of {shape[1]}×{shape[2]} images, layers {units}"
    return _task(images, images.labels, network, "cross-entropy", name, what, points, seed)


def autoencoder_task(
    units: str = "8-8",
    encoder: str = "32",
    decoder: str = "32",
    *,
    data: str = "digits",
    root: str = "data",
    points: int | None = None,
    seed: int = 0,
    noise: str = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
) -> Task:
    """Reconstruction of images through layers of stochastic binary codes: squared error, summed over pixels.

    The network is real layers with tanh of the widths ``encoder``, then the binary code layers ``units`` (linear maps),
    then the decoder, a real network with tanh of the widths ``decoder`` and a sigmoid at the pixels.

    Args:
        units: widths of one to three code layers, "8-8".
        encoder, decoder: widths of real layers, "32"; "" for none.
        data, root: see `load_images`.
        points: training points to use; all if not given.
        seed: of the split into training, validation and test.
        noise, states: of the network.
    """
    images = load_images(data, root)
    pixels = images.pixels[0].numel()
    widths = _widths(units, "units")
    if not 1 <= len(widths) <= 3:
        raise GradevalError(f"units must be the widths of one to three code layers, such as 8-8; found '{units}'.")
    hidden = _widths(encoder, "encoder") if encoder else []
    maps: list[nn.Module] = [_tanh_network([pixels, *hidden, widths[0]])]
    maps += [_linear(a, b) for a, b in itertools.pairwise(widths)]
    wide = _widths(decoder, "decoder") if decoder else []
    head = nn.Sequential(_tanh_network([widths[-1], *wide, pixels]), nn.Sigmoid())
    network = StochasticBinaryNetwork(maps, head, noise, states)
    what = f"reconstruction of {pixels}-pixel images through binary codes {units}"
    return _task(images, images.pixels.flatten(1), network, "squared", f"autoencoder {units}", what, points, seed)


def binary_maps(shape: tuple[int, ...], units: str) -> tuple[list[nn.Module], int]:
    """Maps of flat states for layers such as "16c-32c-64", and the width of the last.

    "16c" is a 3 × 3 convolution to 16 channels with stride 2 and padding 1; "64" a linear map.
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


def _task(
    images: Images,
    targets: Tensor,
    network: StochasticBinaryNetwork,
    loss: str,
    name: str,
    description: str,
    points: int | None,
    seed: int,
) -> Task:
    parts = split(images, seed)
    if points is not None:
        if not 1 <= points <= len(parts["train"]):
            raise GradevalError(f"points must be from 1 to {len(parts['train'])}, found {points}.")
        parts["train"] = parts["train"][:points]
    inputs = images.pixels.flatten(1)
    train = Problem(network, inputs[parts["train"]], targets[parts["train"]], loss, name, description)
    validation, test = (
        replace(train, inputs=inputs[parts[part]], targets=targets[parts[part]]) if len(parts[part]) else None
        for part in ("validation", "test")
    )
    task = Task(train, validation, test)
    nn.utils.vector_to_parameters(task.initial_parameters(seed), network.parameters())
    return task


def _widths(text: str, what: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", text):
        raise GradevalError(f"{what} must be widths joined by '-', such as 8-8; found '{text}'.")
    return [int(width) for width in text.split("-")]


def _linear(inputs: int, outputs: int) -> nn.Module:
    return _zeros(nn.Linear, inputs, outputs)


def _zeros(kind: type[nn.Module], *sizes: int, **options: int) -> nn.Module:
    """A module with all parameters zero, made without the global random numbers that its own initialisation takes."""
    module: nn.Module = nn.utils.skip_init(kind, *sizes, **options, dtype=torch.float64)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _tanh_network(widths: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [_linear(a, b), nn.Tanh()]
    return layers[0] if len(layers) == 2 else nn.Sequential(*layers[:-1])
