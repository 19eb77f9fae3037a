"""What the code makes of the machine that it finds."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from common import machine

PROGRAM = "from common import machine as m; print(m.precision_name('auto'), m.name()); [m.precision('bfloat16')] * 2"


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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert machine.precision("auto") == (torch.bfloat16 if "avx512_bf16" in has else torch.float32)
