"""Feedback on answers: given in `sqlr1 ask`, kept in a file, mixed into training, and what it changes."""

import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import copy_checkout, snakemake
from mlflow import MlflowClient
from tiny_stages import prepare, teach

from sqlr1.ask import _lines, feedback_file
from sqlr1.cli import main
from sqlr1.data.feedback import append
from sqlr1.data.readers import read_questions
from sqlr1.model.answers import SamplerBackend
from sqlr1.records import Feedback, InputError, Question, read_json, read_jsonl, read_records, sha256, write_json
from sqlr1.report.data_tables import funnel_markdown
from sqlr1.stages import cold_start, filter, synthesize

DATABASE = "databases/pets/pets.sqlite"
GIVEN = Feedback("How many?", "", f"{{data}}/{DATABASE}", "pets", "SELECT 2", "right", "", "", "")

# Questions that the taught model, which only counts pets older than a number, answers wrong.
CORRECTED = {
    "What is the name of the oldest pet?": "SELECT name FROM pet ORDER BY age DESC LIMIT 1",
    "Give me the names of all pets.": "SELECT name FROM pet",
    "What is the average age?": "SELECT avg(age) FROM pet",
    "Show everything about Rex.": "SELECT * FROM pet WHERE name = 'Rex'",
    "Which age does Ada have?": "SELECT age FROM pet WHERE name = 'Ada'",
    "What is the sum of the ages?": "SELECT sum(age) FROM pet",
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A tiny model that was taught one kind of question, and its database."""
    folder = tmp_path_factory.mktemp("taught")
    prepare(folder)
    teach(folder)
    return folder


@pytest.fixture
def ask(taught, monkeypatch, capsys):
    """Run `sqlr1 ask` on the taught model, with lines as its input; returns its answers and its messages."""
    monkeypatch.chdir(taught)
    monkeypatch.setenv("SQLR1_DATA", str(taught))
    (taught / "base/feedback.jsonl").unlink(missing_ok=True)

    def run(*arguments, lines=(), model="base/model"):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        capsys.readouterr()
        main(["ask", DATABASE, *arguments, "--model", str(model), "--max-new-tokens", "128", "--json"])
        captured = capsys.readouterr()
        return [json.loads(line) for line in captured.out.splitlines()], captured.err

    return run


def lines_of(path):
    return [row for _, row in read_jsonl(path)]


def test_corrected_answers_are_right_after_the_next_training(ask, taught, tmp_path):
    """The loop: asked, answered wrong, corrected, mixed in, trained, asked again.

    With the taught model 50 s on two busy cores: it trains twice.
    """
    before, _ = ask(lines=[line for question, sql in CORRECTED.items() for line in (question, f":sql {sql}")])
    assert [answer["question"] for answer in before] == list(CORRECTED)
    mix = [{"layout": "feedback", "questions": "{data}/base/feedback.jsonl", "databases": "{data}/databases"}]
    made = {"synthesize": {"held_out_domains": ["zoo"], "benchmark_questions": 1, "mix": mix}, "execution": {}}
    synthesize.main(["--settings", json.dumps(made), "--out", f"{tmp_path}/synthesize"])
    assert str(taught / "base/feedback.jsonl") in read_json(tmp_path / "synthesize/manifest.json")["inputs"]
    data = ["--catalogue", f"{tmp_path}/synthesize/catalogue.jsonl"]
    sizes = {"filter": {"cold_start_rows": 99, "rl_rows": 1, "validation_rows": 1}, "execution": {}}
    questions = ["--questions", f"{tmp_path}/synthesize/questions.jsonl"]
    filter.main(["--settings", json.dumps(sizes), *data, *questions, "--out", f"{tmp_path}/filter"])
    kept = read_records(tmp_path / "filter/cold_start.jsonl", Question)
    assert len(kept) >= 4
    training = {"learning_rate": 3e-3, "max_steps": 100, "save_steps": 100, "threads": 1}
    training = {"prompt": {"max_length": 400}, "cold_start": training | {"per_device_train_batch_size": 4}}
    model = ["--model-manifest", "base/manifest.json", "--strategy", "sql_only", "--out", f"{tmp_path}/trained"]
    questions = ["--questions", f"{tmp_path}/filter/cold_start.jsonl"]
    cold_start.main(["--settings", json.dumps(training), *data, *questions, *model])
    after, _ = ask(lines=[row.question for row in kept], model=tmp_path / "trained/model")
    wrong = {answer["question"]: answer["sql"] for answer in before}
    assert all(wrong[row.question] != row.sql for row in kept)
    assert [answer["sql"] for answer in after] == [row.sql for row in kept]


def test_a_line_says_what_was_asked_answered_and_meant(ask, taught):
    [answer], told = ask("How many pets are older than 3?", "--feedback", "right")
    assert told.splitlines() == [f"base/model on {DATABASE}", f"noted in {taught}/base/feedback.jsonl"]
    ask("How many pets?", "--evidence", "age is in years", "--correct", " SELECT count(*) FROM pet")
    first, second = lines_of(taught / "base/feedback.jsonl")
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "question": "How many pets are older than 3?",
        "evidence": "",
        "database": f"{{data}}/{DATABASE}",
        "db_id": "pets",
        "sql": answer["sql"],
        "verdict": "right",
        "corrected": "",
        "model": sha256(taught / "base/model/model.safetensors"),
    }
    assert (second["verdict"], second["corrected"]) == ("corrected", "SELECT count(*) FROM pet")
    assert second["evidence"] == "age is in years"
    assert "noted in base/feedback.jsonl" in told or f"noted in {taught}/base/feedback.jsonl" in told


def test_a_policy_is_asked_under_masks_if_it_was_trained_under_them_or_on_request(ask, taught, monkeypatch):
    shutil.copytree("base", "masked")
    manifest = read_json(Path("masked/manifest.json"))
    write_json(Path("masked/manifest.json"), manifest | {"settings": {"grpo": {"constrained": True}}})
    under, complete = [], SamplerBackend.complete

    def noting(self, prompts, seeds, sampling, databases=None):
        under.append(databases)
        return complete(self, prompts, seeds, sampling, databases)

    monkeypatch.setattr(SamplerBackend, "complete", noting)
    for model in ("base/model", "masked/model"):
        for arguments in ([], ["--constrained"], ["--no-constrained"]):
            ask("How many pets are older than 3?", *arguments, model=model)
    masks = [Path(DATABASE)]
    assert under == [None, masks, None, masks, masks, None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([":right"], ":right: there is no answer yet"),
        (["How many pets are older than 3?", ":nonsense"], ":nonsense: expected :right, :wrong or :sql SELECT"),
        (["How many pets are older than 3?", ":sql"], ":sql: expected :right, :wrong or :sql SELECT"),
        (["How many pets are older than 3?", ":sql SELECT nope FROM pet"], "no such column: nope"),
        (["How many pets are older than 3?", ":sql DROP TABLE pet"], "the SQL does not run: "),
        (["How many \udcff?", ":right"], "the question or the evidence is not UTF-8 text"),
    ],
)
def test_feedback_that_cannot_be_is_refused(ask, taught, lines, message):
    _, told = ask(lines=lines)
    assert message in told
    assert not (taught / "base/feedback.jsonl").exists()


def test_a_line_that_is_not_utf8_leaves_the_others(monkeypatch):
    """Where Python reads strictly, as with PYTHONIOENCODING=utf-8:strict."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"How many \xff?\nHow many?\n"), "utf-8"))
    assert list(_lines()) == ["How many \udcff?", "How many?"]


def test_a_history_that_cannot_be_kept_costs_a_warning(tmp_path, monkeypatch, capsys):
    """As in a container whose home folder may not be written to; here it is a folder of that name."""
    monkeypatch.setattr("sqlr1.ask._HISTORY", tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: "How many?")
    lines = _lines()
    assert next(lines) == "How many?"
    lines.close()
    told = capsys.readouterr().err
    assert f"warning: {tmp_path}: no history (" in told
    assert f"warning: {tmp_path}: the history is not kept (" in told


def test_a_script_gets_exit_code_1_for_a_correction_that_does_not_run(ask, taught):
    with pytest.raises(SystemExit, match="the SQL does not run: no such table: nope"):
        ask("How many?", "--correct", "SELECT * FROM nope")
    with pytest.raises(SystemExit, match="--feedback and --correct need a question"):
        ask("--feedback", "right")
    with pytest.raises(SystemExit, match="base/model: cannot be written to"):
        ask("How many?", "--feedback", "wrong", "--feedback-file", "base/model")
    assert not (taught / "base/feedback.jsonl").exists()


def test_feedback_is_kept_beside_the_experiment_or_beside_another_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "results/mine/grpo/reasoning/full/seed-0/model"
    assert feedback_file(made).resolve() == tmp_path / "results/mine/feedback.jsonl"
    assert feedback_file(tmp_path / "elsewhere/model") == tmp_path / "elsewhere/feedback.jsonl"


# Run by two processes at once: they say when they are ready, and start when they are told to.
WRITER = """
import sys
from pathlib import Path
from sqlr1.data.feedback import append
from sqlr1.records import Feedback
print("ready", flush=True)
input()
for number in range(500):
    sql = "x" * (number * 37 % 9000)
    append(Path(sys.argv[1]), Feedback(f"{sys.argv[2]} {number}", "", "", "pets", sql, "right", "", "", ""))
"""


def test_two_writers_lose_and_mix_no_line(tmp_path):
    path = tmp_path / "feedback.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in "ab"
    ]
    assert [writer.stdout.readline() for writer in writers] == [b"ready\n"] * 2
    for writer in writers:
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    names = [f.question for f in read_records(path, Feedback)]
    for name in "ab":
        assert [n for n in names if n[0] == name] == [f"{name} {number}" for number in range(500)]
    assert names != sorted(names, key=lambda n: n[0])  # they did write at the same time
    assert len(names) == 1000


