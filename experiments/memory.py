"""The most memory that training and testing the separable network takes, by size of the images.

python -m experiments.memory                      drawn pets at 256 and 512 px; adds to outputs/published/memory.jsonl
python -m experiments.memory CODE=../other        train.py and test.py of another checkout, for comparison
python -m experiments.memory LOAD=True DATA_ROOT=/data   also a process that decodes and loads all real images
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fetch_oxford_iiit_pets as pets
from common import machine, results, settings
from common.files import REPOSITORY
from common.settings import UserError

CODE = ""  # folder of another checkout; "": this one
IMAGE_SIZES = (256, 512)  # px a side
BATCH_SIZES = (8, 4)  # images per step, for each size
TRAIN_SIZES = "SIZES=1"  # for train.py, so that every epoch is at full size; before they were shares, SIZES were px
LOAD = False  # True: all real images too

LOAD_ALL = """
import sys
import fetch_oxford_iiit_pets as pets
pets.DATA_ROOT, pets.OUTPUTS, pets.IMAGE_SIZE = *sys.argv[1:3], int(sys.argv[3])
print([int(pets.load(split).images[-1].sum()) for split in ("trainval", "test")])
"""
FACTS = ("DATASET=toy", "NETWORKS=segnet_dsc", "PRECISION=float32")


def main() -> None:
    code = Path(CODE).resolve() if CODE else REPOSITORY
    if len(IMAGE_SIZES) != len(BATCH_SIZES):
        raise UserError("IMAGE_SIZES and BATCH_SIZES have as many entries as each other")
    for size, batch_size in zip(IMAGE_SIZES, BATCH_SIZES):
        with tempfile.TemporaryDirectory() as outputs:
            constants = [*FACTS, f"IMAGE_SIZE={size}", f"OUTPUTS={outputs}"]
            training = [
                "train.py",
                *constants,
                TRAIN_SIZES,
                "EPOCHS=1,2",
                "TRAIN_SHARE=0.5",
                f"BATCH_SIZE={batch_size}",
            ]
            found = {"train_mib": peak_mib(code, training)}
            found["test_mib"] = peak_mib(code, ["test.py", *constants, "EXAMPLES=0"])
            if LOAD:
                data = str(Path(pets.DATA_ROOT).resolve())
                found["load_all_mib"] = peak_mib(code, ["-c", LOAD_ALL, data, outputs, str(size)])
        line = {"image_size": size, "batch_size": batch_size, "train_images": 24, "test_images": 24, **found}
        line |= machine.about() | {"commit": machine.commit(code)}
        results.add_line(pets.published_folder() / "memory.jsonl", line)


def peak_mib(folder: Path, arguments: list[str]) -> int:
    """The peak memory of a Python process in MiB, as Linux counts it. Raises UserError if it fails."""
    command, peak = [sys.executable, *arguments], 0
    with tempfile.TemporaryFile("w+") as errors:  # a pipe would fill up with progress bars
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors) as process:
            while process.poll() is None:
                peak = max(peak, machine.peak_memory_mib(process.pid))
                time.sleep(0.02)
        errors.seek(0)
        if process.returncode:
            raise UserError(f"{arguments[0]} failed: {(errors.read().strip().splitlines() or ['it was stopped'])[-1]}")
    return peak


if __name__ == "__main__":
    settings.run(main, pets)
