"""A folder of photographs without labels, for pretraining: decoded and resized once, into the same cache."""

import hashlib
from pathlib import Path

from torch import Tensor
from torchvision.transforms import v2

from common.settings import UserError
from dataset import rows
from dataset.cache import CODE_VERSION, Pair, decode_from, read_pixels

VERSION = 3  # raised by hand whenever pixels of photographs alone would come out otherwise
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # what is taken from a folder


def load(folder: Path, size: int, cache_folder: Path) -> tuple[Tensor, list[Pair], str]:
    """All photographs in a folder and the folders in it, squeezed to size x size px: images (N, 3, size, size), uint8.

    Also a pair for each, of breed 0 and without a trimap, and a checksum of their names and lengths. What is under the
    cache's parent is left out: there runs draw their pictures.
    Raises UserError where there are none, and for a file that can't be read, which it names.
    """
    drawn, whole = cache_folder.parent.resolve(), folder.resolve()
    drawn = folder / drawn.relative_to(whole) if whole in drawn.parents else None
    found = (path for path in folder.rglob("*") if is_picture(path.relative_to(folder)) and drawn not in path.parents)
    paths = sorted(path for path in found if path.is_file())
    if not paths:
        reason = f"has no photographs ({', '.join(SUFFIXES)})" if folder.is_dir() else "is no folder"
        raise UserError(f"IMAGES={folder}: it {reason}")
    names = [path.relative_to(folder).as_posix() for path in paths]
    files = [(name, path.stat()) for name, path in zip(names, paths)]
    identity = digest("\n".join(f"{name} {stat.st_size}" for name, stat in files))
    times = digest("\n".join(f"{name} {stat.st_mtime_ns}" for name, stat in files))
    file = cache_folder / f"photographs-{digest(str(folder.resolve()))[:12]}-{size}.bin"
    key, shape = f"{size} {identity} {times}", (len(paths), 3, size, size)
    images = rows.mapped(file, key, shape)
    if images is None:

        def decode(path: Path) -> Tensor:
            return v2.functional.resize(read_pixels(path, "RGB", upright=True), [size, size], antialias=True)

        what = f"decoding photographs, {size} px"
        images = rows.written(file, key, shape, lambda done: decode_from(decode, paths, done, what))
    return images, [Pair(name, 0, "", str(folder)) for name in names], identity


def is_picture(path: Path) -> bool:
    """By its name; what is hidden, such as macOS leaves beside pictures on other disks (._cat.jpg), is none."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def digest(text: str) -> str:
    data = f"{CODE_VERSION} {VERSION}\n{text}".encode(errors="surrogateescape")  # file names may be no UTF-8
    return hashlib.sha256(data).hexdigest()
