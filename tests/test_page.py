"""The page in the browser: gives what predict.py gives, refuses what is no photograph, and asks no other host."""

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from conftest import PHOTOGRAPHS, ROOT
from PIL import Image
from torchvision.transforms.v2.functional import resize

import pretrained
from common import cutout, machine, page, published
from dataset.cache import read_pixels

CAT = PHOTOGRAPHS / "Siamese_93.jpg"
LOCAL = {"127.0.0.1", "localhost", "::1", None}


@pytest.fixture
def own_weights(tmp_path):
    return write_weights(tmp_path / "own" / "segnet_dsc" / "epoch_01.pt", seed=1)


def write_weights(path: Path, seed: int) -> Path:
    """Random weights whose BatchNorm has seen images, so that pixels differ in what they are called."""
    torch.manual_seed(seed)
    network = pretrained.build("segnet_dsc")
    squares = [resize(read_pixels(image, "RGB"), [32, 32]) for image in PHOTOGRAPHS.glob("*.jpg")]
    for module in network.modules():
        module.momentum = None  # of BatchNorm: the statistics are those of this one batch
    network(torch.stack(squares) / 255)
    about = {"network": "segnet_dsc", **pretrained.SHAPE, "constants": {"IMAGE_SIZE": 32}, "row": {"mean_iou": 0.5}}
    path.parent.mkdir(parents=True)
    torch.save(about | {"weights": network.state_dict()}, path)
    return path


