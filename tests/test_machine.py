"""What the code makes of the machine that it finds."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import train
from common import SPINS, machine, optimizer, pooling
from common.checkpoints import load_file

PROGRAM = "from common import machine as m; print(m.precision_name('auto'), m.name()); [m.precision('bfloat16')] * 2"


TOY = ("DATASET=toy", "IMAGE_SIZE=32", "NETWORKS=segnet_dsc", "THREADS=1", "PRECISION=float32")


def stand_in(monkeypatch, kind):
    """Has torch answer that it knows an accelerator of this kind."""
    found = kind and torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)


@pytest.mark.parametrize("module", ["train", "test", "predict", "pretrain", "experiments.levers", "experiments.study"])
@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_are_told_how_to_wait_before_torch_is_imported(module, given):
    """GNU OpenMP, which torch brings along, reads the variable once. What the user has set stays."""
    watch = (
        "import importlib, os, sys\n"
        "class Watch:\n"
        "    def find_spec(name, *rest):\n"
        "        if name == 'torch': sys.exit(print(os.environ.get('GOMP_SPINCOUNT')))\n"
        "sys.meta_path.insert(0, Watch)\n"
        f"importlib.import_module('{module}')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | given
    command = [sys.executable, "-c", watch]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == given.get("GOMP_SPINCOUNT", SPINS)


def test_auto_is_never_an_emulated_bfloat16():
    """With convolutions held to AVX2, which has no instruction for it; in a process that begins so."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("float32 ")
    assert "AMX" not in result.stdout and "AVX-512" not in result.stdout
    assert result.stderr.count("emulated on this machine") == 1


