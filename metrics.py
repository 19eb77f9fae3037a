"""Pixel accuracy, IoU in its variants and Dice, all from confusion matrices; the soft IoU; the losses; evaluation.

Pixel accuracy flatters: on an image whose pet fills a tenth, "all background" is right almost nine times out of
ten. IoU (intersection over union of the predicted and the true region of a class) counts only what was found.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import distributed
from common.inference import batch_size_of, logits_of
from common.trimap import BACKGROUND, BORDER, CLASSES, PET

CONTOUR = 3  # px at 128 px a side; how near is "near the contour"
SMOOTH = 0.001  # keeps -log of the soft IoU finite where nothing is found; its value in the original


def IoUMetric(pred: Tensor, gt: Tensor, softmax: bool = False) -> Tensor:
    """The original's "custom" IoU: differentiable, from probabilities, the mean over images.

    pred: (B, 3, H, W), probabilities, or logits with softmax=True; gt: (B, 1, H, W), classes 0, 1 and 2.
    Returns a scalar in (0, 1]. Sums over classes and pixels of an image: (I + 0.001) / (U + 0.001) with
    I = sum(p * onehot) and U = sum(p + onehot - p * onehot).
    """
    return soft_iou(pred, gt, softmax).mean()


def soft_iou(pred: Tensor, gt: Tensor, softmax: bool = False) -> Tensor:
    """IoUMetric of each image: (B,)"""
    probabilities = pred.softmax(1) if softmax else pred
    intersection = probabilities.gather(1, gt.long()).sum((1, 2, 3))
    union = probabilities.sum((1, 2, 3)) + gt[0].numel() - intersection  # a one-hot map sums to its pixels
    return (intersection + SMOOTH) / (union + SMOOTH)


class IoULoss(nn.Module):
    """-log of IoUMetric: 0 for a perfect prediction, and steep where little is found.

    Where several ranks train on parts of a batch, it is the whole batch's.
    """

    def __init__(self, softmax: bool = False) -> None:
        super().__init__()
        self.softmax = softmax

    def forward(self, pred: Tensor, gt: Tensor) -> Tensor:
        return -distributed.mean(IoUMetric(pred, gt, self.softmax)).log()


def cross_entropy(logits: Tensor, trimaps: Tensor) -> Tensor:
    return F.cross_entropy(logits, trimaps[:, 0])


def dice_loss(logits: Tensor, trimaps: Tensor) -> Tensor:
    """1 - the mean over classes of 2I / (truth + prediction), in probabilities, over the batch at once.

    After Milletari et al. 2016 (https://arxiv.org/abs/1606.04797), without their squares. Each class counts alike, the
    narrow border too, where IoULoss counts each pixel. Where several ranks train, the batch is that of all.
    """
    truth = F.one_hot(trimaps[:, 0], len(CLASSES)).permute(0, 3, 1, 2)
    probabilities = logits.softmax(1)
    sums = (found.sum((0, 2, 3)) for found in (probabilities * truth, probabilities + truth))
    both, all_of = (distributed.mean(of_classes) for of_classes in sums)
    return 1 - ((2 * both + SMOOTH) / (all_of + SMOOTH)).mean()


LOSSES = {"ce": cross_entropy, "iou": IoULoss(softmax=True), "dice": dice_loss}


def segmentation_loss(kind: str, logits: Tensor, trimaps: Tensor, losses: dict[str, Callable] = LOSSES) -> Tensor:
    """One of `losses` or the sum of several, such as "ce+iou"; logits (B, 3, H, W), trimaps (B, 1, H, W)."""
    first, *others = (losses[name](logits, trimaps) for name in kind.split("+"))
    return sum(others, first)


def near_contour(trimaps: Tensor, radius: int) -> Tensor:
    """Pixels at most `radius` px, in rows and columns, from the border class: (B, 1, H, W), bool.

    The "trimap" evaluation of Kohli, Ladicky and Torr 2009 (https://doi.org/10.1007/s11263-008-0202-0): pixels far from
    the border are easy and most of an image, so that its scores hide the errors here.
    """
    return F.max_pool2d((trimaps == BORDER).float(), 2 * radius + 1, stride=1, padding=radius) > 0


def contour_of(trimaps: Tensor) -> Tensor:
    """near_contour at CONTOUR px of 128."""
    return near_contour(trimaps, max(1, round(CONTOUR * trimaps.shape[-1] / 128)))


def confusion(labels: Tensor, trimaps: Tensor, where: Tensor | None = None) -> Tensor:
    """Confusion matrix of each image, on its device: (B, 3, 3), int64, [truth, prediction], in pixels.

    labels, trimaps: (B, 1, H, W), integer classes 0, 1 and 2; where: (B, 1, H, W), bool, the pixels that count.
    """
    n, classes = len(labels), len(CLASSES)
    cells = trimaps.long() * classes + labels.long()
    cells = cells.flatten(1) + classes * classes * torch.arange(n, device=labels.device)[:, None]
    cells = cells.flatten() if where is None else cells[where.flatten(1)]
    return torch.bincount(cells, minlength=n * classes * classes).view(n, classes, classes)


def pixel_accuracy(matrix: Tensor) -> Tensor:
    """Share of pixels called what they are; matrix (..., 3, 3) -> (...). torchmetrics: MulticlassAccuracy, micro."""
    matrix = matrix.double()
    return ratio(matrix.diagonal(dim1=-2, dim2=-1).sum(-1), matrix.sum((-2, -1)))


def iou(matrix: Tensor) -> Tensor:
    """IoU as torchmetrics 1.9.0 computes it for the original: micro-averaged, pixels of true background ignored.

    matrix (..., 3, 3) -> (...). torchmetrics: MulticlassJaccardIndex(3, average="micro", ignore_index=BACKGROUND). Of N
    pixels that are not background, C called right and M called background it is C / (2N - C - M). Two warnings. It
    never looks at pixels of true background: of an image that is 59 % background, 29 % pet and 12 % border, a
    prediction that calls every pixel of background "pet" and all else right still gets 1.0 (pixel accuracy 0.41). And
    its formula depends on the version of torchmetrics: see `iou_old_torchmetrics`.
    """
    right, wanted, missed = foreground(matrix)
    return ratio(right, 2 * wanted - right - missed)


def iou_old_torchmetrics(matrix: Tensor) -> Tensor:
    """The same in older torchmetrics, as in the original's published results: C / (2N - C); (..., 3, 3) -> (...).

    With N = 100, C = 80 and M = 20 it is 0.667 where 1.9.0 says 0.8: neither compares with the other.
    """
    right, wanted, _ = foreground(matrix)
    return ratio(right, 2 * wanted - right)


def foreground(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the pixels that are not background in truth: those called right, all, those called background; (...) each."""
    matrix = matrix.double()
    rows = matrix[..., [PET, BORDER], :]
    right = matrix[..., PET, PET] + matrix[..., BORDER, BORDER]
    return right, rows.sum((-2, -1)), rows[..., BACKGROUND].sum(-1)


def class_iou(matrix: Tensor) -> Tensor:
    """IoU of each class, (..., 3, 3) -> (..., 3); 0 for a class in neither truth nor prediction."""
    matrix = matrix.double()
    right = matrix.diagonal(dim1=-2, dim2=-1)
    return ratio(right, matrix.sum(-1) + matrix.sum(-2) - right)


def mean_iou(matrix: Tensor) -> Tensor:
    """Mean over classes of class_iou, (..., 3, 3) -> (...)."""
    return class_iou(matrix).mean(-1)


def dice(matrix: Tensor) -> Tensor:
    """Mean over classes of 2I / (truth + prediction), (..., 3, 3) -> (...)."""
    matrix = matrix.double()
    return ratio(2 * matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-1) + matrix.sum(-2)).mean(-1)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where there is nothing, as in torchmetrics."""
    return torch.where(whole > 0, part / whole.clamp(min=1), 0.0)


FROM_MATRIX = {f.__name__: f for f in (pixel_accuracy, mean_iou, iou, iou_old_torchmetrics, dice)}


class Evaluation(NamedTuple):
    """What all results are computed from, image by image."""

    matrices: Tensor  # (N, 3, 3), int64: confusion matrices
    soft: Tensor  # (N,): IoUMetric
    contour: Tensor  # (N, 3, 3), int64: confusion matrices of the pixels near the contour alone
    two_class: Tensor  # (N, 3, 3), int64: of all pixels but the true border, each called pet or background
    own_size: Tensor | None = None  # (N, 3, 3), int64: of all pixels at each image's own size, by the trimap's file


def summary(found: Evaluation) -> dict[str, object]:
    """Scores of the summed matrices, and custom_iou as the mean over images; none depends on the batch size."""
    total = found.matrices.sum(0)
    results: dict[str, object] = {name: float(f(total)) for name, f in FROM_MATRIX.items()}
    results["custom_iou"] = float(found.soft.double().mean())
    results["class_iou"] = class_iou(total).tolist()
    results["contour_mean_iou"] = float(mean_iou(found.contour.sum(0)))
    results["two_class"] = two_class_summary(found.two_class.sum(0))
    if found.own_size is not None:
        results["own_size"] = own_size_summary(found.own_size.sum(0))
    return results


def scores(matrix: Tensor) -> dict[str, float]:
    return {"pixel_accuracy": float(pixel_accuracy(matrix)), "mean_iou": float(mean_iou(matrix))}


def two_class_summary(matrix: Tensor) -> dict[str, float]:
    """Pet against background. The data set's own README calls its class 3, our border, "Not classified"."""
    of_class = class_iou(matrix)
    return {
        "pixel_accuracy": float(pixel_accuracy(matrix)),
        "pet_iou": float(of_class[PET]),
        "background_iou": float(of_class[BACKGROUND]),
    }


def own_size_summary(matrix: Tensor) -> dict[str, object]:
    return scores(matrix) | {"class_iou": class_iou(matrix).tolist()}


def batch_mean(matrices: Tensor, soft: Tensor, batch_size: int) -> dict[str, float]:
    """The original's protocol, for comparison with it alone: results of each batch, then their mean."""
    batches = torch.stack([part.sum(0) for part in matrices.split(batch_size)])
    soft = torch.stack([part.double().mean() for part in soft.split(batch_size)])
    results = {name: FROM_MATRIX[name](batches) for name in ("pixel_accuracy", "iou", "iou_old_torchmetrics")}
    return {name: float(values.mean()) for name, values in (results | {"custom_iou": soft}).items()}


def by_pet_size(matrices: Tensor) -> dict[str, dict[str, float]]:
    """Pixel accuracy and mean IoU for the third of images with the smallest pets, the middle and the largest.

    A pet's size is the share of pixels that are pet in truth. Of fewer than three images a third is empty, all 0.
    """
    order = matrices[:, PET].sum(-1).double().div(matrices.sum((-2, -1))).argsort(stable=True)
    thirds = {}
    for name, members in zip(("small", "middle", "large"), order.tensor_split(3)):
        total = matrices[members].sum(0)
        thirds[name] = {"pet_share": float(ratio(total[PET].sum(), total.sum()))} | scores(total)
    return thirds


def by_group(matrices: Tensor, groups: list[str]) -> dict[str, dict[str, float]]:
    """Results of each group of images, by its name in alphabetical order; groups: one name per image."""
    found = {}
    for name in sorted(set(groups)):
        members = torch.tensor([i for i, group in enumerate(groups) if group == name])
        found[name] = {"images": len(members)} | scores(matrices[members].sum(0))
    return found


def evaluate(
    network: nn.Module,
    images: Tensor,
    trimaps: Tensor,
    precision: torch.dtype,
    mirror: bool = False,
    own_trimap: Callable[[int], Tensor] | None = None,
) -> Evaluation:
    """What the results of a network are computed from; all ranks get it, and each computes its share.

    images: (N, 3, H, W), uint8; trimaps: (N, 1, H, W), integer; own_trimap: the trimap (1, h, w) of image number i at
    its own size, to which its logits are then brought bilinearly.
    """
    parts, own = [], []
    start, end = distributed.share_of_batches(len(images), batch_size_of(images))
    for logits in logits_of(network, images[start:end], precision, mirror):
        truth = trimaps[start : start + len(logits)].to(logits.device)
        parts.append(compare(logits, truth))
        if own_trimap:
            own += [compare_at_own_size(one, own_trimap(start + i)) for i, one in enumerate(logits)]
        start += len(logits)
    parts, own = distributed.gather([[tensor.cpu() for tensor in part] for part in parts]), distributed.gather(own)
    return Evaluation(*(torch.cat(tensors) for tensors in zip(*parts)), torch.stack(own) if own else None)


def compare(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first four fields of an Evaluation, from logits (B, 3, H, W) and trimaps (B, 1, H, W)."""
    labels = logits.argmax(1, keepdim=True)
    pet_or_background = torch.where(logits[:, None, BACKGROUND] > logits[:, None, PET], BACKGROUND, PET)
    return (
        confusion(labels, truth),
        soft_iou(logits, truth, softmax=True),
        confusion(labels, truth, contour_of(truth)),
        confusion(pet_or_background, truth, truth != BORDER),
    )


def compare_at_own_size(logits: Tensor, truth: Tensor) -> Tensor:
    """Confusion matrix (3, 3) of logits (3, H, W) at the size of a trimap (1, h, w)."""
    enlarged = F.interpolate(logits[None], truth.shape[-2:], mode="bilinear")
    return confusion(enlarged.argmax(1, keepdim=True), truth[None].to(logits.device))[0].cpu()


def all_background(trimaps: Tensor, own_trimap: Callable[[int], Tensor]) -> Evaluation:
    """The baseline that calls every pixel background."""
    logits = torch.full((1, len(CLASSES), *trimaps.shape[-2:]), -torch.inf)
    logits[:, BACKGROUND] = 0
    parts = [compare(logits, trimap[None]) for trimap in trimaps]
    own = (own_trimap(i) for i in range(len(trimaps)))  # one at a time: together they may be a gigabyte
    own = torch.cat([confusion(torch.full_like(trimap, BACKGROUND)[None], trimap[None]) for trimap in own])
    return Evaluation(*(torch.cat(tensors) for tensors in zip(*parts)), own)
