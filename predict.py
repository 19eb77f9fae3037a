"""Finds the pet in images of any size, with a trained network.

    python predict.py cat.jpg holidays/              overlay, trimap and cut-out of each, in outputs/predictions
    python predict.py tests/photographs              eight images that are here
    python predict.py cat.jpg WEIGHTS=segnet_dsc     published weights
    python predict.py cat.jpg CHECKPOINT=epoch_05.pt weights of one's own
    python predict.py PAGE=True                      a page in the browser to try the networks on; pip install gradio
    python predict.py EXPORT=segnet.onnx             the network for onnxruntime, and no images
    python predict.py EXPORT=int8.onnx INT8=True holidays/     in int8, by what it sees in these images

NAME_overlay.jpg shows what was found; NAME_trimap.png has the data set's values (1 pet, 2 background, 3 border) at
the image's own size; NAME_cutout.png is the pet on transparent ground, soft along its border. What is there of the
same names is overwritten. The network is the newest that was trained here, or else the best that is published.
"""

from common import machine  # isort: skip - first: common/__init__.py says how torch's threads wait

import functools
import itertools
import math
import os
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import fetch_oxford_iiit_pets as pets
import pretrained
from common import checkpoints, cutout, onnx_export, page, pictures, published, settings
from common.files import REPOSITORY
from common.settings import UserError
from common.trimap import CLASSES, PET
from dataset.cache import read_pixels
from dataset.photographs import SUFFIXES, is_picture

# What is done
CHECKPOINT = ""  # file of weights; "": the newest of all runs in outputs/, or else the best published
WEIGHTS = ""  # name of published weights instead, e.g. segnet_dsc
FOLDER = "predictions"  # in outputs; where pictures go
PAGE = False  # True: a page in the browser instead
EXPORT = ""  # file.onnx to write instead of pictures
INT8 = False  # True: EXPORT in int8, a quarter of the size, with scales taken from the images named
SHEET = False  # True: contact_sheet.png too, all cut-outs at a glance
MIRROR = True  # False: half the time, and a little less exact
INPUT = 0  # px a side of the square that an image is squeezed to; 0: as the network was trained
TILES = 0  # e.g. 2: 2x2 overlapping tiles are looked at as well; gained nothing on images of 256 px

HEIC = (".heic", ".heif")  # what phones write
WRITTEN = re.compile(r"(.+?)(_\d+)?(_overlay\.jpg|_trimap\.png|_cutout\.png)")  # by `write`, under `free_name`
LONGEST = 65_500  # px a side, of a JPEG by libjpeg
LONGEST_NAME = 200  # bytes of an image's name in those of its files, for which most systems have 255
THUMBNAIL = 160  # px, the longer side on a contact sheet
EXAMPLES = REPOSITORY / "tests" / "photographs"  # on the page
RANGES = {"INPUT": (0, 1024), "TILES": (0, 8)}  # beyond them, memory and time are better asked for in the code

THREADS = 0  # 0: one per core
PRECISION = "auto"  # "bfloat16", "float32", or what is faster here


def main(arguments: list[str]) -> None:
    check_constants(arguments)
    machine.set_up(THREADS)
    if PAGE:
        paths = networks_there()
        page.serve(list(paths), lambda image, name: find(*load(paths[name]), image), EXAMPLES)
        return
    paths = images_in(arguments) if not EXPORT or INT8 else []
    network, size = load(chosen_weights())
    if EXPORT:
        export(network, size, Path(EXPORT), paths)
        return
    folder = pets.outputs_folder() / FOLDER
    failed, taken, cutouts, without = [], set(), [], []
    for image in tqdm(paths, unit="image", disable=len(paths) < 2):
        name = free_name(image.stem, taken)
        try:
            pixels, probabilities = find(network, size, image)
        except UserError as error:
            failed.append(str(error))
            continue
        cut, has_pet = write(pixels, probabilities, folder / name)
        if SHEET:
            cutouts.append(cutout.thumbnail(cut, THUMBNAIL))
        if not has_pet:
            without.append(image.name)
    if cutouts:
        pictures.save_contact_sheet(folder / "contact_sheet.png", cutouts)
    print(f"{len(paths) - len(failed)} of {len(paths)} images in {folder}")
    if without:
        print(f"no pet was found in {', '.join(without)}")
    if failed:
        raise UserError("\n".join(["skipped:", *failed]))


def check_constants(images: list[str]) -> None:
    """Raises UserError for values that would fail only later, and for those that would be passed over."""
    settings.check(globals(), {}, RANGES)
    machine.precision(PRECISION)
    if CHECKPOINT and WEIGHTS:
        raise UserError("give CHECKPOINT or WEIGHTS, not both")
    if INT8 and not EXPORT:
        raise UserError("INT8 is for EXPORT=file.onnx")
    if EXPORT and (Path(EXPORT).suffix.lower() != ".onnx" or os.path.isdir(EXPORT)):
        raise UserError(f"EXPORT={EXPORT}: give a file, named NAME.onnx, and no folder")
    if PAGE and (EXPORT or images):
        raise UserError("PAGE=True takes its images in the browser: leave out EXPORT and images")
    if EXPORT and images and not INT8:
        raise UserError("EXPORT takes no images but with INT8=True: leave them out")


