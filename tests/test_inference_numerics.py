"""The precision that is used unless the config names one."""

import os

import pytest
import torch
from tiny_models import tiny_folder

from sqlr1.config import Candidates, ColdStart, Grpo, Lora
from sqlr1.model.answers import make_backend
from sqlr1.model.base import fix_numerics, native_precision
from sqlr1.train.policy import load_policy
from sqlr1.train.trainer_config import trainer_config

LAPTOP = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
SERVER = LAPTOP | {"amx_bf16": True}
WITHOUT_AMX = LAPTOP | {"avx512_bf16": True}
ARM = {"architecture": "aarch64", "neon": True, "bf16": True}


@pytest.mark.parametrize(
    ("able", "intel", "expected"),
    [
        (LAPTOP, True, "float32"),
        (SERVER, True, "bfloat16"),
        (ARM, False, "bfloat16"),
        (WITHOUT_AMX, True, "float32"),
        (WITHOUT_AMX, False, "bfloat16"),
    ],
)
def test_precision_follows_the_machine(able, intel, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sqlr1.model.base._is_intel", lambda: intel)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    folder, dtype = tiny_folder(tmp_path), getattr(torch, expected)
    assert native_precision() == expected
    assert (
        trainer_config(ColdStart(), tmp_path, 0).bf16
        == trainer_config(Grpo(), tmp_path, 0).bf16
        == (expected == "bfloat16")
    )
    assert load_policy(folder, Grpo(lora=Lora(r=2))).dtype == dtype
    assert load_policy(folder, Grpo()).dtype == torch.float32
    assert make_backend(Candidates(), folder).model.dtype == dtype


def test_the_config_has_the_last_word(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: LAPTOP)
    folder = tiny_folder(tmp_path)
    assert trainer_config(Grpo(bf16=True), tmp_path, 0).bf16
    assert load_policy(folder, Grpo(lora=Lora(r=2), bf16=True)).dtype == torch.bfloat16
    assert load_policy(folder, Grpo(lora=Lora(r=2), train_dtype="bfloat16")).dtype == torch.bfloat16
    assert make_backend(Candidates(dtype="bfloat16"), folder).model.dtype == torch.bfloat16


def test_threads_and_deterministic_kernels_are_set(monkeypatch):
    monkeypatch.delenv("MKL_CBWR", raising=False)
    threads = torch.get_num_threads()
    try:
        fix_numerics(1)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["MKL_CBWR"] == "AUTO,STRICT"
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
