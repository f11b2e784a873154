"""Trainer configurations from config sections, and the errors for settings that are refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sqlr1.config import ColdStart, Grpo, Lora
from sqlr1.config_files import load_sections, read_config
from sqlr1.records import InputError
from sqlr1.train.trainer_config import lora_config, trainer_config

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "workflow/config/paper.yaml"
OVERLAYS = sorted((ROOT / "workflow/config").glob("paper-*.yaml"))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_the_published_settings_make_real_configurations(overlay, tmp_path):
    config = read_config([ROOT / "config.yaml", PAPER, overlay])
    sft, grpo = trainer_config(config.cold_start, tmp_path, 7), trainer_config(config.grpo, tmp_path, 7)
    assert (sft.learning_rate, sft.per_device_train_batch_size, sft.seed) == (5e-5, 1, 7)
    assert (grpo.num_generations, grpo.beta, grpo.epsilon, grpo.temperature) == (8, 0.001, 0.2, 1.1)
    assert (grpo.learning_rate, grpo.max_completion_length, grpo.output_dir) == (3e-7, 2048, str(tmp_path))
    assert lora_config(config.grpo.lora) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1e-5}, "config key grpo.learning_rat: unknown; did you mean 'learning_rate'?"),
        ({"learning_rate": "1e-4"}, "config key grpo.learning_rate: '1e-4' is a string; YAML needs a dot"),
        ({"max_steps": 1.5}, "config key grpo.max_steps: 1.5: input should be a valid integer"),
        ({"max_steps": 6.0}, "config key grpo.max_steps: 6.0: input should be a valid integer"),
        ({"bf16": 1}, "config key grpo.bf16: 1: input should be a valid boolean"),
        ({"loss_type": "nll"}, "config key grpo.loss_type: 'nll': input should be 'grpo', 'dr_grpo'"),
        ({"lora": {"rank": 16}}, "config key grpo.lora.rank: unknown"),
        ({"lora": {"use_dora": True}}, "config key grpo.lora.use_dora: unknown"),  # rollouts support plain LoRA only
        ({"sync_ref_model": True}, "config key grpo.sync_ref_model: unknown"),  # checkpoints lack the reference model
        ({"output_dir": "x"}, "config key grpo.output_dir: unknown"),
        ({"logging_steps": 3}, "config key grpo.save_steps: 10 is not a multiple of logging_steps (3)"),
    ],
)
def test_a_faulty_key_is_named(settings, message):
    """As in a stage that is run by hand: the stage checks its own sections."""
    with pytest.raises(InputError) as error:
        load_sections({"grpo": settings})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_process_that_sees_several_gpus_trains_on_one(tmp_path, monkeypatch):
    """TRL refuses more, since the library's Trainer would wrap the model in nn.DataParallel."""

    def two(settings):
        device = found(settings)
        settings._n_gpu = 2
        return device

    from transformers import TrainingArguments

    found = TrainingArguments._setup_devices.func
    monkeypatch.setattr(TrainingArguments._setup_devices, "func", two)
    assert TrainingArguments(str(tmp_path)).n_gpu == 2
    made = trainer_config(ColdStart(), tmp_path, 0)
    assert (made.n_gpu, made.train_batch_size) == (1, made.per_device_train_batch_size)


def test_what_the_library_refuses_is_one_line(tmp_path):
    message = r"section grpo: generation_batch_size \(8\) must be divisible by num_generations \(3\)"
    with pytest.raises(InputError, match=message) as error:
        trainer_config(Grpo(num_generations=3), tmp_path, 0)
    assert "\n" not in str(error.value)


def test_a_loss_that_the_packed_cold_start_does_not_compute_is_refused():
    with pytest.raises(InputError, match=r"config key cold_start\.loss_type: unknown"):
        load_sections({"cold_start": {"loss_type": "dft"}})


def test_lora_takes_the_librarys_own_names():
    lora = lora_config(Lora(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"]))
    assert (lora.r, lora.lora_alpha, lora.target_modules) == (16, 32, {"q_proj", "v_proj"})
    assert lora_config(None) is None


@pytest.mark.parametrize("section", [ColdStart(), Grpo()])
def test_sharded_weights_are_allowed_but_not_from_loading_on(section, tmp_path, monkeypatch):
    # As set by `accelerate launch`; DeepSpeed itself need not be installed.
    monkeypatch.setattr("accelerate.utils.DeepSpeedPlugin.set_deepspeed_weakref", lambda _: None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    assert trainer_config(section, tmp_path, 0).deepspeed_plugin.zero_stage == 2
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_INIT", "false")
    assert trainer_config(section, tmp_path, 0).deepspeed_plugin.zero_stage == 3
    if isinstance(section, Grpo):
        with pytest.raises(InputError, match=r"grpo\.keep: best needs whole weights"):
            trainer_config(section.model_copy(update={"keep": "best"}), tmp_path, 0)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_INIT", "true")
    with pytest.raises(InputError, match=r"launch\.(grpo|cold_start): zero3_init_flag has to be false"):
        trainer_config(section, tmp_path, 0)


def test_no_run_is_reported_to_the_hub():
    """The library reads the variable when it is imported, early in a stage."""
    code = (
        "import sqlr1.stages.grpo, trl; from huggingface_hub import constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    )
    environment = {name: value for name, value in os.environ.items() if not re.search("TELEMETRY|DO_NOT_TRACK", name)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "True"


def test_vllm_needs_room_for_the_longest_prompt_and_completion(tmp_path):
    (tmp_path / "short.yaml").write_text("grpo: {vllm_max_model_length: 4096}")
    message = "config key grpo.vllm_max_model_length: 4096 tokens do not hold the longest prompt"
    with pytest.raises(InputError, match=message):
        read_config([ROOT / "config.yaml", PAPER, OVERLAYS[0], tmp_path / "short.yaml"])
