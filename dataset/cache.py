"""Every image decoded and resized once, into one file of bytes that later starts map into memory."""

import hashlib
import io
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2
from tqdm import tqdm

from common import machine
from common.settings import UserError
from dataset import rows
from dataset.labels import overlaps, resize_labels

CODE_VERSION = 2  # raised by hand whenever images or labels in the cache would come out otherwise
TRUTH = "area"  # how labels are resized, for rows of results; rows without it are of version 1, "nearest"
SPECIES = {1: "cat", 2: "dog"}  # as the lists number them
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # what is decoded; EPS, for one, would start Ghostscript
HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis"))
LARGEST = 50_000_000  # pixels; an image beyond this is taken for a decompression bomb
AT_ONCE = 128  # images decoded, then written: as many as a kill may lose
TURNS = dict(zip(range(2, 9), (  # by what EXIF calls the orientation
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
)))  # fmt: skip
Image.MAX_IMAGE_PIXELS = None  # read_pixels looks itself, and says which line lists the file


class Pair(NamedTuple):
    """A line of trainval.txt or test.txt: one image and its trimap."""

    name: str  # e.g. Abyssinian_100
    breed: int  # 0 to 36
    species: str  # "cat" or "dog"
    where: str  # file and line that list it, for errors


class Split(NamedTuple):
    """A split: images (N, 3, S, S) and trimaps (N, 1, S, S), both uint8, mapped from its cache, and the list's pairs.

    What is mapped must not be written to.
    """

    images: Tensor  # 0 to 255
    trimaps: Tensor  # 0 pet, 1 background, 2 border
    pairs: list[Pair]


def read_list(folder: Path, split: str) -> list[Pair]:
    """The pairs that annotations/SPLIT.txt lists: NAME BREED SPECIES BREED_OF_SPECIES, numbers from 1.

    Raises UserError that names file and line of the first one that is not so.
    """
    path = folder / "annotations" / f"{split}.txt"
    pairs = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}; unpack annotations.tar.gz again") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split()
        numbers = [int(field) for field in fields[1:] if field.isdecimal() and len(field) < 10]
        known = len(numbers) == 3 and 1 <= numbers[0] <= 37 and numbers[1] in SPECIES
        if len(fields) != 4 or not known or Path(fields[0]).name != fields[0]:
            raise UserError(f"{path}, line {number}: expected NAME BREED SPECIES NUMBER, found {line[:60]!r}")
        pairs.append(Pair(fields[0], numbers[0] - 1, SPECIES[numbers[1]], f"{path}, line {number}"))
    if not pairs:
        raise UserError(f"{path} lists no images; unpack annotations.tar.gz again")
    return pairs


def paths_of(folder: Path, pair: Pair) -> tuple[Path, Path]:
    return folder / "images" / f"{pair.name}.jpg", folder / "annotations" / "trimaps" / f"{pair.name}.png"


def decode(folder: Path, pair: Pair, size: int) -> tuple[Tensor, Tensor]:
    """An image (3, size, size) and its trimap (1, size, size), both uint8; the trimap's classes from 0.

    The image is resized bilinearly and antialiased; a label is the class that covers most of its pixel.
    Raises UserError that names the file and the line that lists it.
    """
    path, _ = paths_of(folder, pair)
    image, trimap = read_pixels(path, "RGB", pair.where), read_trimap(folder, pair)  # a .jpg may be GIF, PNG, CMYK
    if image.shape[-2:] != trimap.shape[-2:]:
        shapes = " and ".join(f"{t.shape[-1]}x{t.shape[-2]} px" for t in (image, trimap))
        raise UserError(f"{path} and its trimap differ in size, {shapes} ({pair.where})")
    return v2.functional.resize(image, [size, size], antialias=True), resize_labels(trimap, size, size)


def read_trimap(folder: Path, pair: Pair) -> Tensor:
    """A trimap (1, H, W), uint8, at its own size, classes from 0. Raises UserError that names the file."""
    _, path = paths_of(folder, pair)
    trimap = read_pixels(path, "L", pair.where)
    if not 1 <= int(trimap.min()) <= int(trimap.max()) <= 3:
        raise UserError(f"{path} has values other than 1, 2 and 3 ({pair.where})")
    return trimap - 1


def size_of(folder: Path, pair: Pair) -> tuple[int, int]:
    """Width and height of an image, px."""
    path, _ = paths_of(folder, pair)
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except OSError as error:
        raise UserError(f"{path} {fault(path, error, pair.where)}") from error


