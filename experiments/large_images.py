"""Do tiles, or a larger square, find more than an image squeezed to what its network was trained at?

    python -m experiments.large_images DATA_ROOT=/data CHECKPOINT=outputs/RUN/segnet_dsc/epoch_05.pt

Scores each of WAYS at each image's own size on the validation tenth, in total and by size of pet; adds a line for each
to outputs/published/large_images.jsonl. Train with VALIDATION_SHARE=0.1 for it: other networks have learnt from these
images, and their lines say so ("held_out").
"""

import time
from pathlib import Path

import torch
from torch import Tensor

import fetch_oxford_iiit_pets as pets
import metrics
import predict
import pretrained
from common import cutout, machine, results, settings
from dataset.batches import divide
from dataset.cache import Pair, Split, paths_of, read_pixels

WAYS = ("", "INPUT=192", "INPUT=256", "TILES=2", "TILES=3")  # constants of predict.py; "": as they are
SHARE = 0.1  # the validation part


def main() -> None:
    machine.set_up(predict.THREADS)
    path = predict.chosen_weights()
    pairs = validation_part(pets.IMAGE_SIZE).pairs
    facts = facts_of(path) | {"images": len(pairs), "mirror": predict.MIRROR, "data": pets.data_name()}
    facts |= {"precision": machine.precision_name(predict.PRECISION), **machine.about()}
    for way in WAYS:
        settings.set_constants(["INPUT=0", "TILES=0", *way.split()], predict)
        predict.load.cache_clear()  # its square is INPUT's
        line = {"way": way} | score(path, pairs) | facts
        results.add_line(pets.published_folder() / "large_images.jsonl", line)


def validation_part(size: int) -> Split:
    """The images that VALIDATION_SHARE=0.1 keeps out of training, whatever share of the others is trained on."""
    return divide(pets.load("trainval", size), SHARE)[1]


def facts_of(path: Path) -> dict[str, object]:
    """What a line says of a file of weights; held_out: none of the validation part was trained on."""
    _, about = pretrained.load_network(path)
    held_out = about.get("constants", {}).get("VALIDATION_SHARE", 0) >= SHARE
    if not held_out:
        print(f"{path} was trained on the validation part too: what follows flatters it")
    names = ("network", "epoch", "constants")
    return {"weights": "/".join(path.parts[-3:]), "version": results.VERSION, "held_out": held_out} | {
        name: about.get(name) for name in names
    }


def score(path: Path, pairs: list[Pair]) -> dict[str, object]:
    """Results at own size, against the trimaps as the data set has them, and the time of the network's part."""
    network, size = predict.load(path)
    matrices, seconds = [], 0.0
    for pair in pairs:
        pixels = read_pixels(paths_of(pets.data_folder(), pair)[0], "RGB", pair.where)
        start = time.perf_counter()
        labels = cutout.labels_of(probabilities_of(network, pixels, size))
        seconds += time.perf_counter() - start
        matrices.append(metrics.confusion(labels[None], pets.trimap_at_own_size(pair)[None]))
    found = torch.cat(matrices)
    return {
        "own_size": metrics.own_size_summary(found.sum(0)),
        "by_pet_size": metrics.by_pet_size(found),
        "ms_per_image": 1000 * seconds / len(pairs),
    }


def probabilities_of(network: torch.nn.Module, pixels: Tensor, size: int) -> Tensor:
    precision = machine.precision(predict.PRECISION)
    return cutout.probabilities_of(network, pixels, size, precision, predict.MIRROR, predict.TILES)


if __name__ == "__main__":
    settings.run(main, pets, predict)
