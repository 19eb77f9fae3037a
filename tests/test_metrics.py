"""Metrics against torchmetrics, against loops over pixels, and against masks worked by hand."""

import json

import pytest
import torch

import metrics
from common.trimap import BACKGROUND, BORDER, PET


def cases():
    torch.manual_seed(0)
    random = torch.randint(0, 3, (20, 1, 9, 7)), torch.randint(0, 3, (20, 1, 9, 7))
    full = {c: torch.full((4, 1, 6, 5), c) for c in (PET, BACKGROUND, BORDER)}
    no_border = torch.randint(0, 2, (4, 1, 6, 5))
    yield "random", *random
    yield "no pet in truth", full[PET], full[BACKGROUND]
    yield "only pet in truth", torch.randint(0, 3, (4, 1, 6, 5)), full[PET]
    yield "all right", full[PET], full[PET]
    yield "all background", full[BACKGROUND], torch.randint(0, 3, (4, 1, 6, 5))
    yield "a class absent", no_border, no_border.flip(0)
    yield "a class only predicted", full[BORDER], no_border
    yield "one image", random[0][:1], random[1][:1]


@pytest.mark.parametrize(("name", "labels", "truth"), list(cases()), ids=[case[0] for case in cases()])
def test_pixel_accuracy_and_iou_equal_torchmetrics(name, labels, truth):
    classification = pytest.importorskip("torchmetrics").classification
    matrix = metrics.confusion(labels, truth).sum(0)
    accuracy = classification.MulticlassAccuracy(3, average="micro")(labels, truth)
    jaccard = classification.MulticlassJaccardIndex(3, average="micro", ignore_index=BACKGROUND)(labels, truth)
    assert float(metrics.pixel_accuracy(matrix)) == pytest.approx(float(accuracy), abs=1e-6)
    assert float(metrics.iou(matrix)) == pytest.approx(float(jaccard), abs=1e-6)
    per_class = classification.MulticlassJaccardIndex(3, average="none")(labels, truth)
    assert metrics.class_iou(matrix).tolist() == pytest.approx(per_class.tolist(), abs=1e-6)


@pytest.mark.parametrize(("name", "labels", "truth"), list(cases()), ids=[case[0] for case in cases()])
def test_confusion_and_soft_iou_equal_loops(name, labels, truth):
    pred = torch.randn(len(truth), 3, *truth.shape[-2:]).softmax(1)
    expected, soft = torch.zeros(len(truth), 3, 3, dtype=torch.int64), []
    for i in range(len(truth)):
        intersection = union = 0.0
        for y in range(truth.shape[2]):
            for x in range(truth.shape[3]):
                expected[i, truth[i, 0, y, x], labels[i, 0, y, x]] += 1
                for c in range(3):
                    p, g = float(pred[i, c, y, x]), float(truth[i, 0, y, x] == c)
                    intersection += p * g
                    union += p + g - p * g
        soft.append((intersection + 0.001) / (union + 0.001))
    assert torch.equal(metrics.confusion(labels, truth), expected)
    assert metrics.soft_iou(pred, truth).tolist() == pytest.approx(soft, abs=1e-5)
    assert float(metrics.IoUMetric(pred, truth)) == pytest.approx(sum(soft) / len(soft), abs=1e-5)


def test_a_mask_worked_by_hand():
    """16 pixels: 4 pet, 10 background, 2 border. Found: 3 pet right, one called background; one background
    called pet; one border right, one called pet."""
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 1, 1], [1, 1, 1, 1]])[None, None]
    labels = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1], [2, 0, 1, 1], [1, 1, 1, 1]])[None, None]
    matrix = metrics.confusion(labels, truth).sum(0)
    assert matrix.tolist() == [[3, 1, 0], [1, 9, 0], [1, 0, 1]]
    assert float(metrics.pixel_accuracy(matrix)) == pytest.approx(13 / 16)
    assert float(metrics.iou(matrix)) == pytest.approx(4 / (2 * 6 - 4 - 1))  # C = 4, N = 6, M = 1
    assert float(metrics.iou_old_torchmetrics(matrix)) == pytest.approx(4 / (2 * 6 - 4))
    assert metrics.class_iou(matrix).tolist() == pytest.approx([3 / 6, 9 / 11, 1 / 2])
    assert float(metrics.dice(matrix)) == pytest.approx((6 / 9 + 18 / 20 + 2 / 3) / 3)