def test_a_path_that_is_not_utf8_is_kept(tmp_path):
    given = replace(GIVEN, database="/\udcff.sqlite")
    append(tmp_path / "feedback.jsonl", given)
    assert read_records(tmp_path / "feedback.jsonl", Feedback) == [given]


def test_a_line_that_an_editor_left_open_is_ended_first(tmp_path):
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(asdict(GIVEN)))
    append(path, replace(GIVEN, question="Another?"))
    assert [f.question for f in read_records(path, Feedback)] == ["How many?", "Another?"]


def read(path, *given, unusable=None):
    path.write_text("".join(json.dumps(asdict(f)) + "\n" for f in given))
    return [(q.db_id, q.sql, q.wrong_sql) for q in read_questions("feedback", path, unusable)]


def test_the_last_verdict_on_a_question_counts_and_a_wrong_answer_leaves_an_earlier_gold(tmp_path):
    corrected = replace(GIVEN, verdict="corrected", corrected="SELECT 3")
    wrong, other = replace(GIVEN, verdict="wrong"), replace(GIVEN, db_id="shop")
    path = tmp_path / "feedback.jsonl"
    assert read(path, wrong, other, corrected) == [("shop", "SELECT 2", ""), ("pets", "SELECT 3", "")]
    assert read(path, GIVEN, corrected, other, wrong) == [("shop", "SELECT 2", ""), ("pets", "SELECT 3", "SELECT 2")]
    # Without an earlier gold, or if the wrong answer is that gold, there is none.
    assert read(path, wrong) == [("pets", "", "SELECT 2")]
    assert read(path, GIVEN, wrong) == [("pets", "", "SELECT 2")]
    assert read(path, corrected, replace(wrong, sql="select 3;")) == [("pets", "", "select 3;")]
    named, renamed = replace(GIVEN, sql="SELECT name FROM pet"), replace(wrong, sql="select P.NAME from Pet as P")
    assert read(path, named, renamed) == [("pets", "", renamed.sql)]
    assert read(path, replace(wrong, sql="")) == [("pets", "", "-- no SQL")]


