"""Finds the pet in images of any size, with a trained network.

    python predict.py cat.jpg holidays/              overlay, trimap and cut-out of each, in outputs/predictions
    python predict.py cat.jpg CHECKPOINT=epoch_05.pt a network of one's own choice; else the newest that was trained
    python predict.py EXPORT=segnet.onnx             the network for onnxruntime, and no images

NAME_overlay.jpg shows what was found; NAME_trimap.png has the data set's values (1 pet, 2 background, 3 border) at
the image's own size; NAME_cutout.png is the pet on transparent ground, soft along its border.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image
from tqdm import tqdm

import fetch_oxford_iiit_pets as pets
import pretrained
from common import machine, pictures, settings
from common.files import write_atomically
from common.inference import logits_of
from common.settings import UserError
from common.trimap import BACKGROUND, BORDER, COLOURS
from dataset.cache import read_pixels

# What is done
CHECKPOINT = ""  # file of weights; "": the newest of all runs in outputs/
FOLDER = "predictions"  # in outputs; where pictures go
EXPORT = ""  # file.onnx to write instead of pictures
SHEET = False  # True: contact_sheet.png too, all cut-outs at a glance
MIRROR = True  # False: half the time, and a little less exact

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # what is taken from a folder
THUMBNAIL = 160  # px, the longer side on a contact sheet
TINT = 0.5  # of the class's colour in an overlay
PNG_EFFORT = 1  # of 9: larger files, ten times sooner

THREADS = 0  # 0: one per core
PRECISION = "auto"  # "bfloat16", "float32", or what is faster here


def main(arguments: list[str]) -> None:
    machine.set_up(THREADS)
    path = Path(CHECKPOINT) if CHECKPOINT else newest_weights()
    network, about = pretrained.load_network(path)
    size = about.get("constants", {}).get("IMAGE_SIZE", pets.IMAGE_SIZE)  # what it was trained for, if it says so
    print(f"{about['network']}, {path}")
    if EXPORT:
        export(network, size, Path(EXPORT))
        return
    paths = images_in(arguments)
    network.to(machine.device(), memory_format=torch.channels_last)
    folder = pets.outputs_folder() / FOLDER
    failed, taken, cutouts = [], set(), []
    for image in tqdm(paths, unit="image", disable=len(paths) < 2):
        name = free_name(image.stem, taken)
        try:
            cutouts.append(predict(network, size, image, folder / name))
        except UserError as error:
            failed.append(str(error))
    if SHEET and cutouts:
        pictures.save_contact_sheet(folder / "contact_sheet.png", cutouts)
    print(f"{len(paths) - len(failed)} of {len(paths)} images in {folder}")
    if failed:
        raise UserError("\n".join(["skipped:", *failed]))


def newest_weights() -> Path:
    """The newest epoch of any run."""
    found = sorted(pets.outputs_folder().glob("*/*/epoch_*.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"no trained network in {pets.outputs_folder()}; train first, python train.py, or CHECKPOINT=")
    return found[-1]


def images_in(arguments: list[str]) -> list[Path]:
    """The files named, and the pictures in folders named. Raises UserError where there are none."""
    paths = []
    for path in map(Path, arguments):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} has no pictures ({', '.join(SUFFIXES)})")
        paths += inside
    if not paths:
        raise UserError("which images? python predict.py IMAGE... or a folder")
    return paths


def free_name(stem: str, taken: set[str]) -> str:
    """The stem, with a number if another image of this call has it already."""
    name = next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, 10**6))) if n not in taken)
    taken.add(name)
    return name


def predict(network: nn.Module, size: int, image: Path, target: Path) -> Tensor:
    """Writes target_overlay.jpg, target_trimap.png and target_cutout.png. Raises UserError if it can't be read.

    Returns the cut-out, (4, h, w), uint8, at the size of a contact sheet.
    """
    pixels = read_pixels(image, "RGB", upright=True)
    probabilities = probabilities_of(network, pixels, size)
    pet, background, border = probabilities
    # The same as argmax(0), which is slow over a first dimension of three.
    is_border = border > torch.maximum(pet, background)
    labels = torch.where(is_border, BORDER, (background > pet).long())[None]  # (1, H, W)
    # Half of the border is pet; below a tenth and above nine tenths the ground is clear and the pet is whole.
    alpha = (pet + border / 2 - 0.1).div_(0.8).clamp_(0, 1)
    cutout = torch.cat((pixels, (255 * alpha).round().byte()[None]))
    save(overlay(pixels, labels), target.with_name(f"{target.name}_overlay.jpg"), quality=90)
    save((labels + 1).byte(), target.with_name(f"{target.name}_trimap.png"), compress_level=PNG_EFFORT)
    save(cutout, target.with_name(f"{target.name}_cutout.png"), compress_level=PNG_EFFORT)
    small = [max(1, round(side * THUMBNAIL / max(pixels.shape))) for side in pixels.shape[-2:]]
    return F.interpolate(cutout[None], small, mode="bilinear", antialias=True)[0]


def probabilities_of(network: nn.Module, pixels: Tensor, size: int) -> Tensor:
    """Probabilities of the classes, (3, H, W), of an image (3, H, W), uint8.

    It is squeezed to the square that the network was trained on; logits are brought back to its size.
    """
    small = F.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True)
    logits = next(logits_of(network, small, machine.precision(PRECISION), MIRROR)).cpu()
    return F.interpolate(logits, pixels.shape[-2:], mode="bilinear")[0].softmax(0)


def overlay(pixels: Tensor, labels: Tensor) -> Tensor:
    """The image (3, H, W), uint8, tinted by class: pet and border in their colours, background as it is."""
    colours = torch.tensor([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS])  # (3, RGB)
    shares = torch.tensor([TINT if c != BACKGROUND else 0.0 for c in range(len(COLOURS))])
    tinted = pixels + shares[labels] * (colours.T[:, labels[0]] - pixels.float())
    return tinted.round().byte()


def save(pixels: Tensor, path: Path, **options: object) -> None:
    picture = to_pil_image(pixels, mode="RGBA" if len(pixels) == 4 else None)
    write_atomically(path, lambda part: picture.save(part, **options))


def export(network: nn.Module, size: int, path: Path) -> None:
    """Writes the network as ONNX: "images" (1, 3, size, size), float in [0, 1] -> "logits" of the same shape."""
    try:
        import onnxscript  # noqa: F401 - what torch's exporter is built on
    except ImportError as error:
        raise UserError("EXPORT needs onnx and onnxscript: pip install onnx onnxscript") from error
    example = (torch.rand(1, 3, size, size),)
    names = {"input_names": ["images"], "output_names": ["logits"]}
    network.eval()
    write_atomically(
        path,
        lambda part: torch.onnx.export(
            network, example, part, dynamo=True, verbose=False, external_data=False, **names
        ),
    )
    print(f"written: {path}; images (1, 3, {size}, {size}) in [0, 1] -> logits of pet, background, border")


if __name__ == "__main__":
    settings.run(main, pets, takes_paths=True)
