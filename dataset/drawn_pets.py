"""Drawings of cats and dogs with their trimaps, for the toy data set: one draw_pet each."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

COATS = (  # fur and markings; grounds are green to violet
    ((226, 140, 58), (252, 230, 196)), ((128, 118, 114), (232, 226, 218)), ((70, 58, 54), (240, 234, 226)),
    ((244, 232, 212), (206, 152, 100)), ((150, 92, 54), (238, 212, 176)), ((212, 168, 106), (104, 68, 46)),
)  # fmt: skip
INK, PINK, WHITE = (36, 26, 26), (238, 150, 148), (255, 255, 255)
IRIS = {
    "Drawn_Cat": (96, 170, 80),
    "Drawn_Lynx": (226, 176, 40),
    "drawn_hound": (92, 54, 28),
    "drawn_terrier": (60, 38, 26),
}
FINER = 3  # drawn at this multiple of the final size and then reduced, for smooth edges


def draw_pet(random: np.random.Generator, breed: str = "Drawn_Cat") -> tuple[Image.Image, Image.Image]:
    """An image (RGB) and its trimap (1 pet, 2 background, 3 border), 120 to 200 px a side.

    breed: Drawn_Cat, Drawn_Lynx, drawn_hound or drawn_terrier.
    """
    size = random.integers(120, 201, 2)
    fine = FINER * size
    pet = draw_animal(random, breed, int(fine.mean() * random.uniform(0.82, 1.0)))
    corner = (fine - pet.width) / 2 + fine * random.uniform((-0.07, 0.0), (0.07, 0.06))
    image, mask = draw_ground(random, fine), Image.new("L", tuple(fine))
    for target, source in ((image, pet.convert("RGB")), (mask, pet.getchannel("A"))):
        target.paste(source, tuple(int(p) for p in corner), pet.getchannel("A"))
    pixels = np.array(image.resize(tuple(size), Image.Resampling.BOX), float) * random.uniform(0.9, 1.05)
    pixels += random.normal(0, 4, pixels.shape)  # a camera's grain
    mask = mask.resize(tuple(size), Image.Resampling.BOX).point(lambda alpha: 255 * (alpha > 127))
    band = 2 * int(size.mean() / 50) + 1  # px; the real border is about this share of a side
    inner, outer = (np.array(mask.filter(f(band))) > 0 for f in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
    trimap = np.where(inner, 1, np.where(outer, 3, 2)).astype(np.uint8)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), Image.fromarray(trimap)


class Pen:
    """Draws on an image in coordinates from -1 to 1, y downwards."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self.draw = image, ImageDraw.Draw(image)
        self.origin = self.unit = np.array(image.size) / 2

    def oval(self, x: float, y: float, rx: float, ry: float, colour: tuple) -> None:
        corners = (self.origin + self.unit * (x + s * rx, y + s * ry) for s in (-1, 1))
        self.draw.ellipse([tuple(c) for c in corners], fill=colour)

    def polygon(self, points: tuple, colour: tuple) -> None:
        self.draw.polygon([tuple(self.origin + self.unit * p) for p in points], fill=colour)

    def stroke(self, start: tuple, via: tuple, end: tuple, width: float, colour: tuple) -> None:
        """A curve with round ends, bent towards `via`."""
        t = np.linspace(0, 1, 12)[:, None]
        points = self.origin + self.unit * (
            (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(via) + t**2 * np.array(end)
        )
        wide = int(width * min(self.unit))
        self.draw.line([tuple(p) for p in points], colour, wide, joint="curve")
        for x, y in points[[0, -1]]:
            self.draw.ellipse((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2), colour)


def draw_animal(random: np.random.Generator, breed: str, side: int) -> Image.Image:
    """A sitting or standing pet on a transparent square."""
    fur, marks = (tinted(c, random.uniform(0.94, 1.04)) for c in COATS[random.integers(len(COATS))])
    dark, is_cat = tinted(fur, 0.8), breed[0].isupper()
    pen = Pen(Image.new("RGBA", (side, side)))
    if random.random() < 0.6:  # sits
        pen.stroke((0.2, 0.78), (0.95, 0.95), (0.78, 0.25 if is_cat else 0.5), 0.17, dark)
        pen.oval(0, 0.42, 0.44, 0.5, fur)
        for x in (-0.36, 0.36):
            pen.oval(x, 0.7, 0.23, 0.22, dark)
        pen.oval(0, 0.3, 0.25, 0.32, marks)
        legs, ground, head = ((-0.15, fur), (0.15, fur)), 0.86, (0, -0.27)
    else:  # stands and turns its head to us
        pen.stroke((0.6, 0.1), (0.95, 0.05), (0.82, -0.55 if is_cat else -0.3), 0.16, dark)
        pen.oval(0.1, 0.22, 0.66, 0.34, fur)
        pen.oval(0.34, 0.08, 0.2, 0.13, dark)
        legs, ground, head = ((-0.24, dark), (0.64, dark), (-0.44, fur), (0.46, fur)), 0.78, (-0.4, -0.2)
    for x, colour in legs:
        pen.stroke((x, 0.38), (x, 0.5), (x, ground - 0.05), 0.21, colour)
        pen.oval(x, ground, 0.14, 0.08, marks)
    pen.origin = pen.origin + pen.unit * head
    pen.oval(0, 0.09, 0.44, 0.36, dark)  # its shadow on the body
    draw_head(pen, breed, fur, marks)
    if random.random() < 0.5:
        pen.image = ImageOps.mirror(pen.image)
    pet = pen.image.rotate(random.uniform(-7, 7), Image.Resampling.BILINEAR)
    inside = np.array(pet.getchannel("A").filter(ImageFilter.GaussianBlur(side / 25)), float)[..., None] / 255
    hair = Image.fromarray(random.normal(0, 0.05, (side // 9, side // 4)).astype(np.float32))
    light = 0.7 + 0.33 * inside + np.array(hair.resize(pet.size, Image.Resampling.BICUBIC))[..., None]
    shaded = (np.array(pet) * np.where(np.arange(4) < 3, light, 1)).clip(0, 255)
    return Image.fromarray(shaded.astype(np.uint8))


def draw_head(pen: Pen, breed: str, fur: tuple, marks: tuple) -> None:
    """The face of a cat, a lynx, a hound or a terrier, around the pen's origin."""
    dark, is_cat = tinted(fur, 0.8), breed[0].isupper()
    whiskers = INK if sum(fur) > 500 else WHITE
    for s in (-1, 1) if breed != "drawn_hound" else ():
        pen.polygon(((s * 0.46, -0.1), (s * 0.42, -0.66), (s * 0.06, -0.3)), dark if breed == "drawn_terrier" else fur)
        pen.polygon(((s * 0.39, -0.2), (s * 0.38, -0.53), (s * 0.17, -0.3)), PINK if is_cat else dark)
        if breed == "Drawn_Lynx":
            pen.stroke((s * 0.42, -0.62), (s * 0.43, -0.68), (s * 0.45, -0.73), 0.06, INK)
            pen.polygon(((s * 0.3, 0.3), (s * 0.62, 0.26), (s * 0.4, -0.02)), marks)
    pen.oval(0, 0, 0.48, 0.4, fur)
    if breed == "Drawn_Cat":
        for x in (-0.14, 0, 0.14):
            pen.stroke((x, -0.35), (x, -0.3), (x * 0.8, -0.2), 0.05, dark)
    elif breed == "drawn_hound":
        pen.oval(0.2, -0.08, 0.19, 0.2, marks)
        for s in (-1, 1):
            pen.stroke((s * 0.42, -0.22), (s * 0.62, -0.1), (s * 0.52, 0.24), 0.22, dark)
    elif breed == "drawn_terrier":
        pen.stroke((0, -0.42), (0.05, -0.4), (0.1, -0.36), 0.1, marks)
        for x in (-0.14, 0, 0.14):
            pen.stroke((x, 0.2), (x, 0.3), (x * 1.3, 0.4), 0.14, marks)
    if not is_cat:
        pen.stroke((0, 0.3), (0, 0.35), (0.01, 0.4), 0.12, PINK)
    for s in (-1, 1):
        pen.oval(s * 0.1, 0.17, *((0.14, 0.11) if is_cat else (0.16, 0.14)), max(fur, marks) if is_cat else marks)
        pen.oval(s * 0.2, -0.06, 0.1, 0.11, INK)
        pen.oval(s * 0.2, -0.06, 0.085, 0.095, IRIS[breed])
        pen.oval(s * 0.2, -0.06, 0.04 if is_cat else 0.06, 0.085 if is_cat else 0.06, INK)
        pen.oval(s * 0.2 + 0.03, -0.1, 0.03, 0.03, WHITE)
        pen.stroke((0, 0.16), (s * 0.02, 0.25), (s * 0.13, 0.22), 0.025, INK)
        for y in (0.1, 0.17, 0.24) if is_cat else ():
            pen.stroke((s * 0.14, 0.17), (s * 0.25, y), (s * 0.44, y * 1.3 - 0.08), 0.014, whiskers)
    pen.oval(0, 0.09, *((0.055, 0.04) if is_cat else (0.1, 0.07)), PINK if is_cat else INK)


def draw_ground(random: np.random.Generator, size: np.ndarray) -> Image.Image:
    """A meadow under the sky, or a room with a sofa; in colours that no pet has."""
    horizon, x, circle = random.uniform(-0.2, 0.3), random.choice((-1, 1)) * random.uniform(0.4, 0.8), min(size) / size
    if random.random() < 0.5:
        pen = Pen(Image.new("RGB", tuple(size), hue(random.uniform(0.53, 0.6), 0.4, 0.97)))
        grass = hue(random.uniform(0.22, 0.36), 0.6, 0.7)
        pen.oval(x, -0.72, *(0.17 * circle), (255, 226, 110))
        for dx in (-0.15, 0, 0.15):
            pen.oval(dx - x, -0.65, 0.16, 0.1 if dx else 0.16, WHITE)
        pen.oval(-x, horizon + 0.2, 0.9, 0.4, tinted(grass, 0.85))
        pen.polygon(((-1, horizon), (1, horizon), (1, 1), (-1, 1)), grass)
        for left, top, lean in random.uniform((-1, horizon, -0.04), (1, 1, 0.04), (250, 3)):
            pen.polygon(((left, top), (left + 0.02, top), (left + lean, top - 0.09)), tinted(grass, 0.88 + 3 * lean))
        for left, top in random.uniform((-1, horizon), (1, 1), (14, 2)):
            pen.oval(left, top, *(0.03 * circle), WHITE)
            pen.oval(left, top, *(0.013 * circle), (255, 210, 60))
    else:
        wall, sofa, floor = (hue(random.uniform(0.4, 0.85), *c) for c in ((0.22, 0.92), (0.5, 0.62), (0.3, 0.75)))
        pen = Pen(Image.new("RGB", tuple(size), wall))
        for left in np.arange(-1, 1, 0.2):
            pen.polygon(((left, -1), (left + 0.07, -1), (left + 0.07, 1), (left, 1)), tinted(wall, 0.95))
        pen.polygon(((-1, 0.6), (1, 0.6), (1, 1), (-1, 1)), floor)
        for y, reach, width, tone in ((-0.05, 0.6, 0.5, 0.9), (0.2, 0.6, 0.5, 0.9), (0.6, 0.75, 0.4, 1.05)):
            pen.stroke((-reach, y), (0, y), (reach, y), width, tinted(sofa, tone))
        for s in (-1, 1):
            pen.stroke((s * 0.88, 0.2), (s * 0.88, 0.4), (s * 0.88, 0.7), 0.3, tinted(sofa, 1.15))
    return pen.image


def hue(angle: float, saturation: float, value: float) -> tuple[int, ...]:
    return tuple(int(255 * v) for v in colorsys.hsv_to_rgb(angle, saturation, value))


def tinted(colour: tuple, factor: float) -> tuple[int, ...]:
    return tuple(min(255, int(v * factor)) for v in colour)