def test_a_question_with_a_wrong_answer_is_asked_again_if_its_gold_is_known_and_counted_if_not(tmp_path, monkeypatch):
    """Golds come from an earlier correction and from the question's twin among the training questions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SQLR1_DATA", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepare(tmp_path)
    pairs = {
        "What are pets called?": "SELECT name FROM pet",
        "Which age has Rex?": "SELECT age FROM pet WHERE name = 'Rex'",
        "The sum of ages?": "SELECT sum(age) FROM pet",
        "Show all of Rex.": "SELECT * FROM pet WHERE name = 'Rex'",
    }
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"question": q, "sql": sql, "db_id": "pets"}) + "\n" for q, sql in pairs.items())
    )
    wrong = [
        ("  what are PETS called", "SELECT age FROM pet", "wrong", ""),
        ("The average age?", "SELECT 1", "corrected", "SELECT avg(age) FROM pet"),
        ("The average age?", "SELECT 4", "wrong", ""),
        ("Which age has Rex?", "select age from pet where name = 'Rex';", "wrong", ""),  # the gold itself
        ("How old is the moon?", "", "wrong", ""),
    ]
    for question, sql, verdict, corrected in wrong:
        append(tmp_path / "f.jsonl", replace(GIVEN, question=question, sql=sql, verdict=verdict, corrected=corrected))
    mix = [
        {"layout": layout, "questions": str(tmp_path / name), "databases": "{data}/databases"}
        for layout, name in (("pairs", "pairs.jsonl"), ("feedback", "f.jsonl"))
    ]
    made = {"synthesize": {"held_out_domains": ["zoo"], "benchmark_questions": 1, "mix": mix}, "execution": {}}
    synthesize.main(["--settings", json.dumps(made), "--out", "synthesize", "--log", "log"])
    log = (tmp_path / "log").read_text()
    assert "2 answers are marked wrong and no gold is known" in log
    assert "pets: Which age has Rex?; pets: How old is the moon?" in log
    assert made_metrics("synthesize") >= {("marked_wrong", 4), ("wrong_without_gold", 2)}
    sizes = {"cold_start_rows": 1, "rl_rows": 1, "validation_rows": 1, "test_rows": 1, "rl_classes": ["Complex"]}
    data = ["--catalogue", "synthesize/catalogue.jsonl", "--questions", "synthesize/questions.jsonl", "--out", "filter"]
    filter.main(["--settings", json.dumps({"filter": sizes, "execution": {}}), *data])
    assert {q.question: q.wrong_sql for q in read_records(tmp_path / "filter/rl.jsonl", Question)} == {
        "What are pets called?": "SELECT age FROM pet",
        "The average age?": "SELECT 4",
    }
    dropped = {row["question"]: row["reason"] for row in lines_of(tmp_path / "filter/dropped.jsonl")}
    assert dropped["Which age has Rex?"] == dropped["How old is the moon?"] == "no_gold"
    funnel = read_json(tmp_path / "filter/funnel.json")
    assert (funnel["asked_again"], funnel["dropped"]["no_gold"]) == (2, 2)
    assert made_metrics("filter") >= {("asked_again", 2), ("dropped/no_gold", 2)}
    table = funnel_markdown(funnel)
    assert "dropped: no gold" in table
    assert "in RL: answers marked wrong" in table


def made_metrics(stage):
    """Of the stage's only run in the working folder."""
    client = MlflowClient(f"sqlite:///{Path('results/mlflow.db').resolve()}")
    [run] = client.search_runs([e.experiment_id for e in client.search_experiments()], f"tags.stage = '{stage}'")
    return set(run.data.metrics.items())