def chosen_weights() -> Path:
    """CHECKPOINT, the published WEIGHTS, the newest epoch of any run, or the best published, in this order."""
    if CHECKPOINT or WEIGHTS:
        return published.chosen(CHECKPOINT, WEIGHTS)
    path = checkpoints.newest_weights(pets.outputs_folder()) or published.best()
    if not path:
        raise UserError(
            f"no trained network in {pets.outputs_folder()}, those of experiments aside, and none is published; "
            "train first, python train.py"
        )
    return path


def networks_there() -> dict[str, Path]:
    """Weights by the names that the page gives them: what chosen_weights says comes first, then all published."""
    own = Path(CHECKPOINT) if CHECKPOINT else checkpoints.newest_weights(pets.outputs_folder())
    paths = [chosen_weights(), *([own] if own else []), *map(published.path_of, published.names())]
    return {path.stem if path.parent == published.FOLDER else "/".join(path.parts[-3:]): path for path in paths}


@functools.cache
def load(path: Path) -> tuple[nn.Module, int]:
    """The network of a file of weights, on the device, and the side of its square, px."""
    expected = published.network_of(path.stem) if path.parent == published.FOLDER else ""
    network, about = pretrained.load_network(path, expected)
    print(f"{about['network']}, {path}")
    trained_for = about.get("constants", {}).get("IMAGE_SIZE", pets.IMAGE_SIZE)  # if it says so
    size, times = INPUT or trained_for, network.enlarged
    smallest, largest = math.ceil(2**network.stages / times), RANGES["INPUT"][1] // times
    said = f"INPUT={INPUT}" if INPUT else f"{path} says IMAGE_SIZE={repr(size)[:20]}"
    if not isinstance(size, int) or not smallest <= size <= largest:
        raise UserError(f"{said}, and {about['network']} takes {smallest} to {largest} px here; INPUT= gives another")
    pretrained.check_sizes(network, (size,), said=said)
    return network.to(machine.device(), memory_format=torch.channels_last), size


def images_in(arguments: list[str]) -> list[Path]:
    """The files named, and the pictures in folders named. Raises UserError where there are none."""
    paths: list[Path] = []
    for path in map(Path, arguments):
        if not os.path.isdir(path):  # which never raises
            paths.append(path)
            continue
        try:
            files = sorted(file for file in path.iterdir() if os.path.isfile(file))
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}") from error
        inside = [file for file in files if is_picture(Path(file.name))]
        if results := made_here(inside):
            print(f"left out of {path}, since they were made here: {len(results)} pictures, such as {results[0].name}")
        inside = [file for file in inside if file not in results]
        if left := [file.name for file in files if file.suffix.lower() in HEIC]:
            print(f"left out of {path}, since HEIC can't be read here: {', '.join(left)}")
        if not inside:
            raise UserError(f"{path} has no pictures ({', '.join(SUFFIXES)}); folders in it are not searched")
        paths += inside
    if not paths:
        raise UserError("which images? python predict.py IMAGE... or a folder")
    return paths


def made_here(pictures: list[Path]) -> list[Path]:
    """Of the pictures of a folder, the results of others in it."""
    stems = {picture.stem for picture in pictures}
    names = ((picture, WRITTEN.fullmatch(picture.name)) for picture in pictures)
    made = [picture for picture, name in names if name and {name[1], name[1] + (name[2] or "")} & stems]
    return made + [picture for picture in pictures if made and picture.name == "contact_sheet.png"]


def free_name(stem: str, taken: set[str]) -> str:
    """The stem, with a number if another image of this call has it already; cut where files could not be named so."""
    while len(os.fsencode(stem)) > LONGEST_NAME:
        stem = stem[:-1]
    names = itertools.chain((stem,), (f"{stem}_{i}" for i in itertools.count(2)))
    name = next(name for name in names if name.casefold() not in taken)  # some file systems know no capitals
    taken.add(name.casefold())
    return name


def find(network: nn.Module, size: int, image: Path) -> tuple[Tensor, Tensor]:
    """Pixels (3, h, w), uint8, of an image, and their probabilities (3, h, w). Raises UserError if it can't be read."""
    pixels = read_pixels(image, "RGB", upright=True)
    if max(pixels.shape) > LONGEST:
        raise UserError(f"{image} is longer than {LONGEST:,} px, the most that a JPEG can be: cut it in two")
    return pixels, cutout.probabilities_of(network, pixels, size, machine.precision(PRECISION), MIRROR, TILES)


def write(pixels: Tensor, probabilities: Tensor, target: Path) -> tuple[Tensor, bool]:
    """Writes target_overlay.jpg, target_trimap.png and target_cutout.png, of what `find` returned.

    Returns the cut-out, (4, h, w), uint8, and whether any pixel is called pet. Raises UserError if there is no room.
    """
    labels, cut = cutout.write(pixels, probabilities, target)
    cutout.save((labels + 1).byte(), target.with_name(f"{target.name}_trimap.png"))
    return cut, bool((labels == PET).any())


def export(network: nn.Module, size: int, path: Path, images: list[Path]) -> None:
    """Writes the network as ONNX, in int8 by scales taken from images. Raises UserError for one that can't be read."""
    if INT8:
        squares = (cutout.squeezed(read_pixels(image, "RGB", upright=True), size) for image in images)
        onnx_export.export_int8(network, size, path, squares)
    else:
        onnx_export.export(network, size, path)
    print(f"written: {path}; images (B, 3, {size}, {size}) in [0, 1] -> logits of {', '.join(CLASSES)}")


if __name__ == "__main__":
    settings.run(main, pets, page, takes_paths=True)
