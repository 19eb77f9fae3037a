"""A trained network as a file of ONNX, in float32 or int8, for onnxruntime and others."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from torch import Tensor, nn

from common.files import write_atomically
from common.inference import as_input
from common.settings import UserError
from common.trimap import CLASSES


def export(network: nn.Module, size: int, path: Path) -> None:
    """Writes the network as ONNX: "images" (B, 3, size, size), float in [0, 1] -> "logits" of the same shape.

    B is any number. How images are prepared stands in the file's metadata, for those who have nothing but the file.
    """
    try:
        import onnxscript  # noqa: F401 - what torch's exporter is built on
    except ImportError as error:
        raise UserError("EXPORT needs onnx and onnxscript: pip install onnx onnxscript") from error
    network.cpu().eval()
    program = torch.onnx.export(
        network,
        (torch.rand(2, 3, size, size),),  # two, since an example of one would fix B at one
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("B")},),
    )
    program.model.metadata_props.update(
        {
            "input_range": "RGB, 0 to 1 (bytes / 255), not normalised further",
            "input_layout": f"images (B, 3, {size}, {size}), B any number",
            "image_size": str(size),
            "resize": "squeezed to the square, bilinear, antialiased; logits are brought back bilinearly",
            "classes": ",".join(CLASSES),
        }
    )
    write_atomically(path, lambda part: program.save(part, external_data=False))


def export_int8(network: nn.Module, size: int, path: Path, images: Iterable[Tensor]) -> None:
    """The same in int8: weights by channel, maps by scales that are taken from images (1, 3, size, size), uint8."""
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Calibration(CalibrationDataReader):
        """Hands out one image at a time, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, object] | None:
            image = next(self.left, None)
            return None if image is None else {"images": as_input(image, torch.device("cpu")).contiguous().numpy()}

    with TemporaryDirectory() as folder:
        prepared = prepare(network, size, Path(folder))
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
        logging.disable(logging.WARNING)  # that weights without channels have none
        try:
            write_atomically(path, lambda part: quantize_static(prepared, part, Calibration(), **kinds))
        finally:
            logging.disable(logging.NOTSET)


def import_onnxruntime() -> ModuleType:
    """onnxruntime, which is asked for on demand. Raises UserError where it, or what it quantises by, is not there."""
    try:
        import onnxruntime
        import onnxruntime.quantization
    except ImportError as error:
        raise UserError("int8 needs onnx and onnxruntime: pip install onnx onnxscript onnxruntime") from error
    return onnxruntime


def prepare(network: nn.Module, size: int, folder: Path) -> Path:
    """A file in float32 that can be quantised: shapes inferred, BatchNorm folded into convolutions."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    export(network, size, folder / "float32.onnx")
    quant_pre_process(folder / "float32.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    return folder / "prepared.onnx"