def test_missing_and_malformed_feedback(tmp_path):
    path = tmp_path / "feedback.jsonl"
    assert list(read_questions("feedback", path, Counter())) == []
    with pytest.raises(InputError, match=r"feedback\.jsonl: no such file"):
        list(read_questions("feedback", path))
    with pytest.raises(InputError, match=r"record 2 has the verdict 'maybe'; known: right, wrong, corrected"):
        read(path, GIVEN, replace(GIVEN, verdict="maybe"))
    path.write_text('{"question": "cut o')
    with pytest.raises(InputError, match=r"feedback\.jsonl:1: not valid JSON"):
        list(read_questions("feedback", path, Counter()))


def test_the_file_is_an_input_of_synthesis_and_may_be_absent_if_the_key_says_so(tmp_path):
    """Two calls of Snakemake take most of the 10 s."""
    copy_checkout(tmp_path)
    (tmp_path / "databases/pets").mkdir(parents=True)
    (tmp_path / DATABASE).touch()
    mix = {
        "layout": "feedback",
        "questions": "results/mine/feedback.jsonl",
        "databases": "databases",
        "missing": "skip",
    }
    (tmp_path / "mine.yaml").write_text(json.dumps({"experiment": "mine", "synthesize": {"mix": [mix]}}))
    target = "results/mine/synthesize/questions.jsonl"

    def inputs():
        run = snakemake(tmp_path, target, "--filegraph", "--configfile", "mine.yaml")
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    assert "results/mine/feedback.jsonl" not in inputs()
    (tmp_path / "results/mine").mkdir(parents=True, exist_ok=True)
    (tmp_path / "results/mine/feedback.jsonl").touch()
    assert "results/mine/feedback.jsonl" in inputs()
