"""Which images a part holds: exact numbers of them, nested, even over the breeds, and none of the validation part."""

import pytest
import torch

from common.settings import UserError
from dataset.batches import divide
from dataset.cache import Pair, Split

BREEDS = [100 - (breed % 8) for breed in range(37)]  # images of each


def numbered(counts):
    breeds = [breed for breed, count in enumerate(counts) for _ in range(count)]
    pairs = [Pair(str(i), breed, "cat", "") for i, breed in enumerate(breeds)]
    return Split(torch.arange(len(pairs)), torch.arange(len(pairs)), pairs)


@pytest.mark.parametrize("validation_share", [0.0, 0.1])
def test_sets_of_so_many_images_are_exact_nested_and_even(validation_share):
    split, before = numbered(BREEDS), set()
    everything = len(divide(split, validation_share)[0].pairs)
    for count in (37, 250, 500, 1000, 2000, everything):
        chosen, validation = divide(split, validation_share, train_images=count)
        names = {pair.name for pair in chosen.pairs}
        assert len(chosen.pairs) == len(names) == len(chosen.rows) == count
        assert before <= names
        assert not names & {pair.name for pair in validation.pairs}
        of_breed = [sum(pair.breed == breed for pair in chosen.pairs) for breed in range(37)]
        assert max(of_breed) - min(of_breed) <= 1 or count == everything
        before = names
    with pytest.raises(UserError, match=rf"TRAIN_IMAGES={everything + 1}: there are {everything} images"):
        divide(split, validation_share, train_images=everything + 1)
    with pytest.raises(UserError, match=r"VALIDATION_SHARE=0.001 keeps out no image"):
        divide(split, 0.001)
    few = [{pair.name for pair in divide(split, share, train_images=250)[0].pairs} for share in (0.0, 0.1)]
    assert few[0] == few[1]  # what is chosen on the validation part is chosen for these very images


def test_counts_and_shares_of_images_exclude_each_other(script):
    assert "not both" in script("train.py", "DATASET=toy", "TRAIN_IMAGES=8", "TRAIN_SHARE=0.5", fails=True)
    assert "TRAIN_IMAGES=49: there are 48" in script("train.py", "DATASET=toy", "TRAIN_IMAGES=49", fails=True)


def test_parts_for_choosing_are_fixed_stratified_and_nested():
    pairs = [type("Pair", (), {"breed": i % 37, "name": str(i)}) for i in range(1850)]
    split = Split(torch.arange(1850), torch.arange(1850), pairs)
    whole, validation = divide(split, 0.1, 1.0)
    third, same = divide(split, 0.1, 1 / 3)
    assert len(validation.pairs) == 185
    assert {sum(p.breed == b for p in validation.pairs) for b in range(37)} == {5}
    assert {sum(p.breed == b for p in third.pairs) for b in range(37)} == {15}
    names = [{p.name for p in part.pairs} for part in (whole, validation, third, same)]
    assert not names[0] & names[1]
    assert names[2] < names[0]
    assert names[1] == names[3]
    everything, nothing = divide(split, 0.0, 1.0)
    assert (len(everything.pairs), len(nothing.pairs)) == (1850, 0)
