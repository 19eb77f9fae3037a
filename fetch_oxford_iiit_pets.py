"""Oxford-IIIT Pets: fetches the data set, shows it, and hands out images with their trimaps.

    python fetch_oxford_iiit_pets.py                      fetches to ./oxford-iiit-pet, prints and draws what is there
    python fetch_oxford_iiit_pets.py DATA_ROOT=/data      data that are already there are used as they are

torchvision's own downloader fails with SSL errors for many users; this one asks two hosts, resumes and checks.
Data: O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, "Cats and Dogs", CVPR 2012
(https://www.robots.ox.ac.uk/~vgg/data/pets/, CC BY-SA 4.0).
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import OxfordIIITPet

from common import settings
from common.files import lock
from common.settings import UserError
from common.trimap import BACKGROUND, CLASSES
from dataset import cache, download
from dataset.augment import augment
from dataset.cache import Split
from dataset.toy_pets import TOY_VERSION, write_toy_pets

# Data
DATASET = "oxford-iiit-pet"  # or "toy": drawn pets, made here in seconds, whose results are kept apart
DATA_ROOT = "."  # holds oxford-iiit-pet/images and oxford-iiit-pet/annotations; may be read-only
IMAGE_SIZE = 128  # px a side, to 4096; images are squeezed to a square, as in the original

# Outputs
OUTPUTS = "outputs"  # caches, runs and pictures; those of the toy data in its folder toy

# Download
HOSTS = ("https://www.robots.ox.ac.uk/~vgg/data/pets/data/", "https://thor.robots.ox.ac.uk/datasets/pets/")
MOST_UNPACKED = 4_000_000_000  # bytes; an archive that unpacks to more is refused


class Archive(NamedTuple):
    folder: str
    size: int  # bytes
    md5: str


ARCHIVES = [
    Archive("images", 791_918_971, "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
    Archive("annotations", 19_173_078, "95a8c909bbe2e81eed6a22bccdf3f68f"),
]


class Pets(Dataset):
    """Items are a float image (3, S, S) in [0, 1] and a long trimap (1, S, S) of 0, 1 and 2."""

    def __init__(self, split: Split, augmented: bool) -> None:
        self.split, self.augmented = split, augmented

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        i = range(len(self))[i]  # from the end too; IndexError beyond
        image, trimap = self.split.images[i : i + 1], self.split.trimaps[i : i + 1].long()
        if self.augmented:
            image, trimap = augment(image, trimap, torch.default_generator)
        else:
            image = image / 255
        return image[0], trimap[0]


def original() -> tuple[Dataset, Dataset]:
    """(trainset, testset), whose items are an image and its trimap (1, 2, 3) as PIL images, unchanged."""
    root = data_folder().parent
    return tuple(OxfordIIITPet(root, split, target_types="segmentation") for split in ("trainval", "test"))


def augmented() -> tuple[Dataset, Dataset]:
    """(trainset, testset) of IMAGE_SIZE; images of the trainset, and only they, are changed at random."""
    return Pets(load("trainval"), augmented=True), Pets(load("test"), augmented=False)


def load(split: str, size: int = 0) -> Split:
    """All of "trainval" or "test" at `size` px (0: IMAGE_SIZE). Raises UserError naming what is missing or damaged."""
    size = size or IMAGE_SIZE
    if not 16 <= size <= 4096:
        raise UserError(f"images of {size} px: at least 16 px, since the networks halve 4 times; at most 4096 px")
    return cache.load(data_folder(), split, size, outputs_folder() / "cache")


def outputs_folder() -> Path:
    return Path(OUTPUTS, "toy") if DATASET == "toy" else Path(OUTPUTS)


def published_folder() -> Path:
    """Where rows and pictures go that git keeps."""
    return outputs_folder() / "published"


def data_folder() -> Path:
    """The folder with images and annotations, filled first where it is not there.

    Raises UserError if that fails. The toy data are never taken in place of the real.
    """
    if DATASET == "toy":
        folder = outputs_folder() / f"data-{TOY_VERSION}" / "oxford-iiit-pet"
        if not folder.exists():
            write_toy_pets(folder)
        return folder
    if DATASET != "oxford-iiit-pet":
        raise UserError(f'DATASET is "oxford-iiit-pet" or "toy", not {DATASET!r}')
    folder = Path(DATA_ROOT) / "oxford-iiit-pet"
    if not os.path.exists(folder) and all(os.path.isdir(Path(DATA_ROOT, archive.folder)) for archive in ARCHIVES):
        raise UserError(
            f"DATA_ROOT={DATA_ROOT} holds images and annotations itself; they belong in a folder oxford-iiit-pet: "
            "move them there, or rename this one so and give its parent"
        )
    for archive in ARCHIVES:
        fetch(folder, archive)
    return folder


def fetch(folder: Path, archive: Archive) -> None:
    """Makes sure that folder/images or folder/annotations is there: as found, unpacked, or fetched and unpacked.

    Other processes that want the same wait for the one that does it.
    """
    if os.path.isdir(folder / archive.folder):
        return
    with lock(folder / ".lock", wait=True) or contextlib.nullcontext():
        if os.path.isdir(folder / archive.folder):
            return
        path = folder / f"{archive.folder}.tar.gz"
        if not path.exists():
            download.download([host + path.name for host in HOSTS], path, archive.size, archive.md5)
        elif path.stat().st_size != archive.size or download.md5_of(path) != archive.md5:
            raise UserError(f"{path} is not the official archive (MD5 {archive.md5}); delete it to fetch it")
        download.unpack(path, archive.folder, MOST_UNPACKED)


def data_name() -> str:
    """What the data are, for rows of results: "oxford", "oxford-256px-copy" or "toy"."""
    if DATASET == "toy":
        return "toy"
    longest = 0
    for pair in cache.read_list(data_folder(), "trainval")[:100]:
        longest = max(longest, *cache.size_of(data_folder(), pair))
    return "oxford" if longest > 256 else "oxford-256px-copy"


def identity(split: str) -> str:
    """A checksum of which files a split consists of, and of how this code reads them."""
    return cache.identity_of(data_folder(), cache.read_list(data_folder(), split))


def trimap_at_own_size(pair: cache.Pair) -> Tensor:
    """A trimap (1, H, W), uint8, as its file has it, but classes from 0."""
    return cache.read_trimap(data_folder(), pair)


def class_shares(trimaps: Tensor) -> Tensor:
    """Share of pixels of each class, (3,), averaged over trimaps (N, 1, S, S), some of them at a time."""
    counts = [torch.stack([(part == c).sum() for c in range(len(CLASSES))]) for part in trimaps.split(256)]
    return torch.stack(counts).sum(0) / trimaps.numel()


def main() -> None:
    from common.pictures import save_grid  # matplotlib is only needed here

    for name in ("trainval", "test"):
        split = load(name)
        shares = ", ".join(f"{c} {s:.3f}" for c, s in zip(CLASSES, class_shares(split.trimaps).tolist()))
        no_pet = sum(int((part == BACKGROUND).flatten(1).all(1).sum()) for part in split.trimaps.split(256))
        print(f"{name}: {len(split.images)} images, {no_pet} without a pet; shares of pixels: {shares}")
    trainset, testset = augmented()
    torch.manual_seed(0)
    for name, dataset in (("trainval, augmented", trainset), ("test", testset)):
        images, trimaps = next(iter(DataLoader(dataset, batch_size=8, shuffle=True)))
        path = outputs_folder() / f"images_{name.split(',')[0]}.png"
        save_grid(path, images, trimaps, f"{data_name()}, {name}")
        print(f"drawn: {path}")


if __name__ == "__main__":
    settings.run(main, sys.modules[__name__])
