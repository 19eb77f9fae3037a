"""Labels at another size: a pixel gets the class that covers most of it.

Images are resized centre-aligned and antialiased, so their labels must lie where their pixels do. Nearest-neighbour
resizing takes one point per pixel, and torchvision's takes it up and left of the pixel's centre: a shift of up to half
a pixel, which a flip turns round.
"""

import functools

import torch
from torch import Tensor

TIE_ORDER = (2, 0, 1)  # border, pet, background: which class counts where nothing else decides


def resize_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """Labels (1, H, W), uint8 classes from 0 -> (1, height, width): the class of the largest area in each new pixel.

    Where two areas are equal, which is common at half the size, the class that covers more of the pixel and half a
    pixel around it; a fixed order would make the thin border 3 % wider or narrower. Areas are whole numbers and so
    exact: the labels of a flipped image are the flipped labels, at every size.
    """
    if labels.shape[-2:] == (height, width):
        return labels
    one_hot = torch.stack([labels[0] == c for c in TIE_ORDER], 1).double()  # (H, 3, W)
    areas, wider = (covered(one_hot, height, width, margin) for margin in (0, 1))
    largest = torch.maximum(torch.maximum(areas[0], areas[1]), areas[2])
    first, second, third = wider.masked_fill_(areas < largest, -1)
    later = torch.where(second >= third, TIE_ORDER[1], TIE_ORDER[2])  # argmax is slow over a dimension of three
    return torch.where(first >= torch.maximum(second, third), TIE_ORDER[0], later).to(labels.dtype)[None]


def covered(one_hot: Tensor, height: int, width: int, margin: int) -> Tensor:
    """How much of each new pixel each class covers: (H, 3, W), of 0 and 1 -> (3, height, width), in `overlaps`' units.

    margin: as there.
    """
    rows, _, columns = one_hot.shape
    bands = overlaps(rows, height, margin) @ one_hot.flatten(1)  # (height, 3 * W)
    by_column = bands.view(height * 3, columns).T.contiguous()
    cells = overlaps(columns, width, margin) @ by_column  # (width, height * 3)
    return cells.view(width, height, 3).permute(2, 1, 0).contiguous()


@functools.lru_cache(maxsize=512)
def overlaps(old: int, new: int, margin: int) -> Tensor:
    """How much of each of `old` pixels along a side each of `new` pixels covers: (new, old), float64, sparse.

    Nearly all are 0: to multiply the others alone takes a third of the time.
    margin: each new pixel is widened by margin / 2 of its side at both ends. Lengths are in units of which an old pixel
    has 2 * new and a new one 2 * old, so all are whole numbers.
    """
    first, second = torch.arange(new)[:, None], torch.arange(old)[None]
    start = torch.maximum((2 * first - margin) * old, 2 * second * new)
    end = torch.minimum((2 * first + 2 + margin) * old, (2 * second + 2) * new)
    return (end - start).clamp(min=0).double().to_sparse()
