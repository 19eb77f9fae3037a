"""From an image of any size to the probabilities of its pixels, the tinted overlay, and the pet cut out."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from common.files import write_atomically
from common.inference import logits_of
from common.trimap import BACKGROUND, BORDER, COLOURS

TINT = 0.5  # of the class's colour in an overlay
SOFT = 0.8  # width of a cut-out's soft edge, as a share of pet and background; near 0 it is cut with scissors
JPEG_QUALITY = 90  # of 100
PNG_EFFORT = 1  # of 9: larger files, ten times sooner


def probabilities_of(
    network: nn.Module, pixels: Tensor, size: int, precision: torch.dtype, mirror: bool, tiles: int = 0
) -> Tensor:
    """Probabilities of the classes, (3, H, W), of an image (3, H, W), uint8.

    It is squeezed to a square of size x size px; logits are brought back to its size. mirror: the mean over the image
    and its mirror image. tiles: so many a side, each squeezed to the square too, join in where they lie.
    """
    tiles_there = tiles_of(*pixels.shape[-2:], tiles)
    views = [pixels, *(pixels[:, rows, columns] for rows, columns in tiles_there)]
    squares = torch.cat([squeezed(view, size) for view in views])
    logits = torch.cat(list(logits_of(network, squares, precision, mirror))).cpu()
    probabilities, votes = enlarged(logits[0], pixels), torch.ones(pixels.shape[-2:])
    for (rows, columns), view, found in zip(tiles_there, views[1:], logits[1:]):
        vote = hat(view.shape[-2])[:, None] * hat(view.shape[-1])
        probabilities[:, rows, columns] += vote * enlarged(found, view)
        votes[rows, columns] += vote
    return probabilities.div_(votes)


def squeezed(view: Tensor, size: int) -> Tensor:
    """An image (3, h, w), uint8, as a network sees it, (1, 3, size, size), uint8."""
    return F.interpolate(view[None], (size, size), mode="bilinear", antialias=True)


def enlarged(logits: Tensor, view: Tensor) -> Tensor:
    """Probabilities (3, h, w) at the size of a view (3, h, w), from logits (3, H, W)."""
    return F.interpolate(logits[None], view.shape[-2:], mode="bilinear")[0].softmax(0)


def tiles_of(height: int, width: int, n: int) -> list[tuple[slice, slice]]:
    """Rows and columns of n x n tiles, each overlapping the next by half; their sides differ by a pixel at most."""

    def along(side: int) -> list[slice]:
        starts = [i * side // (n + 1) for i in range(n)]
        return [slice(start, max(start + 1, (i + 2) * side // (n + 1))) for i, start in enumerate(starts)]

    return [(rows, columns) for rows in along(height) for columns in along(width)]


def hat(n: int) -> Tensor:
    """Weights (n,) that rise from 0 to 1 in the middle and fall again: those of tiles that overlap by half add to 1."""
    return 1 - (2 * (torch.arange(n) + 0.5) / n - 1).abs()


def labels_of(probabilities: Tensor) -> Tensor:
    """The most probable classes, (1, H, W), of probabilities (3, H, W)."""
    pet, background, border = probabilities
    # The same as argmax(0), which is slow over a first dimension of three.
    is_border = border > torch.maximum(pet, background)
    return torch.where(is_border, BORDER, (background > pet).long())[None]


def cut_out(pixels: Tensor, probabilities: Tensor, soft: float = SOFT) -> Tensor:
    """The image (3, H, W), uint8, with a fourth channel: how opaque it is, 255 in the pet and 0 outside.

    It is cut where pet is as probable as background, through the middle of the border. soft: from 0 to 1; at 0.8 the
    ground is clear where pet has less than a tenth of the two, and the pet whole above nine tenths. What is wholly
    clear is black, so that the picture carries no more of the room than its soft edge.
    """
    pet, background, _ = probabilities
    least = 1e-6  # of each, where both are improbable
    share = (pet + least) / (pet + background + 2 * least)
    opaque = share.sub_(0.5).div_(max(soft, 0.01)).add_(0.5).clamp_(0, 1)
    alpha = (255 * opaque).round().byte()[None]
    return torch.cat((pixels * (alpha > 0), alpha))


def thumbnail(cut: Tensor, longest: int) -> Tensor:
    """A cut-out (4, H, W), uint8, scaled to so many px on its longer side; what is clear lends its edges no colour."""
    size = [max(1, round(side * longest / max(cut.shape[-2:]))) for side in cut.shape[-2:]]
    alpha = cut[3:].float()
    small = F.interpolate(torch.cat((cut[:3] * (alpha / 255), alpha))[None], size, mode="bilinear", antialias=True)[0]
    colours = 255 * small[:3] / small[3:].clamp(min=1)
    return torch.cat((colours, small[3:])).round().clamp(0, 255).byte()


def overlay(pixels: Tensor, labels: Tensor) -> Tensor:
    """The image (3, H, W), uint8, tinted by class: pet and border in their colours, background as it is."""
    seen, levels = to_pil_image(pixels), torch.arange(256.0)
    tinted = seen.copy()
    for c, colour in enumerate(COLOURS):
        if c != BACKGROUND:  # Pillow looks levels up in a tenth of the time that arithmetic on each pixel takes
            shades = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)])[:, None]
            table = (levels + TINT * (shades - levels)).round().int().flatten().tolist()
            tinted.paste(seen.point(table), mask=to_pil_image((labels == c).byte() * 255))
    return pil_to_tensor(tinted)


def write(pixels: Tensor, probabilities: Tensor, target: Path, soft: float = SOFT) -> tuple[Tensor, Tensor]:
    """Writes target_overlay.jpg and target_cutout.png of an image (3, H, W), uint8, with probabilities (3, H, W).

    Returns the most probable classes, (1, H, W), and the cut-out, (4, H, W), uint8. Raises UserError if there is no
    room. soft: see `cut_out`.
    """
    labels, cut = labels_of(probabilities), cut_out(pixels, probabilities, soft)
    save(overlay(pixels, labels), target.with_name(f"{target.name}_overlay.jpg"))
    save(cut, target.with_name(f"{target.name}_cutout.png"))
    return labels, cut


def save(pixels: Tensor, path: Path) -> None:
    """Writes pixels (1, 3 or 4 channels, H, W), uint8, as .jpg or .png."""
    picture = to_pil_image(pixels, mode="RGBA" if len(pixels) == 4 else None)
    options = {"quality": JPEG_QUALITY} if path.suffix == ".jpg" else {"compress_level": PNG_EFFORT}
    write_atomically(path, lambda part: picture.save(part, **options))