def read_pixels(path: Path, mode: str, where: str = "", upright: bool = False) -> Tensor:
    """Pixels (C, H, W), uint8, of a file in Pillow's mode "RGB" or "L".

    where: what else errors say of it; upright: as a viewer shows it, turned as its EXIF data say, in the colours of its
    profile, on white where it is transparent.
    Raises UserError if it is missing, no picture, too large to be an image, or of more than 16 bits.
    """
    place = f" ({where})" if where else ""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > LARGEST:
                said = f"{path} has {image.width}x{image.height} px, over {LARGEST:,} in all{place}"
                raise UserError(f"{said}: make it smaller")
            image = shown(image) if upright else image
            low, high = image.getextrema() if image.mode == "I" else (0, 0)
            if image.mode == "F" or low < 0 or high >= 2**16:
                raise UserError(f"{path} has pixels of 32 bits{place}: make them 8")
            if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
            palette_index = mode == "L" and image.mode == "P"  # a trimap's palette colours are not its classes
            return v2.functional.pil_to_tensor(image if palette_index else image.convert(mode))
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UserError(f"{path} {fault(path, error, where)}") from error


def fault(path: Path, error: Exception, where: str) -> str:
    """What is wrong with a file that Pillow could not read, and what to do; where: see `read_pixels`."""
    place = f" ({where})" if where else ""
    if isinstance(error, OSError) and error.strerror:
        return f"can't be read: {error.strerror}{place}"
    if not isinstance(error, UnidentifiedImageError):
        return f"can't be decoded: {error}{place}"
    if where:
        return f"is no picture{place}: it is damaged, unpack its archive again"
    with open(path, "rb") as file:
        kind = "HEIC or AVIF, which" if file.read(12)[4:] in HEIC else "no picture, or of a kind that"
    return f"is {kind} can't be read here: save it as JPEG"


def shown(image: Image.Image) -> Image.Image:
    """The image as a viewer shows it."""
    image.load()  # Pillow turns a TIFF itself when it loads it, and then says so
    try:  # not ImageOps, which stumbles over other tags
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except (SyntaxError, struct.error):  # Pillow's words for EXIF data that are none, or cut off
        turn = None
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):  # what has 16 bits is scaled to 8 later
        return image
    mode = "RGBA" if image.has_transparency_data else "RGB" if image.mode == "P" else image.mode
    image = in_srgb(image if image.mode == mode else image.convert(mode))
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image) if image.mode == "RGBA" else image


def in_srgb(image: Image.Image) -> Image.Image:
    """The colours that the image's profile means, such as a phone's Display P3, as those of sRGB; where it fits."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (KeyError, OSError, TypeError, ValueError, ImageCms.PyCMSError):  # none, a broken one, or of other colours
        return image


def identity_of(folder: Path, pairs: list[Pair], with_times: bool = False) -> str:
    """Changes whenever files of other names, breeds or sizes are listed, or this code makes other pixels of them.

    with_times: also when a file was written anew; without, it is the same on every machine that has the same files.
    """
    digest = hashlib.sha256(f"{CODE_VERSION}".encode())
    for pair in pairs:
        for path in paths_of(folder, pair):
            try:
                stat = path.stat()
            except OSError as error:
                raise UserError(f"{path} is missing, though listed ({pair.where})") from error
            time = stat.st_mtime_ns if with_times else ""
            digest.update(f"{path.name} {pair.breed} {stat.st_size} {time}\n".encode())
    return digest.hexdigest()


def load(folder: Path, split: str, size: int, cache_folder: Path) -> Split:
    """The split "trainval" or "test" at size x size px, from the cache.

    The cache is made, or made anew, where it doesn't fit. Raises UserError for data that can't be read, and where the
    cache can't be written.
    """
    pairs = read_list(folder, split)
    key = f"{size} {identity_of(folder, pairs, with_times=True)}"
    path, shape = cache_folder / f"{split}-{size}.bin", (len(pairs), 4, size, size)
    found = rows.mapped(path, key, shape)
    if found is None:

        def decoded(done: int) -> Iterator[Tensor]:
            what = f"decoding {split}, {size} px"
            return decode_from(lambda pair: torch.cat(decode(folder, pair, size)), pairs, done, what)

        found = rows.written(path, key, shape, decoded)
    return Split(found[:, :3], found[:, 3:], pairs)


def decode_from(decode_one: Callable[[object], Tensor], listed: list[object], done: int, what: str) -> Iterator[Tensor]:
    """decode_one, (C, size, size), of all that is listed after the first `done`: (n, C, size, size), some at a time."""
    bar = tqdm(total=len(listed), initial=done, desc=what, unit="image", leave=False)
    with bar, ThreadPoolExecutor(machine.usable_cores()) as pool:
        for start in range(done, len(listed), AT_ONCE):
            if machine.stopping.is_set():
                raise KeyboardInterrupt
            some = list(pool.map(decode_one, listed[start : start + AT_ONCE]))
            yield torch.stack(some)
            bar.update(len(some))
    overlaps.cache_clear()  # as many as there are sides of images
