"""Images on disk, with pixels in [0, 1]. Nothing is downloaded, and no code in a file is run."""

from __future__ import annotations

import gzip
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradeval.errors import GradevalError, unknown_name

MNIST = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")


class Images(NamedTuple):
    """Images with the numbers of their classes.

    Attributes:
        pixels: in [0, 1], [images, channels, height, width].
        labels: the number of each image's class, [images].
        classes: the names of the classes.
        is_test: which images are the test set that the data came with, [images]; None where they came without one.
    """

    pixels: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]
    classes: list[str]
    is_test: Tensor | None = None


def load_images(data: str = "digits", root: str = "data") -> Images:
    """Read images from disk.

    Args:
        data: "digits" (scikit-learn's 1797 handwritten digits, 8 × 8); "mnist", "fashion-mnist", "kmnist" or "cifar10"
            as torchvision keeps them in the folder ``root``; "omniglot", 28 × 28, in ``root``/omniglot/chardata.mat,
            the file of Burda et al. (arXiv:1509.00519); or a folder with one folder of images for every class.
        root: the folder in which torchvision keeps its data sets.

    Returns:
        The images, in double precision.

    Raises:
        GradevalError: an unknown name, data that are not on disk (it says where it looked), or images of unequal sizes.

    Examples:
        >>> images = load_images("digits")
        >>> tuple(images.pixels.shape), images.classes[:3]
        ((1797, 1, 8, 8), ['0', '1', '2'])
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
    if data == "omniglot":
        return _omniglot(Path(root) / "omniglot" / "chardata.mat")
    if not Path(data).is_dir():
        hint = unknown_name("data", data, ["digits", *MNIST, "cifar10", "omniglot"])
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
    """Read an array of bytes in MNIST's format: two zero bytes, 8 for bytes, the number of axes; sizes; the entries."""
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


def _omniglot(path: Path) -> Images:
    """Images of 28 × 28, each a column of ``data`` or ``testdata``, column after column; their classes are left out."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.exists():
        raise GradevalError(
            f"data 'omniglot': {path.resolve()} is not there. gradeval downloads nothing: put the file chardata.mat of "
            "Burda et al., https://github.com/yburda/iwae, there."
        )
    try:
        content = loadmat(path, variable_names=["data", "testdata"])
        train, test = (np.asarray(content[key], dtype=np.float64) for key in ("data", "testdata"))
        parts = [part.T.reshape(-1, 1, 28, 28).swapaxes(2, 3) for part in (train, test)]
        if not all(part.size and part.min() >= 0 and part.max() <= 1 for part in parts):
            raise ValueError("pixels must be from 0 to 1")
    except (MatReadError, NotImplementedError, OSError, KeyError, ValueError, TypeError) as error:
        raise GradevalError(f"{path}: not Omniglot's images of 28 × 28 ({error}).") from None
    pixels = torch.as_tensor(np.concatenate(parts))
    is_test = torch.arange(len(pixels)) >= len(parts[0])
    return Images(pixels, torch.zeros(len(pixels), dtype=torch.int64), ["character"], is_test)


def _missing(name: str, path: Path) -> GradevalError:
    return GradevalError(
        f"data '{name}': {path.resolve()} is not there. gradeval downloads nothing: put the files there as torchvision "
        "keeps them, or give the folder that it keeps them in as root."
    )


def _of_two(parts: list[np.ndarray], labels: list[np.ndarray]) -> Images:
    """Join a training and a test set of bytes, [images, (channels,) height, width]."""
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