@pytest.mark.parametrize(
    "has", [{"amx_bf16": True, "avx512_bf16": True}, {"avx512_bf16": True}, {"avx512_f": True}, {}]
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(monkeypatch, has):
    stand_in(monkeypatch, None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert machine.precision("auto") == (torch.bfloat16 if "avx512_bf16" in has else torch.float32)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_an_accelerator_is_taken_for_what_it_says_it_can(monkeypatch, kind, capsys):
    stand_in(monkeypatch, kind)
    machine.say_once.cache_clear()
    assert machine.device() == torch.device(kind)
    assert machine.accelerator() is getattr(torch, kind)
    for says in (True, False) if kind != "mps" else ():
        monkeypatch.setattr(
            getattr(torch, kind), "is_bf16_supported", lambda emulated, says=says: says and not emulated
        )
        assert machine.precision_name("auto") == ("bfloat16" if says else "float32")
        monkeypatch.setattr(getattr(torch, kind), "get_device_name", lambda: "A name")
        assert machine.name() == "A name"
    if kind == "mps":  # says nothing of bfloat16, and has no name of its own
        assert machine.precision_name("auto") == "float32"
        assert ", mps, " in machine.name()
    assert machine.precision("bfloat16") == torch.bfloat16  # who asks for it gets it
    assert "emulated" in capsys.readouterr().err
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 3 << 20)
    assert machine.peak_memory_mib() == 3


def test_a_processor_whose_name_has_no_number_is_told_by_its_family():
    info = "processor : {n}\nvendor_id : A\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: {name}\nstepping : 1\n\n"
    named = {
        name: machine.processor(info.format(n=0, name=name) + "model name: other\n") for name in ("EPYC", "EPYC 9354")
    }
    assert named == {"EPYC": "EPYC (family 25, model 17)", "EPYC 9354": "EPYC 9354"}
    assert machine.processor("processor : 0\nBogoMIPS : 50.00\n") == machine.processor("") == ""  # ARM's have no name


def test_an_accelerator_that_counts_no_memory(monkeypatch):
    def fails():
        raise NotImplementedError

    stand_in(monkeypatch, "mps")
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", fails)
    assert machine.peak_memory_mib() == 0


@pytest.mark.slow
def test_scripts_on_an_accelerator_that_lacks_what_apples_may_lack(script, tmp_path):
    """No float64, no other view of the same bits, no name, no bfloat16; steps and rows are equal."""
    lacked, both = "float64,aten.view.dtype", (*TOY, f"OUTPUTS={tmp_path / 'there'}")
    tested = ("EXAMPLES=0", "BASELINE=False")
    scripts = ["train.py", *both, "SIZES=1", "BATCH_SIZE=16", "EPOCHS=1,2", "--", "test.py", *both, *tested]
    command = [sys.executable, "tests/fake_accelerator.py", lacked, *scripts]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("pooling in bit patterns fails on fake: PyTorch's own is taken") == 1
    script("train.py", *TOY, "SIZES=1", "BATCH_SIZE=16", "EPOCHS=1,2")
    script("test.py", *TOY, *tested)
    there, here = (load_file(tmp_path / place / "toy/default/segnet_dsc/epoch_01.pt") for place in ("there", "."))
    assert (there["legs"][0]["device"], here["legs"][0]["device"]) == ("fake", machine.device().type)
    for name, expected in here["weights"].items():
        torch.testing.assert_close(there["weights"][name], expected, rtol=1e-3, atol=1e-5)
    rows = [(tmp_path / place / "toy/results.jsonl").read_text().splitlines() for place in ("there", ".")]
    assert [len(lines) for lines in rows] == [1, 1]
    there, here = (json.loads(lines[0])["mean_iou"] for lines in rows)
    assert there == pytest.approx(here, abs=1e-3)
    assert "fake_random" in load_file(tmp_path / "there/toy/default/segnet_dsc/state.pt")


def test_pooling_falls_back_where_bit_patterns_fail(monkeypatch, capsys):
    x = torch.randn(2, 5, 7, 6, requires_grad=True)
    expected = pooling.max_unpool(*pooling.max_pool(x), (7, 6))
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    monkeypatch.setattr(pooling, "KNOWN", ())
    pooling.has_bit_patterns.cache_clear()
    assert pooling.max_pool(x)[1].dtype == torch.uint8  # tried, and found to work

    def lacking(*_):
        raise TypeError("no such type")

    for wrong in (lambda *_: torch.zeros(2, 5, 6, 4), lacking):
        pooling.has_bit_patterns.cache_clear()
        machine.say_once.cache_clear()
        monkeypatch.setattr(pooling, "scatter", wrong)
        values, places = pooling.max_pool(x)
        assert places.dtype == torch.int64
        found = pooling.max_unpool(values, places, (7, 6))
        assert torch.equal(found, expected)
        assert torch.equal(torch.autograd.grad(found.square().sum(), x)[0], gradient)
        assert "pooling in bit patterns fails on cpu" in capsys.readouterr().err
    pooling.has_bit_patterns.cache_clear()


def test_without_a_fused_optimiser_steps_are_the_same(monkeypatch, capsys):
    networks = [train.segnet.NETWORKS["segnet_dsc"]() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    batch = torch.rand(2, 3, 16, 16), torch.randint(0, 3, (2, 1, 16, 16))
    for network, lacking in zip(networks, (False, True)):
        if lacking:
            module = sys.modules["torch.optim.optimizer"]
            monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["cuda"])
        machine.say_once.cache_clear()
        steps = train.make_optimizer(network)
        assert steps.defaults["fused"] is not lacking
        train.train_step(network, steps, *batch, "ce", torch.float32)
    assert "no fused optimiser on cpu" in capsys.readouterr().err
    assert optimizer.has_fused(torch.device("cpu")) is False
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_command_on_record_can_be_pasted_into_a_shell(monkeypatch):
    arguments = ["DATA_ROOT=my pets", "LOSS=ce+dice", "RUN=$HOME;ls"]
    monkeypatch.setattr(sys, "argv", ["/elsewhere/train.py", *arguments])
    said = machine.command()
    assert said.startswith("python train.py 'DATA_ROOT=my pets' LOSS=ce+dice ")  # quoted where it has to be
    words = subprocess.run(f"printf '%s\\n' {said}", shell=True, capture_output=True, text=True, check=True).stdout
    assert words.splitlines()[2:] == arguments