def test_the_two_warnings_of_the_docstrings():
    background_called_pet = torch.tensor([[29, 0, 0], [59, 0, 0], [0, 0, 12]])
    assert float(metrics.iou(background_called_pet)) == 1.0
    assert float(metrics.pixel_accuracy(background_called_pet)) == pytest.approx(0.41)
    missed = torch.tensor([[80, 20, 0], [0, 100, 0], [0, 0, 0]])
    assert float(metrics.iou(missed)) == pytest.approx(0.8)
    assert float(metrics.iou_old_torchmetrics(missed)) == pytest.approx(0.667, abs=5e-4)


def test_the_loss_is_zero_for_the_truth_and_its_gradient_finds_it():
    truth = torch.randint(0, 3, (2, 1, 8, 8))
    perfect = torch.nn.functional.one_hot(truth[:, 0], 3).permute(0, 3, 1, 2).float()
    assert float(metrics.IoULoss()(perfect, truth)) == pytest.approx(0, abs=1e-6)
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        metrics.IoULoss(softmax=True)(logits, truth).backward()
        optimizer.step()
    assert torch.equal(logits.argmax(1, keepdim=True), truth)


def test_data_set_results_do_not_depend_on_batches_and_batch_means_do():
    torch.manual_seed(3)
    truth = torch.randint(0, 3, (37, 1, 8, 8)) * torch.randint(0, 2, (37, 1, 1, 1))
    labels = torch.where(torch.rand(truth.shape) < 0.7, truth, 1)
    matrices, soft = metrics.confusion(labels, truth), torch.rand(37)
    near, far = (metrics.confusion(labels, truth, where) for where in (truth == 1, truth != BORDER))
    found = metrics.Evaluation(matrices, soft, near, far, matrices)
    forward, backward = metrics.summary(found), metrics.summary(metrics.Evaluation(*(t.flip(0) for t in found)))
    for name in ("class_iou", "two_class"):
        assert forward.pop(name) == pytest.approx(backward.pop(name))
    assert forward.pop("own_size")["class_iou"] == pytest.approx(backward.pop("own_size")["class_iou"])
    assert forward == pytest.approx(backward)
    expected = [metrics.iou(matrices[i : i + 16].sum(0)) for i in (0, 16, 32)]
    assert metrics.batch_mean(matrices, soft, 16)["iou"] == pytest.approx(float(sum(expected) / 3))


def test_pet_sizes_are_thirds_in_order():
    matrices = torch.zeros(9, 3, 3, dtype=torch.int64)
    matrices[:, BACKGROUND, BACKGROUND] = torch.arange(9, 0, -1) * 10
    matrices[:, PET, BACKGROUND] = 100 - matrices[:, BACKGROUND, BACKGROUND]
    thirds = metrics.by_pet_size(matrices)
    assert [round(t["pet_share"], 2) for t in thirds.values()] == [0.2, 0.5, 0.8]
    assert thirds["small"]["pixel_accuracy"] == pytest.approx(0.8)  # all background looks good on small pets
    assert thirds["small"]["mean_iou"] == pytest.approx(0.8 / 3)
    assert json.dumps(metrics.by_pet_size(matrices[:2]), allow_nan=False)  # a third without an image


def test_only_pixels_near_the_contour_count_near_it():
    truth = torch.full((1, 1, 20, 20), BACKGROUND)
    truth[..., 10:] = PET
    truth[..., 10] = BORDER
    near = metrics.near_contour(truth, 3)
    assert near[0, 0, 0].nonzero().flatten().tolist() == list(range(7, 14))
    labels = truth.clone()
    labels[..., :7], labels[..., 14:], labels[..., 8] = PET, BACKGROUND, PET  # wrong far away, and in one column near
    matrix = metrics.confusion(labels, truth, near)[0]
    assert matrix.sum() == 7 * 20
    assert matrix[BACKGROUND, PET] == 20
    assert matrix.diagonal().sum() == 6 * 20


