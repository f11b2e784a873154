"""Every shipped experiment: its config fits the schema and builds each stage's real trainer configuration."""

import dataclasses
import json
import runpy

import jsonschema
import pytest
import yaml
from conftest import ROOT
from trl import GRPOConfig, SFTConfig

from sqlr1.config import ColdStart, Config, Grpo, Prompt, plain
from sqlr1.config_files import load, read_config
from sqlr1.records import SQL_CLASSES, InputError, read_yaml
from sqlr1.rewards import reward_functions
from sqlr1.sandbox import Limits
from sqlr1.train.trainer_config import lora_config, trainer_config

FOLDER = ROOT / "workflow/config"
SIZES = sorted(FOLDER.glob("paper-*.yaml"))
# Each experiment as it is named on the command line: overlays in layers.
BELOW = {path.stem: FOLDER / "paper.yaml" for path in SIZES} | {"qwen-3b": FOLDER / "qwen-1.5b.yaml"}
EXPERIMENTS = {
    path.stem: [BELOW[path.stem], path] if path.stem in BELOW else [path]
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.stem != "paper"
} | {"embedded": [], "qwen-0.5b-cpu": [FOLDER / f"{name}.yaml" for name in ("spider", "qwen-0.5b", "qwen-0.5b-cpu")]}


def read(name: str) -> Config:
    """The configuration as Snakemake merges it."""
    return read_config([ROOT / "config.yaml", *EXPERIMENTS[name]])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_builds_its_real_configurations(name, tmp_path):
    config = read(name)
    assert config.experiment == name
    cold_start = trainer_config(config.cold_start, tmp_path, seed=0)
    grpo = trainer_config(config.grpo, tmp_path, seed=0)
    assert cold_start.learning_rate == config.cold_start.learning_rate
    assert grpo.num_generations == config.grpo.num_generations
    assert (lora_config(config.grpo.lora) is None) == (config.grpo.lora is None)
    assert list(reward_functions(config.reward, "full")) == ["format", "execution", "result", "length"]
    assert Limits.of(config.execution).seconds == config.execution.seconds


def test_the_paper_settings_need_a_size():
    with pytest.raises(InputError, match=r"config key base_model\.name"):
        read_config([ROOT / "config.yaml", FOLDER / "paper.yaml"])


@pytest.mark.parametrize("overlay", SIZES, ids=lambda p: p.stem)
def test_the_paper_overlays_hold_the_published_settings(overlay, tmp_path):
    config = read(overlay.stem)
    size = overlay.stem.removeprefix("paper-").upper()
    assert config.base_model.name == f"Qwen/Qwen2.5-Coder-{size}-Instruct"
    assert config.grpo.dynamic_sampling is None
    assert not any((config.grpo.constrained, config.candidates.constrained))
    grpo = trainer_config(config.grpo, tmp_path, seed=0)
    published = {
        "num_generations": 8, "learning_rate": 3.0e-7, "lr_scheduler_type": "constant",
        "warmup_steps": 0, "epsilon": 0.2, "beta": 0.001, "entropy_coef": 0.001,
        "temperature": 1.1, "max_completion_length": 2048, "num_iterations": 1, "max_grad_norm": 1.0,
        "scale_rewards": "group", "num_train_epochs": 10, "save_steps": 100,
    }  # fmt: skip
    assert {name: getattr(grpo, name) for name in published} == published
    assert grpo.loss_type in ("dapo", "bnpo")
    assert not grpo.vllm_importance_sampling_correction
    assert grpo.vllm_max_model_length == config.prompt.max_length + grpo.max_completion_length
    # 8 prompts of 8 completions per step on 8 GPUs.
    assert grpo.per_device_train_batch_size * 8 * grpo.gradient_accumulation_steps == 8 * 8
    assert config.cold_start.max_row_length == grpo.vllm_max_model_length  # what memory is planned for
    cold_start = trainer_config(config.cold_start, tmp_path, seed=0)
    assert (cold_start.learning_rate, cold_start.per_device_train_batch_size) == (5.0e-5, 1)
    assert cold_start.save_steps == 1000  # of 25,000: a checkpoint of 7B is 120 GB
    assert config.cold_start.dtype == config.grpo.dtype == "bfloat16"  # as on the GPUs
    assert plain(config.prompt) == plain(Prompt(schema="ddl", example_values=2, max_length=4096))
    assert config.filter.rl_classes == ["Complex"]
    assert len(set(config.filter.classes.values())) == 1  # SynSQL-200K: 50,000 of each class
    assert config.grpo.validation.every == 500  # of 5,000 steps: 4,000 questions ten times, eight per step
    # The filter drops rows: more are drawn than the 50,000 of each class and 5,000 of class Complex to keep.
    (drawn,) = (entry.classes for entry in config.synthesize.mix)
    assert all(drawn[name] >= 1.5 * (55000 if name == "Complex" else 50000) for name in SQL_CLASSES)
    answers = config.candidates
    assert (answers.n, answers.temperature, answers.max_new_tokens) == (8, 0.8, 2048)