@pytest.fixture
def bad_files(tmp_path):
    """A text, a text that is called an image, an image of 100 megapixels in a few kB, and a file of 31 MB."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    (folder / "notes.jpg").write_text("no image")
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    (folder / "long.jpg").write_bytes(CAT.read_bytes() + bytes(31_000_000))
    return folder


def test_without_gradio_the_error_says_how_to_get_it(script, own_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    said = script("predict.py", "PAGE=True", f"CHECKPOINT={own_weights}", fails=True)
    assert said == "error: PAGE needs gradio: pip install gradio"


@pytest.fixture
def served(script, own_weights, tmp_path, monkeypatch):
    """A client of the page as predict.py sets it up, the images on which a network ran, and the hosts asked for."""
    gradio_client = pytest.importorskip("gradio_client")
    pytest.importorskip("gradio")
    for name in ("GRADIO_TEMP_DIR", *page.SETTINGS):
        monkeypatch.setenv(name, "")  # put back after the test
    write_weights(tmp_path / "weights" / "segnet_dsc.pt", seed=2)
    monkeypatch.setattr(published, "FOLDER", tmp_path / "weights")
    handed, ran, hosts, connect = [], [], set(), socket.socket.connect
    monkeypatch.setattr(page, "serve", lambda *all: handed.extend(all))
    monkeypatch.setattr(socket.socket, "connect", lambda s, to: hosts.add(to[0]) or connect(s, to))
    script("predict.py", "PAGE=True", f"CHECKPOINT={own_weights}", "THREADS=1")
    names, find, examples = handed
    assert names == ["own/segnet_dsc/epoch_01.pt", "segnet_dsc"]
    assert len(list(examples.glob("*.jpg"))) == 8

    def counted(image: Path, name: str):
        ran.append((image.name, name))
        return find(image, name)

    blocks = page.build(names, counted, [CAT], tmp_path / "kept")
    address = page.launch(blocks)
    assert address.startswith("http://127.0.0.1:")
    yield gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "client")), ran, hosts
    blocks.close()


def test_page_gives_what_predict_gives_and_the_slider_runs_no_network(served, script, own_weights, tmp_path):
    from gradio_client import handle_file

    client, ran, hosts = served
    first, second = "own/segnet_dsc/epoch_01.pt", "segnet_dsc"
    script("predict.py", str(CAT), f"CHECKPOINT={own_weights}", "THREADS=1")
    expected = tmp_path / "predictions"
    over, cut, download, said = client.predict(handle_file(CAT), first, cutout.SOFT, api_name="/look")
    assert Path(over).read_bytes() == (expected / "Siamese_93_overlay.jpg").read_bytes()
    assert Path(cut).read_bytes() == (expected / "Siamese_93_cutout.png").read_bytes()
    assert (Path(download).name, Path(download).read_bytes()) == ("Siamese_93_cutout.png", Path(cut).read_bytes())
    assert said == ""

    _, hard, _, _ = client.predict(handle_file(CAT), first, 0, api_name="/look")
    network, pixels = pretrained.load_network(own_weights)[0], read_pixels(CAT, "RGB")
    probabilities = cutout.probabilities_of(network, pixels, 32, machine.precision("auto"), mirror=True)
    cut_hard = cutout.cut_out(pixels, probabilities, soft=0).permute(1, 2, 0).numpy()
    assert np.array_equal(np.array(Image.open(hard)), cut_hard)
    assert not np.array_equal(np.array(Image.open(cut)), cut_hard)
    assert ran == [("Siamese_93.jpg", first)]
    other, _, _, _ = client.predict(handle_file(CAT), second, cutout.SOFT, api_name="/look")
    assert Path(other).read_bytes() != Path(over).read_bytes()
    assert ran == [("Siamese_93.jpg", first), ("Siamese_93.jpg", second)]
    assert hosts <= LOCAL


def test_a_photograph_without_a_pet_gets_a_sentence(tmp_path):
    probabilities = torch.zeros(3, 4, 6)
    probabilities[1] = 1.0

    def look() -> str:
        found = torch.zeros(3, 4, 6, dtype=torch.uint8), probabilities
        return page.look(lambda image, name: found, tmp_path, str(CAT), "any", 0.5)[-1]

    assert look() == "No pet was found."
    probabilities[:2, 1, 1] = torch.tensor([0.9, 0.1])
    assert look() == ""


def test_what_is_no_photograph_gets_a_sentence_and_the_page_lives_on(served, bad_files, tmp_path):
    from gradio_client import handle_file

    client, _, _ = served
    name = "segnet_dsc"
    for file, sentence in (
        ("notes.txt", "notes.txt is no picture, or of a kind that can't be read here"),
        ("notes.jpg", "notes.jpg is no picture, or of a kind that can't be read here"),
        ("huge.png", "huge.png has 10000x10000 px, over 50,000,000 in all"),
    ):
        *files, said = client.predict(handle_file(bad_files / file), name, 0.5, api_name="/look")
        assert said.startswith(sentence) and str(tmp_path) not in said
        assert files == [None, None, None]
    address = client.src
    with open(bad_files / "long.jpg", "rb") as file:
        assert requests.post(f"{address}gradio_api/upload", files={"files": file}).status_code == 413
    assert call(address, {"path": str(ROOT / "LICENSE")}, name).startswith("event: error")  # a file of this machine
    sent_along = "data:image/png;base64," + base64.b64encode((bad_files / "huge.png").read_bytes()).decode()
    assert call(address, {"url": sent_along}, name).splitlines()[:2] == [
        "event: complete",
        'data: [null, null, null, ""]',  # not even decoded
    ]
    with pytest.raises(Exception, match="choices"):
        client.predict(handle_file(CAT), "../../secret.pt", 0.5, api_name="/look")
    over, *_ = client.predict(handle_file(CAT), name, 0.5, api_name="/look")
    assert Image.open(over).size == Image.open(CAT).size


def call(address: str, file: dict[str, str], name: str) -> str:
    """What the server answers to a program of its own, which gives `file` out as an upload."""
    file = file | {"meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}
    event = requests.post(f"{address}gradio_api/call/look", json={"data": [file, name, 0.5]}).json()["event_id"]
    return requests.get(f"{address}gradio_api/call/look/{event}").text


@pytest.fixture
def address(own_weights, tmp_path):
    """Where `python predict.py PAGE=True` serves its page; Ctrl-C must end it and leave nothing."""
    pytest.importorskip("gradio")
    (tmp_path / "temporary").mkdir()
    constants = (f"CHECKPOINT={own_weights}", f"OUTPUTS={tmp_path}", "THREADS=1")
    with subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "predict.py"), "PAGE=True", *constants],
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # nohup has it ignored
    ) as process:
        try:
            yield process.stdout.readline().split()[4]
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_real_page_in_a_browser(width, address, browser, script, own_weights, bad_files, tmp_path):
    script("predict.py", str(CAT), f"CHECKPOINT={own_weights}", "THREADS=1")
    tab, asked = browser.new_page(viewport={"width": width, "height": 900}), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    upload = tab.locator("input[type=file]").first

    def picture(end: str):
        tab.wait_for_selector(f"img[src$='{end}']", timeout=60_000)
        return tab.locator(f"img[src$='{end}']")

    def same(source: str, name: str) -> bool:
        return tab.request.get(source).body() == (tmp_path / "predictions" / name).read_bytes()

    upload.set_input_files(CAT)
    assert same(picture("_overlay.jpg").get_attribute("src"), "Siamese_93_overlay.jpg")
    with tab.expect_download() as download:
        tab.get_by_text("Download the cut-out as PNG").click()
    assert download.value.suggested_filename == "Siamese_93_cutout.png"
    assert download.value.path().read_bytes() == (tmp_path / "predictions/Siamese_93_cutout.png").read_bytes()
    assert tab.evaluate("document.documentElement.scrollWidth") == width

    before = picture("_cutout.png").get_attribute("src")
    tab.get_by_label("number input for Softness of the edge").fill("0.1")
    tab.keyboard.press("Tab")
    tab.wait_for_function(f"!document.querySelector(`img[src='{before}']`)")
    after = tab.request.get(picture("_cutout.png").get_attribute("src")).body()
    assert after != (tmp_path / "predictions/Siamese_93_cutout.png").read_bytes()

    for file, sentence in (
        ("notes.txt", "Invalid file type: notes.txt"),
        ("notes.jpg", "notes.jpg is no picture, or of a kind that can't be read here"),
        ("huge.png", "huge.png has 10000x10000 px, over 50,000,000 in all"),
        ("long.jpg", "exceed the maximum allowed size"),
    ):
        tab.reload()
        upload.set_input_files(bad_files / file)
        tab.get_by_text(sentence).first.wait_for(timeout=60_000)
        assert not tab.locator("img[src$='_overlay.jpg']").count()
    tab.reload()
    tab.locator("img[src$='Siamese_93.jpg']").click()  # of the examples
    assert same(picture("_overlay.jpg").get_attribute("src"), "Siamese_93_overlay.jpg")
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked
