"""Is int8 worth it on a CPU? The network as ONNX in float32 and in int8, and in PyTorch: mean IoU and milliseconds.

    python -m experiments.onnx_int8 DATA_ROOT=/data CHECKPOINT=outputs/RUN/segnet_dsc/epoch_05.pt

Scores each on the validation tenth and times them in turns, one image at a time; what it finds goes to
outputs/published/onnx.json. "static" takes its scales of maps from training images, "dynamic" from each map anew.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fetch_oxford_iiit_pets as pets
import metrics
import predict
from common import machine, onnx_export, results, settings
from common.inference import as_input, logits_of
from dataset.batches import Part, divide
from experiments.large_images import SHARE, facts_of

CALIBRATION = 100  # training images that static scales are taken from
TIMED = 32  # images per turn
REPEATS = 7  # turns of each way, after one that is not counted

Way = Callable[[Tensor], Tensor]  # images (B, 3, S, S), uint8 -> logits (B, 3, S, S)


def main() -> None:
    machine.set_up(predict.THREADS)
    onnxruntime = onnx_export.import_onnxruntime()
    path = predict.chosen_weights()
    network, size = predict.load(path)
    train_part, validation_set = divide(pets.load("trainval", size), SHARE)
    images, trimaps = validation_set.images, validation_set.trimaps
    precision = machine.precision(predict.PRECISION)
    with tempfile.TemporaryDirectory() as folder:
        files = written(network, size, Path(folder), train_part)
        megabytes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
        ways: dict[str, Way] = {name: session_of(file) for name, file in files.items()}
    network.to(machine.device())  # exporting left it on the CPU
    ways["pytorch"] = lambda batch: torch.cat(list(logits_of(network, batch, precision)))
    labels = {name: labels_of(way, images) for name, way in ways.items()}
    found = {name: metrics.confusion(found, trimaps).sum(0) for name, found in labels.items()}
    turns = take_turns(ways, images[:TIMED])
    result = facts_of(path) | {"images": len(images), "image_size": size, "data": pets.data_name()}
    result |= {"calibration_images": CALIBRATION, "onnxruntime": onnxruntime.__version__}
    result |= {"pytorch_precision": machine.precision_name(predict.PRECISION), **machine.about()}
    result["ways"] = {
        name: {
            "mean_iou": float(metrics.mean_iou(matrix)),
            "pixel_accuracy": float(metrics.pixel_accuracy(matrix)),
            "same_labels_as_float32": float((labels[name] == labels["float32"]).double().mean()),
            "ms_per_image": statistics.median(turns[name]),
            "times_as_fast_as_float32": statistics.median(a / b for a, b in zip(turns["float32"], turns[name])),
            "megabytes": megabytes.get(name),
        }
        for name, matrix in found.items()
    }
    results.write_json(pets.published_folder() / "onnx.json", result)
    print(json.dumps(result, indent=1))


def written(network: torch.nn.Module, size: int, folder: Path, train_part: Part) -> dict[str, Path]:
    """The network's files of ONNX: what EXPORT writes, and both kinds of int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    files = {name: folder / f"{name}.onnx" for name in ("float32", "int8_static", "int8_dynamic")}
    onnx_export.export(network, size, files["float32"])
    rows = train_part.rows[:: max(1, len(train_part.rows) // CALIBRATION)][:CALIBRATION]  # of all breeds
    onnx_export.export_int8(network, size, files["int8_static"], train_part.split.images[rows].split(1))
    prepared = onnx_export.prepare(network, size, folder)
    quantize_dynamic(prepared, files["int8_dynamic"], weight_type=QuantType.QInt8, per_channel=True)
    return files


def feed(images: Tensor) -> dict[str, np.ndarray]:
    return {"images": as_input(images, torch.device("cpu")).contiguous().numpy()}


def session_of(file: Path) -> Way:
    """A network of ONNX on the CPU, with as many threads as PyTorch has."""
    onnxruntime = onnx_export.import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # or it takes cores from the next way
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], feed(images))[0])


def labels_of(way: Way, images: Tensor) -> Tensor:
    """Classes (N, 1, S, S) of images (N, 3, S, S), uint8."""
    return torch.cat([way(batch).argmax(1, keepdim=True).cpu() for batch in images.split(16)])


def take_turns(ways: dict[str, Way], images: Tensor) -> dict[str, list[float]]:
    """Milliseconds per image of each way, turn by turn; machines drift, so that ways are compared within a turn."""
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(REPEATS + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            for image in images.split(1):
                way(image).cpu()
            if turn:
                turns[name].append(1000 * (time.perf_counter() - start) / len(images))
    return turns


if __name__ == "__main__":
    settings.run(main, pets, predict)
