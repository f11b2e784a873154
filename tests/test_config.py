"""Faulty configurations: one clear line for each fault, which names the key, when the configuration is read."""

import pytest
from conftest import ROOT
from snakemake.utils import update_config

from sqlr1.config_files import load
from sqlr1.records import InputError, read_yaml


@pytest.fixture
def config():
    return read_yaml(ROOT / "config.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("grpo", "learning_rat", 1e-5, "config key grpo.learning_rat: unknown; did you mean 'learning_rate'?"),
        ("grpo", "learning_rate", "1e-4", "config key grpo.learning_rate: '1e-4' is a string; YAML needs a dot"),
        ("candidates", "temperature", -1, "config key candidates.temperature: -1: input should be greater than or"),
        ("cold_start", "strategy", "sft", "config key cold_start.strategy: 'sft': input should be 'none', 'sql_only'"),
        ("prompt", "max_length", "long", "config key prompt.max_length: 'long': input should be a valid integer"),
        ("cold_start", "max_steps", 0, "config key cold_start.max_steps: must not be 0"),
        ("grpo", "learning_rate", float("nan"), "config key grpo.learning_rate: nan is not a finite number"),
        ("grpo", "num_generations", 5, "config key grpo.num_generations: 5 does not divide the 64 completions"),
        ("grpo", "num_iterations", 12, "config key grpo.num_iterations: save_steps (6) is not a multiple of 12"),
        (
            "grpo",
            "lora",
            {"target_modules": []},
            "config key grpo.lora.target_modules: []: value should have at least 1",
        ),
        ("grpo", "use_vllm", True, "config key grpo.constrained: set it to false: with use_vllm: true, vLLM draws"),
        ("grpo", "shared_prompt", False, "grpo.constrained: set it to false: with shared_prompt: false, TRL draws"),
        ("grpo", "lr_scheduler_type", "constant", "config key grpo.warmup_steps: the schedule `constant` has no"),
        ("grpo", "max_steps", 1, "config key grpo.warmup_steps: a warm-up of 1 of 1 steps never reaches learning_rate"),
        ("grpo", "warmup_steps", 12, "grpo.warmup_steps: a warm-up of 12 of 12 steps never reaches learning_rate"),
        ("filter", "rl_rows", 7, "config key filter.rl_rows: 7 are fewer than the 8 questions of a step"),
        ("filter", "rl_classes", ["Complex"], "filter.rl_classes: ['Complex'] has no weight above 0 in filter.classes"),
        (
            "filter",
            "rules",
            {"contamination": 0.0},
            "config key filter.rules.contamination: 0.0: input should be greater",
        ),
        ("select", "n", 1, "config key select.rows: no pass rate of 1 samples is from 0.01 to 0.99: raise n"),
        ("reward", "result", {"right": -3, "wrong": 3}, "config key reward.result.wrong: 3.0 is above right (-3.0)"),
        ("synthesize", "questions", 0, "config key synthesize.questions: nothing to train on"),
        ("synthesize", "domains", [], "config key synthesize.questions: 1500 need domains"),
        ("synthesize", "folder_questions", 9, "config key synthesize.folder_questions: 9 need databases"),
        ("grpo", "scale_rewards", "batch", "config key grpo.dynamic_sampling: set refill_rounds to 0: grpo.scale"),
        ("select", "low", 0.995, "config key select.high: 0.99 is below select.low, 0.995"),
        (
            "synthesize",
            "domains",
            ["bookshp"],
            "synthesize.domains.bookshp: unknown; did you mean 'bookshop'?",
        ),
        ("synthesize", "held_out_domains", ["clinic"], "config key synthesize.held_out_domains: clinic is also in"),
        ("synthesize", "classes", {"Simple": 0.0}, "config key synthesize.classes: no class has a share above 0"),
        ("synthesize", "held_out_domains", [], "config key benchmarks.built_in: has no questions: see synthesize.held"),
        # As from the command line: --config 'grpo={beta: 0.1}'
        ("grpo", "beta", "0.1", "config key grpo.beta: '0.1' is text: remove its quotes; a value within"),
        ("cold_start", "lora", "null", "config key cold_start.lora: 'null' is text: remove its quotes"),
        ("launch", "grpo", "", "config key launch.grpo: '': string should have at least 1 character"),
    ],
)
def test_a_faulty_config_key_is_named(config, section, key, value, message):
    config[section][key] = value
    with pytest.raises(InputError, match="config key") as error:
        load(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


ZERO3 = {"grpo": "accelerate launch --config_file workflow/config/accelerate/zero3.yaml"}
FIVE = {"num_generations": 5}
FEEDBACK = [{"layout": "feedback", "questions": "q", "databases": "d"}]


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            {"launch": {"grpo": "torchrun --nproc-per-node 3"}, "grpo": FIVE},
            "5 does not divide the 192 completions of a",
        ),
        ({"launch": {"grpo": "torchrun --nproc-per-node 5"}, "grpo": FIVE}, "5 does not divide the 64 of each process"),
        ({"launch": {"grpo": "torchrun --nproc-per-node 5"}, "grpo": {"dynamic_sampling": None, **FIVE}}, None),
        ({"launch": {"grpo": "torchrun --nproc-per-node gpu"}, "grpo": FIVE}, None),
        (
            {"launch": {"grpo": "env OMP_NUM_THREADS=2 python"}, "grpo": FIVE},
            "5 does not divide the 64 completions of a",
        ),
        (
            {"launch": {"grpo": "accelerate launch --config_file no.yaml"}},
            "config key launch.grpo: no.yaml: no such file",
        ),
        ({"launch": {"grpo": "accelerate launch --config_file $HOME/no.yaml"}}, None),
        (
            {"launch": {"cold_start": "srun sh -c 'python"}},
            'config key launch.cold_start: "srun sh -c \'python": no closing quotation',
        ),
        ({"launch": {"grpo": "sh -c 'cd /x && accelerate launch --config_file no.yaml'"}}, None),
        ({"launch": {"grpo": ZERO3["grpo"] + " --zero_stage 2"}}, None),
        (
            {"launch": {"grpo": "accelerate launch --zero_stage=3"}},
            "config key grpo.constrained: set it to false: with",
        ),
        ({"synthesize": {"mix": FEEDBACK}, "filter": {"rl_rows": 7}}, None),
        ({"synthesize": {"mix": FEEDBACK}, "grpo": {"warmup_steps": 12}}, "a warm-up of 12 of 12 steps never"),
        ({"select": {"rows": 96}}, None),
        ({"launch": ZERO3}, "config key grpo.constrained: set it to false: with ZeRO stage 3"),
        ({"launch": ZERO3, "grpo": {"constrained": False, "keep": "best"}}, "config key grpo.keep: best needs whole"),
        ({"launch": ZERO3, "grpo": {"constrained": False}}, None),
        ({"select": {"n": 4, "rows": 7}}, "config key select.rows: 7 are fewer than the 8 questions of a step"),
        ({"select": {"n": 4, "rows": 8}}, None),
        (
            {"select": {"n": 2, "low": 0.6, "high": 0.9}},
            "config key select.rows: no pass rate of 2 samples is from 0.6",
        ),
        (
            {"cold_start": {"gradient_accumulation_steps": 20, "warmup_steps": 0.1}},
            "cold_start.warmup_steps: a warm-up of 1 of 1 steps",
        ),
        (
            {"grpo": {"max_steps": -1, "num_train_epochs": 1, "warmup_steps": 50}},
            "grpo.warmup_steps: a warm-up of 50 of 50 steps",
        ),
        ({"grpo": {"max_steps": -1, "num_train_epochs": 1, "warmup_steps": 49}}, None),
        (
            {"grpo": {"use_vllm": True, "constrained": False, "vllm_tensor_parallel_size": 2}},
            "2 does not divide the number of processes (1",
        ),
        ({"grpo": {"keep": "best", "validation": {"every": 12}}}, "best: only the last of 12 steps is validated"),
        (
            {"grpo": {"keep": "best", "validation": {"every": 9}}},
            "validation.every (9) is not a multiple of save_steps (6)",
        ),
        ({"grpo": {"num_iterations": 4, "save_steps": 100}}, None),  # the only checkpoint is that of the last step
        ({"grpo": {"scale_rewards": "batch", "dynamic_sampling": {"refill_rounds": 0}}}, None),
        ({"grpo": {"vllm_max_model_length": 64}}, None),  # read with use_vllm alone
        ({"candidates": {"n": 8, "temperature": 0.0}}, "config key candidates.temperature: the samples would all be"),
        (
            {"filter": {"rl_classes": ["Complex"], "classes": {"Complex": 1.0}}},
            "['Complex'] has no share above 0 in both",
        ),
        (
            {"benchmarks": {"built_in": {"layout": "bird"}}},
            "config key benchmarks.built_in.layout: bird: what synthesize",
        ),
        (
            {"benchmarks": {"other": {"limit": 500}}},
            "benchmarks.other: layout, questions and databases are missing; if a",
        ),
    ],
)
def test_what_several_keys_make_impossible_is_told(config, monkeypatch, overlay, message):
    """And nothing else is refused (None)."""
    monkeypatch.chdir(ROOT)  # launch names a file relative to it
    update_config(config, overlay)
    if message is None:
        load(config)
        return
    with pytest.raises(InputError) as error:
        load(config)
    assert message in str(error.value)
    assert str(error.value).count("config key") == 1


