"""Images on disk: read as they were written, damaged ones named, nothing downloaded."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from gradeval import GradevalError
from gradeval.problems.catalogue import load_task
from gradeval.problems.image_files import load_images
from gradeval.problems.image_tasks import split_images


@pytest.fixture(scope="module")
def digits():
    return load_images()


def test_digits_are_the_real_ones(digits) -> None:
    assert digits.pixels.shape == (1797, 1, 8, 8)
    assert float(digits.pixels.min()) == 0
    assert float(digits.pixels.max()) == 1
    assert torch.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_a_folder_of_images(digits, tmp_path: Path) -> None:
    """The digits written as files come back as they were."""
    from PIL import Image

    order = torch.argsort(digits.labels[:60], stable=True)
    for number in order.tolist():
        place = tmp_path / f"class-{int(digits.labels[number])}"
        place.mkdir(exist_ok=True)
        array = (digits.pixels[number, 0].numpy() * 16).astype(np.uint8)
        Image.fromarray(array).save(place / f"{number:04}.png")
    found = load_images(str(tmp_path))
    torch.testing.assert_close(found.pixels * 255 / 16, digits.pixels[order])
    assert torch.equal(found.labels, digits.labels[order])
    assert found.classes == [f"class-{k}" for k in range(10)]
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "class-0" / "9999.png")
    with pytest.raises(GradevalError, match=r"9999.png: every image must have the size of the first"):
        load_images(str(tmp_path))


def test_mnist_on_disk(digits, tmp_path: Path) -> None:
    """The digits in MNIST's own file format, training and test set, are found where torchvision keeps them."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = (digits.pixels[:, 0].numpy() * 255).round().astype(np.uint8)
    for name, rows in (("train", slice(0, 100)), ("t10k", slice(100, 130))):
        header = struct.pack(">4i", 0x803, len(images[rows]), 8, 8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images[rows].tobytes())
        labels = struct.pack(">2i", 0x801, len(images[rows])) + digits.labels[rows].numpy().astype(np.uint8).tobytes()
        (raw / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    found = load_images("mnist", str(tmp_path))
    torch.testing.assert_close(found.pixels * 255, torch.as_tensor(images[:130, None], dtype=torch.float64))
    assert torch.equal(found.labels, digits.labels[:130])
    parts = split_images(found, 0)
    assert sorted(parts["test"].tolist()) == list(range(100, 130))
    assert (len(parts["train"]), len(parts["validation"])) == (85, 15)
    assert load_task("digits", units="4", data="mnist", root=str(tmp_path)).train.points == 85
    (raw / "t10k-images-idx3-ubyte").write_bytes(header)
    with pytest.raises(GradevalError, match=r"t10k-images-idx3-ubyte: not 3-dimensional bytes"):
        load_images("mnist", str(tmp_path))


def test_cifar10_on_disk(tmp_path: Path) -> None:
    """Batches pickled as CIFAR-10's are; a batch that would run code when it is read is refused."""
    random = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    every = []
    for file in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        every.append(random.integers(0, 256, (4, 3072), dtype=np.uint8))
        batch = {"data": every[-1], "labels": [0, 1, 2, 3], "batch_label": file}
        (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    found = load_images("cifar10", str(tmp_path))
    assert found.pixels.shape == (24, 3, 32, 32)
    np.testing.assert_allclose(found.pixels.flatten(1).numpy() * 255, np.concatenate(every))
    assert found.is_test is not None
    assert found.is_test.nonzero().flatten().tolist() == [20, 21, 22, 23]
    (folder / "test_batch").write_bytes(pickle.dumps({"data": print}))
    with pytest.raises(GradevalError, match=r"test_batch: not a batch of CIFAR-10 \(it would run builtins.print\)"):
        load_images("cifar10", str(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_data_that_are_not_there_are_not_downloaded(name: str, tmp_path: Path) -> None:
    with pytest.raises(GradevalError, match=f"data '{name}': {tmp_path}/.* is not there. gradeval downloads nothing"):
        load_images(name, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_damaged_images_are_named(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with pytest.raises(GradevalError, match="found 2 folders with 0 images"):
        load_images(str(tmp_path))
    (tmp_path / "a" / "x.png").write_bytes(gzip.compress(b"no image"))
    with pytest.raises(GradevalError, match=r"x\.png: not a readable image"):
        load_images(str(tmp_path))
