"""Every shipped experiment: its config fits the schema and builds each stage's real trainer configuration."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from snakemake.utils import update_config
from trl import SFTConfig

from sqlgen.styles import STYLES
from sqlr1 import configuration
from sqlr1.records import SQL_CLASSES, InputError
from sqlr1.rewards import reward_functions
from sqlr1.sandbox import Limits
from sqlr1.schema import SCHEMA
from sqlr1.train.trainer_config import grpo_config, lora_config, sft_config

OVERLAYS = sorted((ROOT / "workflow/config").glob("*.yaml"))
PAPER = [path for path in OVERLAYS if path.stem.startswith("paper")]


def load(overlay: Path | None) -> dict:
    """The configuration as Snakemake merges it."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    if overlay:
        update_config(config, yaml.safe_load(overlay.read_text()))
    return config


def sft(config: dict, folder: Path) -> SFTConfig:
    """What the cold start trains with; the strategy is an argument of its stage."""
    return sft_config({key: value for key, value in config["cold_start"].items() if key != "strategy"}, folder, seed=0)


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda p: p.stem if p else "default")
def test_an_experiment_builds_its_real_configurations(overlay, tmp_path):
    config = load(overlay)
    configuration.check(config)
    assert config["experiment"] == (overlay.stem if overlay else "embedded")
    cold_start = sft(config, tmp_path)
    grpo = grpo_config(config["grpo"], tmp_path, seed=0)
    assert cold_start.learning_rate == config["cold_start"]["learning_rate"]
    assert grpo.num_generations == config["grpo"]["num_generations"]
    assert (lora_config(config["grpo"]) is None) == (config["grpo"].get("lora") is None)
    assert list(reward_functions(config["reward"])) == ["format", "execution", "result", "length"]
    assert Limits(**config["execution"]).seconds == config["execution"]["seconds"]


@pytest.mark.parametrize("overlay", PAPER, ids=lambda p: p.stem)
def test_the_paper_overlays_hold_the_published_settings(overlay, tmp_path):
    config = load(overlay)
    size = overlay.stem.removeprefix("paper-").upper()
    assert config["base_model"]["name"] == f"Qwen/Qwen2.5-Coder-{size}-Instruct"
    grpo = grpo_config(config["grpo"], tmp_path, seed=0)
    published = {
        "num_generations": 8, "learning_rate": 3.0e-7, "lr_scheduler_type": "constant", "epsilon": 0.2, "beta": 0.001,
        "entropy_coef": 0.001,
        "temperature": 1.1, "max_completion_length": 2048, "num_iterations": 1, "max_grad_norm": 1.0,
        "scale_rewards": "group", "num_train_epochs": 10, "save_steps": 100,
    }  # fmt: skip
    assert {name: getattr(grpo, name) for name in published} == published
    assert grpo.loss_type in ("dapo", "bnpo")
    # 8 prompts of 8 completions a step on 8 accelerators.
    assert grpo.per_device_train_batch_size * 8 * grpo.gradient_accumulation_steps == 8 * 8
    cold_start = sft(config, tmp_path)
    assert (cold_start.learning_rate, cold_start.per_device_train_batch_size) == (5.0e-5, 1)
    assert cold_start.save_steps == 1000  # of 25,000: a checkpoint of 7B is 120 GB
    assert config["cold_start"]["dtype"] == config["grpo"]["dtype"] == "bfloat16"  # as on the devices
    assert config["prompt"] == {"schema": "ddl", "example_values": 2, "max_length": 4096}
    assert config["filter"]["rl_classes"] == ["Complex"]
    assert len(set(config["filter"]["classes"].values())) == 1  # SynSQL-200K: 50,000 of each class
    assert config["grpo"]["validation"]["every"] == 500  # of 5,000 steps: 4,000 questions ten times, eight a step
    # The filter drops rows: more are drawn than the 50,000 of each class and 5,000 of class Complex that shall be left.
    (drawn,) = (entry["classes"] for entry in config["synthesize"]["mix"])
    assert all(drawn[name] >= 1.5 * (55000 if name == "Complex" else 50000) for name in SQL_CLASSES)
    assert {name: config["candidates"][name] for name in ("n", "temperature", "max_new_tokens")} == {
        "n": 8, "temperature": 0.8, "max_new_tokens": 2048,
    }  # fmt: skip


@pytest.mark.parametrize("overlay", PAPER, ids=lambda p: p.stem)
def test_the_paper_overlays_launch_by_files_that_accelerate_reads(overlay):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load(overlay)
    for stage in ("cold_start", "grpo"):
        program, verb, *flags = config["launch"][stage].split()
        assert (program, verb) == ("accelerate", "launch")
        several = ["--num_machines", "2", "--num_processes", "16", "--machine_rank", "1", "--main_process_ip", "node0"]
        args = launch_command_parser().parse_args([*flags, *several, "-m", f"sqlr1.stages.{stage}"])
        assert (args.num_machines, args.training_script) == (2, f"sqlr1.stages.{stage}")
        launched = load_config_from_file(str(ROOT / args.config_file))
        assert launched.distributed_type == "DEEPSPEED"
        assert launched.deepspeed_config["zero_stage"] == 2
        assert launched.num_processes == config["resources"][stage]["gpu"]


def test_the_schema_knows_the_styles_of_questions():
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    assert schema["properties"]["synthesize"]["properties"]["styles"]["propertyNames"]["enum"] == list(STYLES)


@pytest.mark.parametrize(
    ("styles", "message"),
    [({"formal": 0}, "synthesize.styles: no style has a share above 0"), ({"shouting": 1}, "'shouting' is not one of")],
)
def test_styles_that_cannot_be_met_are_named(styles, message):
    config = load(None)
    config["synthesize"]["styles"] = styles
    with pytest.raises(InputError, match=message):
        configuration.check(config)


def test_the_conda_environment_holds_the_one_list_of_dependencies():
    namespace: dict = {"__file__": str(ROOT / "envs/generate.py"), "__name__": "generate"}
    exec((ROOT / "envs/generate.py").read_text(), namespace)
    assert (ROOT / "envs/sqlr1.yaml").read_text() == namespace["environment"](), "run `make lock`"


def test_constraints_pin_every_dependency():
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in wanted}
    assert names <= pinned, f"run `make lock`: {sorted(names - pinned)}"
