"""A toy data set: drawn pets in the real one's layout, for tests and for a first run without a download.

Textured bodies with ears and a tail on textured grounds, as JPEG, and trimaps with a border band, as PNG.
Results on it say that the code works, and nothing about real images.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from common.settings import UserError

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
            image, trimap = draw_pet(random)
            image.save(part / "images" / f"{name}.jpg", quality=92)
            trimap.save(part / "annotations" / "trimaps" / f"{name}.png")
            species = 1 if TOY_BREEDS[breed][0].isupper() else 2
            lines.append(f"{name} {breed + 1} {species} {breed + 1}\n")
        (part / "annotations" / f"{split}.txt").write_text("".join(lines))


def draw_pet(random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """An image (RGB) and its trimap (1 pet, 2 background, 3 border), 90 to 220 px a side."""
    width, height = (int(n) for n in random.integers(90, 221, 2))
    body = Image.new("L", (width, height))
    draw = ImageDraw.Draw(body)
    centre = np.array([width, height]) * random.uniform(0.35, 0.65, 2)
    radius = min(width, height) * random.uniform(0.12, 0.36)  # of the body; the head has 0.6 of it
    ellipse(draw, centre, radius * random.uniform(1.0, 1.4), radius)
    side = random.choice((-1, 1))
    head = centre + np.array([side * radius, -0.8 * radius])
    ellipse(draw, head, 0.6 * radius, 0.6 * radius)
    for ear in (-0.4, 0.4):
        tip = head + np.array([1.3 * ear * radius, -1.1 * radius])
        feet = [head + np.array([(ear + d) * radius, -0.2 * radius]) for d in (-0.2, 0.2)]
        draw.polygon([tuple(p) for p in (*feet, tip)], fill=255)
    tail = [centre - np.array([side * radius * r, radius * (r - 0.9)]) for r in (0.9, 1.5, 1.8)]
    draw.line([tuple(p) for p in tail], fill=255, width=max(3, int(radius / 5)))
    band = 2 * max(1, round(min(width, height) / 60)) + 1  # px; the real border is about this share of a side
    inner = np.array(body.filter(ImageFilter.MinFilter(band))) > 0
    outer = np.array(body.filter(ImageFilter.MaxFilter(band))) > 0
    trimap = np.where(inner, 1, np.where(outer, 3, 2)).astype(np.uint8)
    is_pet = (np.array(body) > 0)[..., None]
    pixels = np.where(is_pet, texture(random, width, height, 12), texture(random, width, height, 30))
    return Image.fromarray(pixels.astype(np.uint8)), Image.fromarray(trimap)


def ellipse(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius_x: float, radius_y: float) -> None:
    draw.ellipse((centre[0] - radius_x, centre[1] - radius_y, centre[0] + radius_x, centre[1] + radius_y), fill=255)


def texture(random: np.random.Generator, width: int, height: int, grain: int) -> np.ndarray:
    """Smooth noise around a random colour, (height, width, 3) in 0 to 255; grain in px."""
    noise = random.normal(0, 45, (height // grain + 2, width // grain + 2, 3)) + random.uniform(50, 205, 3)
    coarse = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return (np.array(coarse, float) + random.normal(0, 8, (height, width, 3))).clip(0, 255)
