"""A toy data set: drawn pets in the real one's layout, for tests and for a first run without a download.

Cats and dogs in a meadow or a room, as JPEG, and trimaps with a border band, as PNG. They are easy, so that a network
finds them within minutes: results on them say that the code works, and nothing about real images.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np

from common.settings import UserError
from dataset.drawn_pets import draw_pet

TOY_VERSION = 2  # raised by hand whenever other pixels are drawn
TOY_TRAINVAL = 48  # images in trainval.txt
TOY_TEST = 24  # images in test.txt
TOY_BREEDS = ("Drawn_Cat", "Drawn_Lynx", "drawn_hound", "drawn_terrier")  # cats have capitals, as in the real set


def write_toy_pets(folder: Path) -> None:
    """Draws the data set into `folder`, complete or not at all; the same pixels every time.

    Raises UserError where that can't be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            draw_all(Path(part) / "data")
            with contextlib.suppress(FileExistsError):
                os.rename(Path(part) / "data", folder)
    except OSError as error:
        if not folder.exists():  # another process may have drawn the same in the meantime
            raise UserError(f"{folder} could not be drawn: {error}; make room there or allow writing") from error


def draw_all(part: Path) -> None:
    (part / "images").mkdir(parents=True)
    (part / "annotations" / "trimaps").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("trainval", TOY_TRAINVAL), ("test", TOY_TEST)):
        lines = []
        for i in range(count):
            breed = i % len(TOY_BREEDS)
            name = f"{TOY_BREEDS[breed]}_{len(lines) if split == 'trainval' else TOY_TRAINVAL + len(lines)}"
            image, trimap = draw_pet(random, TOY_BREEDS[breed])
            image.save(part / "images" / f"{name}.jpg", quality=92)
            trimap.save(part / "annotations" / "trimaps" / f"{name}.png")
            species = 1 if TOY_BREEDS[breed][0].isupper() else 2
            lines.append(f"{name} {breed + 1} {species} {breed + 1}\n")
        (part / "annotations" / f"{split}.txt").write_text("".join(lines))