def test_a_faulty_section_is_reported_once(config):
    """A check of several sections does not take a faulty one's defaults for its values."""
    config["filter"] |= {"test_rows": 100, "rl_row": 5}
    config["benchmarks"]["own"] = {"layout": "spider", "questions": "{results}/filter/test.json", "databases": "x"}
    config["grpo"] |= {"keep": "best", "validation": {"every": 0}}
    with pytest.raises(InputError) as error:
        load(config)
    assert [line.split(":")[0] for line in str(error.value).split("; config key ")] == [
        "config key filter.rl_row", "grpo.validation.every"
    ]  # fmt: skip


def test_a_mixed_in_class_that_does_not_exist_is_named(config):
    config["synthesize"]["mix"] = [{"layout": "spider", "questions": "q", "databases": "d", "classes": {"Smiple": 3}}]
    with pytest.raises(InputError, match=r"config key synthesize\.mix\.0\.classes\.Smiple: 'Smiple': input should be"):
        load(config)


def test_a_mixed_in_limit_beside_classes_is_refused(config):
    config["synthesize"]["mix"] = [{"questions": "q", "databases": "d", "limit": 100, "classes": {"Simple": 5000}}]
    config["synthesize"]["mix"][0]["layout"] = "synsql"
    with pytest.raises(
        InputError, match=r"config key synthesize\.mix\.0\.classes: .*already say how many.*remove limit"
    ):
        load(config)


def test_all_faulty_keys_are_named_at_once(config):
    config["grpo"] |= {"learning_rat": 1, "beta": -1}
    config["select"]["low"] = 2
    config["colour"] = "red"
    del config["experiment"]
    with pytest.raises(InputError) as error:
        load(config)
    lines = str(error.value).split("; config key ")
    assert [line.removeprefix("config key ").split(":")[0] for line in lines] == [
        "experiment", "select.low", "grpo.beta", "grpo.learning_rat", "colour",
    ]  # fmt: skip