@pytest.mark.parametrize("overlay", SIZES, ids=lambda p: p.stem)
def test_the_paper_overlays_launch_by_files_that_accelerate_reads(overlay):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    gpus = yaml.safe_load((ROOT / "profiles/8gpu/config.yaml").read_text())["set-resources"]
    for stage, command in plain(read(overlay.stem).launch).items():
        program, verb, *flags = command.split()
        assert (program, verb) == ("accelerate", "launch")
        several = ["--num_machines", "2", "--num_processes", "16", "--machine_rank", "1", "--main_process_ip", "node0"]
        args = launch_command_parser().parse_args([*flags, *several, "-m", f"sqlr1.stages.{stage}"])
        assert (args.num_machines, args.training_script) == (2, f"sqlr1.stages.{stage}")
        launched = load_config_from_file(str(ROOT / args.config_file))
        assert launched.distributed_type == "DEEPSPEED"
        assert launched.deepspeed_config["zero_stage"] == 2
        assert f"{stage}:gpu={launched.num_processes}" in gpus


@pytest.mark.parametrize("size", ["0.5b", "1.5b", "3b"])
def test_the_overlays_for_one_gpu_train_an_adapter_of_their_size(size):
    config = read(f"qwen-{size}")
    assert config.base_model.name == f"Qwen/Qwen2.5-Coder-{size.upper()}-Instruct"
    assert config.cold_start.lora
    assert config.grpo.lora
    assert not config.grpo.use_vllm
    assert (config.launch.cold_start, config.launch.grpo) == ("python", "python")
    # Whole groups in each pass, 64 rollouts per step.
    assert config.grpo.per_device_train_batch_size % config.grpo.num_generations == 0
    assert config.grpo.per_device_train_batch_size * config.grpo.gradient_accumulation_steps == 64


@pytest.mark.parametrize("name", ["spider", "reasoning", "qwen-0.5b-cpu"])
def test_measured_overlays_keep_their_schedule_and_comparison(name):
    """README and docs/results.md have their numbers: what config.yaml changed since must not reach them."""
    config = read(name)
    found = (config.reward.semantics, config.grpo.lr_scheduler_type, config.grpo.warmup_steps)
    assert found == ("spider", "cosine", 0)


def test_what_is_generated_from_the_configuration_is_up_to_date():
    generated = runpy.run_path(str(ROOT / "workflow/schemas/generate.py"))
    assert json.loads(generated["SCHEMA"].read_text()) == generated["schema"](), "run `make schema`"
    assert generated["REFERENCE"].read_text() == generated["reference"](), "run `make schema`"


def test_the_reference_has_each_key_of_each_section():
    page = (ROOT / "docs/configuration.md").read_text()
    sections = Config.model_json_schema()["$defs"]
    keys = {key for section in sections.values() for key in section.get("properties", {})}
    assert {"same_databases", "retrieved_values"} <= keys
    assert not [key for key in keys if f"| `{key}` |" not in page]


@pytest.mark.parametrize("overlays", [["paper-7b"], ["qwen-0.5b-cpu"], ["spider", "qwen-0.5b-cpu"]])
def test_an_overlay_without_the_one_before_it_is_refused(overlays):
    with pytest.raises(InputError, match="name the overlay that comes before this one"):
        read_config([ROOT / "config.yaml", *(FOLDER / f"{name}.yaml" for name in overlays)])


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *sorted(FOLDER.glob("*.yaml"))], ids=lambda p: p.stem)
def test_the_schema_that_editors_read_accepts_every_file(path):
    schema = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_the_defaults_of_the_trainers_keys_are_the_libraries_own():
    """Where they differ on purpose: no checkpointed gradients, a log row per step, more frequent checkpoints."""
    ours = {"gradient_checkpointing", "logging_steps", "save_steps"}
    for section, library in ((ColdStart, SFTConfig), (Grpo, GRPOConfig)):
        defaults = {field.name: field.default for field in dataclasses.fields(library)}
        for name, field in section.model_fields.items():
            if name in defaults and name not in ours:
                assert field.default == defaults[name], name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"styles": {"formal": 0.0}}, "synthesize.styles: no style has a share above 0"),
        ({"styles": {"shouting": 1.0}}, "synthesize.styles.shouting: 'shouting': input should be 'interrogative'"),
        (
            {"llm": {"base_url": "u", "model": "m", "reasoning_samples": 2}},
            "synthesize.llm.reasoning_samples: 2 samples are too few for a vote: at least 3 have to run",
        ),
    ],
)
def test_what_cannot_be_synthesized_is_named(asked, message):
    with pytest.raises(InputError, match=message):
        load({"experiment": "x", "synthesize": asked})


def test_the_conda_environments_hold_the_one_list_of_dependencies():
    namespace: dict = {"__file__": str(ROOT / "envs/generate.py"), "__name__": "generate"}
    exec((ROOT / "envs/generate.py").read_text(), namespace)
    assert (ROOT / "envs/sqlr1.yaml").read_text() == namespace["environment"](), "run `make lock`"
    assert (ROOT / "envs/gpu.yaml").read_text() == namespace["environment"]("gpu"), "run `make lock`"
    assert "vllm>=" in namespace["environment"]("gpu")


def test_constraints_pin_every_dependency():
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in wanted}
    assert names <= pinned, f"run `make lock`: {sorted(names - pinned)}"


def test_paths_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere/ann")
    config = read_yaml(ROOT / "config.yaml") | {"data": {"root": "~/x"}}
    config["synthesize"]["folders"] = [{"databases": "~/dbs"}]
    found = load(config)
    assert (found.data.root, found.synthesize.folders[0].databases) == ("/somewhere/ann/x", "/somewhere/ann/dbs")
