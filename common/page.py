"""A page in the browser on which networks are tried: a photograph in, the pet cut out of it back. Needs gradio.

    python predict.py PAGE=True          and then http://127.0.0.1:7860

It asks nothing of other hosts, and sends nothing to them.
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from common import cutout, machine, settings
from common.settings import UserError
from common.trimap import PET

if TYPE_CHECKING:
    import gradio

# The page in the browser
ADDRESS = "127.0.0.1"  # reached from this machine alone; "0.0.0.0": from the network too, by anybody
PORT = 0  # 0: the first free one from 7860 on
LARGEST_UPLOAD = 30  # MB; how many pixels it may have, dataset/cache.py says
KEPT = 3600  # s until uploads and pictures are deleted; all are when the page is closed

SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
REMEMBERED = 2  # images whose probabilities are kept for the slider, 15 bytes per pixel

Find = Callable[[Path, str], tuple[Tensor, Tensor]]  # an image's file, a network's name -> pixels, probabilities


def serve(networks: list[str], find: Find, examples: Path) -> None:
    """Opens the page and serves it until Ctrl-C. Raises UserError where gradio or the port can't be had.

    networks: names to choose from, the first chosen; find: see `build`; examples: a folder of images.
    """
    settings.check(globals(), {}, {"PORT": (0, 65535)})
    machine.stop_on_signals()
    with tempfile.TemporaryDirectory() as folder:
        blocks = build(networks, find, sorted(examples.glob("*.jpg")), Path(folder))
        try:
            address = launch(blocks)
        except OSError as error:
            raise UserError(f"the page can't be opened at {ADDRESS}, PORT={PORT}: {error}; choose another") from error
        with contextlib.suppress(KeyboardInterrupt):  # before block_thread, which heeds it, has begun
            print(f"the page is at {address} until Ctrl-C")
            blocks.block_thread()


def import_gradio() -> "gradio":
    os.environ.update(SETTINGS)  # which gradio reads when it is imported
    try:
        import gradio
    except ImportError as error:
        raise UserError("PAGE needs gradio: pip install gradio") from error
    return gradio


def launch(blocks: "gradio.Blocks") -> str:
    """Starts the server in a thread of its own; returns the page's address."""
    chequered = """
        .chequered img {width: auto !important; height: auto !important; max-width: 100%; max-height: 100%;
            margin: auto; background: repeating-conic-gradient(#ddd 0 25%, #fff 0 50%) 0 0 / 16px 16px}
        .said * {font-weight: bold}"""
    _, address, _ = blocks.launch(
        server_name=ADDRESS,
        server_port=PORT or None,
        max_file_size=LARGEST_UPLOAD * 1_000_000,
        css=chequered,
        share=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return address


def build(networks: list[str], find: Find, examples: list[Path], folder: Path) -> "gradio.Blocks":
    """The page, not yet served. folder: where uploads and pictures are kept.

    find: an image's file and a network's name -> its pixels (3, H, W), uint8, and their probabilities (3, H, W). It
    raises UserError for a file that is no image or too large, which the page then says.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    gr = import_gradio()
    remembering = functools.lru_cache(REMEMBERED)(find)  # so that the slider runs no network
    size = {"height": 360, "min_width": 320}  # px
    shown = {"interactive": False, "buttons": ["fullscreen", "download"], **size}  # no button that shares it
    with gr.Blocks(title="Pets cut out", analytics_enabled=False, delete_cache=(60, KEPT)) as blocks:
        gr.Markdown("# Pets cut out\nA photograph of a cat or a dog in, the pet on transparent ground out.")
        said = gr.Markdown(elem_classes="said")
        with gr.Row():
            camera = gr.WebcamOptions(mirror=False)
            photograph = gr.Image(label="Photograph", type="filepath", webcam_options=camera, **size)
            overlay = gr.Image(label="Overlay: the pet in orange, its border in white", **shown)
            cut = gr.Image(label="Cut-out", elem_classes="chequered", **shown)
        with gr.Row(equal_height=True):
            network = gr.Dropdown(networks, value=networks[0], label="Network", min_width=320)
            soft = gr.Slider(0, 1, cutout.SOFT, step=0.05, label="Softness of the edge", min_width=320)
            download = gr.DownloadButton("Download the cut-out as PNG")
        gr.Examples([str(path) for path in examples], photograph)
        # gradio's own step would decode the image, whatever its size, and write it anew
        photograph.preprocess = lambda file: file and file.path
        gr.on(
            [photograph.change, network.change, soft.change],
            functools.partial(look, remembering, folder),
            [photograph, network, soft],
            [overlay, cut, download, said],
            trigger_mode="always_last",
            concurrency_limit=1,
            api_name="look",
        )
    return blocks


def look(
    find: Find, folder: Path, photograph: str | None, network: str, soft: float
) -> tuple[str | None, str | None, str | None, str]:
    """Files of the overlay, of the cut-out, and of the cut-out once more to be downloaded; and what went wrong."""
    if not photograph:
        return None, None, None, ""
    try:
        pixels, probabilities = find(Path(photograph), network)
    except UserError as error:
        return None, None, None, str(error).replace(photograph, Path(photograph).name)
    target = Path(tempfile.mkdtemp(dir=folder), Path(photograph).stem)  # new each time, so no browser shows an old one
    labels, _ = cutout.write(pixels, probabilities, target, soft)
    overlay, cut = f"{target}_overlay.jpg", f"{target}_cutout.png"
    return overlay, cut, cut, "" if (labels == PET).any() else "No pet was found."
