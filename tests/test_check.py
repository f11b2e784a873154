"""`sqlr1 check`: what it finds before an experiment runs, and one batch of each stage."""

import json
import shutil
import sqlite3
from collections import namedtuple

import pytest
import yaml
from conftest import ROOT
from tiny_models import smollm2, tiny_folder

from sqlr1 import check_batches, check_command, cli
from sqlr1.check_command import NotCheckedError, Preflight
from sqlr1.config_files import read_config
from sqlr1.plan import Cost
from sqlr1.records import InputError

# A model of bytes reads 2,048 tokens; the instruction alone has a hundred.
SMALL = {
    "experiment": "small",
    "prompt": {"max_length": 300},
    "cold_start": {"max_row_length": 350, "threads": 1},
    "grpo": {"max_completion_length": 12, "gradient_accumulation_steps": 1, "beta": 0.01, "lora": None, "threads": 1},
    "candidates": {"max_new_tokens": 12, "threads": 1},
    "benchmarks": {"spider_dev": None, "bird_dev": None},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the configuration, without data."""
    shutil.copy2(ROOT / "config.yaml", tmp_path)
    shutil.copytree(ROOT / "workflow/config", tmp_path / "workflow/config")
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SQLR1_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def check(capsys, *files, problems=(), seconds="0", more=()):
    """Run the command; returns its lines by what was checked, and compares the problems that it names at the end."""
    arguments = ["check", "--seconds", seconds, *more, "--configfile", *map(str, files)]
    if problems:
        with pytest.raises(SystemExit, match=f"^error: {len(problems)} problems: {', '.join(problems)}$"):
            cli.main(arguments)
    else:
        cli.main(arguments)
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    return {rest.partition(":")[0]: (word, rest.partition(": ")[2]) for word, rest in lines}


def overlay(folder, **changed):
    model = {"source": "path", "name": str(tiny_folder(folder / "tiny")), "file": "", "sha256": ""}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"base_model": model} | changed))
    return path


# Two processes on the CPU, as in the tests of training.
TWO = "python -m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
TWO += "--dynamo_backend no --main_process_port 0"


@pytest.mark.slow
def test_a_batch_of_each_stage_runs_as_it_is_launched_and_nothing_is_kept(folder, capsys, monkeypatch):
    """Some 40 s: six processes, each of which imports torch and trl."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = check(capsys, overlay(folder, launch={"cold_start": "python", "grpo": TWO}), seconds="900")
    assert {word for word, _ in found.values()} == {"ok"}
    assert found["cold_start, one batch"][1].startswith("an optimiser step over 8 rows of 350 tokens, ")
    batch = "an optimiser step over 4 prompts with 8 completions, 299 + 12 tokens each, "  # a word is two bytes
    assert found["grpo, one batch"][1].startswith(batch)
    assert found["candidates, one batch"][1].startswith("2 answers to a prompt of 299 tokens by transformers, ")
    assert list((folder / "results").iterdir()) == []


def test_answers_under_masks_are_tried_under_them(folder, monkeypatch):
    config = read_config(
        [folder / "config.yaml", overlay(folder, candidates=SMALL["candidates"] | {"constrained": True})]
    )
    assert check_batches.candidates(config, folder / "tiny", folder).startswith("2 answers to a prompt of ")
    monkeypatch.setattr("sqlr1.model.answers.why_not_shared", lambda model: "its layers are recurrent")
    with pytest.raises(InputError, match=r"no masks for this model \(its layers are recurrent\): set candidates"):
        check_batches.candidates(config, folder / "tiny", folder)


@pytest.mark.slow
def test_smoke_passes(folder, capsys):
    """A minute: the real model, and the lengths of the experiment."""
    model = {"source": "path", "name": str(smollm2()), "file": "", "sha256": ""}
    (folder / "here.yaml").write_text(yaml.safe_dump({"base_model": model}))
    found = check(capsys, "workflow/config/smoke.yaml", "here.yaml", seconds="600")
    assert {word for word, _ in found.values()} == {"ok"}


def test_the_published_run_without_data_gpus_and_network_is_a_list_of_problems(folder, capsys, monkeypatch):
    """Some 15 s: libraries are imported, and the plan makes models without weights."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("psutil.virtual_memory", lambda: namedtuple("Memory", "total")(500_000_000_000))
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Disk", "free")(50_000_000_000))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "torch" else None)
    files = [f"workflow/config/{name}.yaml" for name in ("paper", "paper-7b")]
    broken = ["synthesize.mix 0", "benchmark spider_dev", "benchmark bird_dev", "library deepspeed", "library vllm"]
    broken += ["base model", "disk", "devices", "profile"]
    named = [name + r" \(synsql\)" * (name == "synthesize.mix 0") for name in broken]
    found = check(capsys, *files, problems=named, seconds="300", more=("--workflow-profile", "profiles/8gpu"))
    lines = {name.removesuffix(" (synsql)"): line for name, line in found.items()}
    assert {name for name, (word, _) in lines.items() if word == "problem"} == set(broken)
    assert "run `snakemake base_model" in lines["base model"][1]
    assert "0 GPUs, but cold_start is launched with 8 processes" in lines["devices"][1]
    assert "50 GB free; checkpoints of one run and all models take 411" in lines["disk"][1]
    assert "grpo:mem_mb is more than the 500,000 MB here" in lines["profile"][1]
    assert "pip install -e '.[gpu]'" in lines["library vllm"][1]
    assert lines["benchmark spider_test"][0] == lines["grpo, one batch"][0] == "skipped"


def test_a_missing_database_and_one_that_is_none_are_named(folder, capsys):
    (folder / "data/db/pets").mkdir(parents=True)
    asked = [{"db_id": name, "question": "?", "query": "SELECT 1"} for name in ("pets", "gone", "gone")]
    (folder / "data/dev.json").write_text(json.dumps(asked))
    with sqlite3.connect(folder / "data/db/pets/pets.sqlite") as connection:
        connection.execute("CREATE TABLE pet (name)")
    entry = {"layout": "spider", "questions": "{data}/dev.json", "databases": "{data}/db"}
    file = overlay(folder, benchmarks=SMALL["benchmarks"] | {"own": entry})
    words = "3 questions over 1 databases; 2 questions without a database are left out: gone"
    assert check(capsys, file)["benchmark own"] == ("ok", words)
    (folder / "data/db/pets/pets.sqlite").write_text("version https://git-lfs.github.com/spec/v1")
    (folder / "data/dev.json").write_text(json.dumps(asked[:1]))
    assert "not a SQLite database" in check(capsys, file, problems=["benchmark own"])["benchmark own"][1]


def test_too_little_disk(folder, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Disk", "free")(100_000))
    assert check(capsys, overlay(folder), problems=["disk"])["disk"][1].endswith("link results to a larger disk")


def test_results_that_cannot_be_written(folder, capsys):
    (folder / "results").write_text("a file in place of the folder")
    found = check(capsys, overlay(folder), problems=["results"])
    assert "files cannot be written and locked here" in found["results"][1]


def test_sqlite_on_a_network_disk_is_refused(folder, capsys, monkeypatch):
    part = namedtuple("Partition", "mountpoint fstype")
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [part("/", "ext4"), part(str(folder), "nfs4")])
    found = check(capsys, overlay(folder), problems=["results"])
    assert "is on nfs4, where SQLite is not safe: set MLFLOW_TRACKING_URI" in found["results"][1]


def test_a_tracking_server_that_does_not_answer(folder, capsys, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "http://ann:secret@127.0.0.1:9")
    found = check(capsys, overlay(folder), problems=["MLflow"])
    assert "secret" not in found["MLflow"][1]
    assert "http://127.0.0.1:9 (MLFLOW_TRACKING_URI) does not answer" in found["MLflow"][1]


def test_schemas_longer_than_prompts_may_be(folder, capsys):
    for name, columns in (("small", 1), ("wide", 50)):
        with sqlite3.connect(folder / f"{name}.sqlite") as connection:
            connection.execute(f"CREATE TABLE t ({', '.join(f'column_{n}' for n in range(columns))})")
        connection.close()

    def checked(path, *problems):
        entry = {"databases": str(path)}
        return check(capsys, overlay(folder, synthesize={"folders": [entry]}), problems=problems)["prompts"][1]

    assert checked(folder) == "1 of 2 schemas are over prompt.max_length (300 tokens)"
    assert checked(folder / "wide.sqlite", "prompts").endswith("raise it, or set prompt.linking to fit")


def test_prompts_too_long_for_the_model(folder, capsys):
    found = check(capsys, overlay(folder, prompt={"max_length": 2040}), problems=["base model"])
    longest = "prompts of 2040 tokens (prompt.max_length) and answers of 12 (grpo.max_completion_length) are longer"
    assert longest in found["base model"][1]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'OutOfMemoryError: CUDA out of memory.' > $5/error; exit 1", "CUDA out of memory.; lower per_device"),
        ("kill -9 $$", "killed, as when main memory runs out; lower per_device_train_batch_size"),
        (
            "echo 'traceback : Signal 9 (SIGKILL) received' >&2; echo ==== >&2; exit 1",
            "killed, as when main memory runs",
        ),
        ("echo 'nccl: no such device' >&2; exit 3", "nccl: no such device (--verbose shows more)"),
        ("sleep 60", "not done after 1 s: give it more --seconds"),
    ],
)
def test_a_batch_that_fails_is_one_line(folder, script, message):
    """The launcher is at fault here: there is no GPU to fill."""
    (folder / "launch.sh").write_text(script)
    command = ["sh", "launch.sh", "-m", "sqlr1.check_batches", "grpo", "model", str(folder), "config.yaml"]
    with pytest.raises(InputError) as caught:
        check_command._batch(command, 1 if "sleep" in script else 60, verbose=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value).strip()
    with pytest.raises(NotCheckedError, match="no time is left"):
        check_command._batch(command, -1, verbose=False)


@pytest.mark.parametrize(
    ("resources", "word"),
    [
        ({"grpo": {"gpu": 2, "mem_mb": 10}}, "ok"),
        (["grpo:gpu=2", "grpo:mem_mb=10"], "ok"),
        (["grpo:gpu=2", "grpo:mem_mb=attempt * 8000"], "skipped"),
        (["grpo:gpu=1"], "problem"),
        (["grpo:gpu"], "problem"),
        ([{"grpo": "gpu=2"}], "problem"),
        ({"grpo": "gpu=2"}, "problem"),
        ("grpo:gpu=2", "ok"),
        (["gpu=2"], "problem"),
    ],
)
def test_profiles_are_read_as_snakemake_reads_them(resources, word, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(json.dumps({"set-resources": resources}))
    preflight = Preflight(
        read_config([ROOT / "config.yaml"]), tmp_path, tmp_path, costs=[Cost("grpo", 1, 2, 1, 1, 1, 1)]
    )
    preflight("profile", preflight.of_profile)
    assert capsys.readouterr().out.startswith(word)