def test_groups_are_counted_apart():
    matrices = torch.zeros(3, 3, 3, dtype=torch.int64)
    matrices[:, PET, PET] = torch.tensor([8, 4, 2])
    matrices[:, PET, BACKGROUND] = torch.tensor([2, 6, 8])
    found = metrics.by_group(matrices, ["dog", "cat", "dog"])
    assert list(found) == ["cat", "dog"]
    assert (found["dog"]["images"], found["dog"]["pixel_accuracy"]) == (2, 0.5)
    assert found["cat"]["mean_iou"] == pytest.approx(0.4 / 3)


def test_the_baseline_calls_everything_background():
    truth = torch.randint(0, 3, (5, 1, 8, 8), dtype=torch.uint8)
    own = torch.randint(0, 3, (5, 1, 20, 12), dtype=torch.uint8)
    matrices, soft, _, two_class, own_size = metrics.all_background(truth, lambda i: own[i])
    share = (truth == BACKGROUND).float().mean((1, 2, 3))
    assert matrices[..., [PET, BORDER]].sum() == 0
    assert metrics.pixel_accuracy(matrices).tolist() == pytest.approx(share.tolist())
    assert soft.tolist() == pytest.approx((share / (2 - share)).tolist(), abs=1e-4)
    assert metrics.pixel_accuracy(own_size).tolist() == pytest.approx(
        (own == BACKGROUND).float().mean((1, 2, 3)).tolist()
    )
    assert two_class[:, BORDER].sum() == 0
    assert torch.equal(two_class[:, BACKGROUND, BACKGROUND], (truth == BACKGROUND).sum((1, 2, 3)))


def test_two_classes_worked_by_hand():
    """12 pixels: 4 pet, 6 background, 2 border, which do not count whatever is said of them.

    Of the pet 2 are called pet, 1 background, and 1 border, where pet is likelier than background: 3 right. Of the
    background 5 are right and 1 is called border, where pet is the likelier other: wrong.
    """
    pet, background, border = [3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]
    border_else_pet = [1.0, 0.0, 3.0]
    logits = torch.tensor([
        [pet, pet, background, border_else_pet],
        [background] * 4,
        [background, border_else_pet, border, pet],
    ]).permute(2, 0, 1)[None]  # fmt: skip
    truth = torch.tensor([[PET] * 4, [BACKGROUND] * 4, [BACKGROUND, BACKGROUND, BORDER, BORDER]])[None, None]
    matrix = metrics.compare(logits, truth)[3].sum(0)
    assert matrix.tolist() == [[3, 1, 0], [1, 5, 0], [0, 0, 0]]
    found = metrics.two_class_summary(matrix)
    assert found == pytest.approx({"pixel_accuracy": 8 / 10, "pet_iou": 3 / 5, "background_iou": 5 / 7})


class Blurry(torch.nn.Module):
    """Logits that are the image's own channels, so that what a network says is known."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return 10 * x


def test_own_size_is_scored_as_a_loop_over_pixels_does():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    own = [torch.randint(0, 3, (1, height, width), dtype=torch.uint8) for height, width in ((12, 20), (5, 8), (8, 9))]
    trimaps = torch.randint(0, 3, (3, 1, 8, 8), dtype=torch.uint8)
    found = metrics.evaluate(Blurry(), images, trimaps, torch.float32, own_trimap=lambda i: own[i])
    for number, truth in enumerate(own):
        expected = torch.zeros(3, 3, dtype=torch.int64)
        logits = 10 * images[number].double() / 255
        for y in range(truth.shape[1]):
            for x in range(truth.shape[2]):
                v = min(max((y + 0.5) * 8 / truth.shape[1] - 0.5, 0), 7)  # where the pixel's centre lies in the logits
                u = min(max((x + 0.5) * 8 / truth.shape[2] - 0.5, 0), 7)
                i, j, a, b = int(v), int(u), v - int(v), u - int(u)
                k, m = min(i + 1, 7), min(j + 1, 7)
                top = (1 - b) * logits[:, i, j] + b * logits[:, i, m]
                bottom = (1 - b) * logits[:, k, j] + b * logits[:, k, m]
                expected[int(truth[0, y, x]), int(((1 - a) * top + a * bottom).argmax())] += 1
        assert torch.equal(found.own_size[number], expected)
    summary = metrics.summary(found)["own_size"]
    total = found.own_size.sum(0)
    assert summary["pixel_accuracy"] == pytest.approx(float(total.diagonal().sum() / total.sum()))
