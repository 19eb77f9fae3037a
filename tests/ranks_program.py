"""What test_distributed.py has two ranks do: each compares with what one process would do, and says so at the end."""

import torch
from torch import nn

import fetch_oxford_iiit_pets as pets
import metrics
import pretrain
import train
from common import distributed, inference
from common.settings import UserError
from dataset import augment
from dataset.batches import all_of, batches
from segnet import NETWORKS


def in_one_process(work, *arguments):
    """What `work` gives where there are no ranks."""
    kept, distributed.ranks = distributed.ranks, lambda: 1
    try:
        return work(*arguments)
    finally:
        distributed.ranks = kept


def same(found, expected, **tolerance):
    torch.testing.assert_close(found, expected, **{"rtol": 0, "atol": 0} | tolerance)


def gathered(tensor):
    return torch.cat(distributed.gather([tensor]))


def compare_batches(split):
    """A step's images are one process's, and the generator is where it would be."""
    here, alone = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    part = all_of(split)
    steps = list(zip(batches(part, 16, here), in_one_process(lambda: list(batches(part, 16, alone)))))
    assert len(steps) == 3
    for (images, trimaps), (all_images, all_trimaps) in steps:
        assert len(images) == 8
        same(gathered(images), all_images)
        same(gathered(trimaps), all_trimaps)
    assert torch.equal(here.get_state(), alone.get_state())
    small = part._replace(rows=torch.arange(5))  # fewer than a batch, which can't be halved
    ((images, _),) = batches(small, 16, torch.Generator().manual_seed(3))
    same(images, in_one_process(lambda: next(batches(small, 16, torch.Generator().manual_seed(3))))[0])


def compare_step(loss):
    """With BatchNorm's statistics fixed, weights after a step and its loss are those of the whole batch."""
    torch.manual_seed(5)
    networks = [NETWORKS["segnet_dsc"]().to(memory_format=torch.channels_last) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    images, trimaps = torch.rand(4, 3, 32, 32), torch.randint(0, 3, (4, 1, 32, 32))
    trimaps[:2] = 1  # so that the ranks' parts differ in how well they are done
    for network in networks:
        network.eval()
    before = [parameter.clone() for parameter in networks[1].parameters()]

    def step(network, learner, *batch):
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        return distributed.mean(train.train_step(learner, optimizer, *batch, loss, torch.float32))

    found = step(networks[0], distributed.together(networks[0]), distributed.share(images), distributed.share(trimaps))
    expected = in_one_process(step, networks[1], networks[1], images, trimaps)
    same(found, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters()):
        same(ours, theirs, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(*of) for of in zip(networks[1].parameters(), before))


class PartlyUsed(nn.Module):
    """As an encoder of timm may be, e.g. HRNet's: no map that is taken needs one of its weights."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])

    def forward(self, x):
        return self.encoder[0](x)


def steps_that_leave_a_weight_alone():
    torch.manual_seed(6)
    network = PartlyUsed()
    before = [parameter.clone() for parameter in network.parameters()]
    learner, optimizer = distributed.together(network), torch.optim.AdamW(network.parameters(), 0.1, weight_decay=0.0)
    images, trimaps = torch.rand(4, 3, 8, 8), torch.randint(0, 3, (4, 1, 8, 8))
    for _ in range(3):
        train.train_step(learner, optimizer, distributed.share(images), distributed.share(trimaps), "ce", torch.float32)
    changed = [not torch.equal(*of) for of in zip(before, network.parameters())]
    assert changed == [True, True, False, False]
    for parameter in network.parameters():
        same(*distributed.gather([parameter.detach()]))


def compare_results(split):
    """The results of a test are one process's bit for bit: 24 images, five at a time, of which a rank gets 10 or 14."""
    inference.PIXELS = 5 * pets.IMAGE_SIZE**2
    torch.manual_seed(7)
    network = NETWORKS["segnet_dsc"]()
    own = [pets.trimap_at_own_size(pair) for pair in split.pairs]
    arguments = network, split.images, split.trimaps, torch.float32, True, own.__getitem__
    for found, expected in zip(metrics.evaluate(*arguments), in_one_process(metrics.evaluate, *arguments)):
        same(found, expected)
    few = network, split.images[:3], split.trimaps[:3], torch.float32  # which the first rank has no share of
    for found, expected in zip(metrics.evaluate(*few)[:4], in_one_process(metrics.evaluate, *few)[:4]):
        same(found, expected)


def compare_training():
    """Weights and statistics are equal on both ranks after every epoch; a loss that isn't finite on one stops both."""
    checked, validate = [], train.validate

    def check(network, split):
        for tensor in network.state_dict().values():
            same(*distributed.gather([tensor.clone()]))
        checked.append(1)
        return validate(network, split)

    train.validate, train.EPOCHS = check, (1, 3)
    train.main()
    assert len(checked) == 2
    step = train.train_step

    def spoilt(*arguments):
        value = step(*arguments)
        return value * float("nan") if distributed.rank() == 1 else value

    train.train_step, train.EPOCHS = spoilt, (3, 4)
    try:
        train.main()
    except UserError as error:
        assert "not finite in epoch 3, step 1" in str(error), error
    else:
        raise AssertionError("trained on")


def compare_pretraining():
    """Weights and statistics are equal on both ranks after every epoch, although each hides other squares."""
    checked, masks = [], []
    validate, random_masks = pretrain.validate, pretrain.masking.random_masks

    def check(network, source):
        for tensor in network.state_dict().values():
            same(*distributed.gather([tensor.clone()]))
        checked.append(1)
        return validate(network, source)

    def keep(*arguments):
        masks.append(random_masks(*arguments))
        return masks[-1]

    pretrain.validate, pretrain.masking.random_masks = check, keep
    pretrain.NETWORK, pretrain.EPOCHS, pretrain.BATCH_SIZE, pretrain.SQUARE = "segnet_dsc", (1, 3), 16, 16
    pretrain.main()
    assert len(checked) == 2
    ours, theirs = distributed.gather([masks[0]])
    assert ours.shape == (8, 4) and not torch.equal(ours, theirs)  # of half a batch each


def main():
    assert distributed.ranks() == 2
    split = pets.load("trainval")
    compare_batches(split)
    for loss in ("ce", "iou", "ce+iou", "ce+dice"):
        compare_step(loss)
    steps_that_leave_a_weight_alone()
    compare_results(pets.load("test"))
    assert distributed.any_rank(distributed.rank() == 1) and not distributed.any_rank(False)
    compare_training()
    compare_pretraining()
    print("all compared")


if __name__ == "__main__":
    distributed.run(main, train, pets, augment)
