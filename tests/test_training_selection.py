"""Selection by pass rate, and the stage on a tiny model."""

import json
import sqlite3
from contextlib import closing

import pytest
from tiny_stages import PROMPT, command, prepare, run_here, teach

from sqlr1.config import Select, plain
from sqlr1.records import Question
from sqlr1.stages.select import PassRate, easy_first, select

RATES = [PassRate(f"q{i}", "Simple", 8, 8, matches) for i, matches in enumerate([0, 1, 4, 8, 7, 3])]
BAND = Select(low=0.1, high=0.9)


def test_the_band_is_taken_as_it_is_without_a_number_of_rows():
    assert select(RATES, BAND) == ([1, 2, 4, 5], 0)


def test_if_too_many_qualify_those_closest_to_one_half_are_kept():
    assert select(RATES, BAND.model_copy(update={"rows": 2})) == ([2, 5], 0)


def test_missing_rows_are_filled_from_outside_the_band_and_counted():
    # Always and never solved are equally far from the band; the solved one comes first.
    assert select(RATES, BAND.model_copy(update={"rows": 5})) == ([2, 5, 1, 4, 3], 1)
    assert select(RATES, BAND.model_copy(update={"rows": 9})) == ([2, 5, 1, 4, 3, 0], 2)


@pytest.mark.parametrize(("rows", "kept"), [(2, [0, 3]), (1, [0, 3]), (3, [0, 3, 2]), (None, [0, 1, 2, 3, 4, 5])])
def test_questions_with_answers_marked_wrong_are_selected_whatever_their_pass_rate(rows, kept):
    chosen, outside = select(RATES, BAND.model_copy(update={"rows": rows}), {"q0", "q3"})
    assert (set(chosen), outside) == (set(kept), 0)


def test_easy_questions_come_first():
    classes = ["Complex", "Simple", "Simple"]
    questions = [Question(f"q{i}", "d", "?", "SELECT 1", sql_class=c) for i, c in enumerate(classes)]
    rates = [PassRate(q.id, q.sql_class, 8, 8, m) for q, m in zip(questions, [7, 1, 3], strict=True)]
    assert [q.id for q in easy_first(questions, rates)] == ["q2", "q1", "q0"]


def prepare_with_classes(path):
    prepare(path)
    rows = [json.loads(line) for line in (path / "questions.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(r | {"sql_class": "Simple"}) + "\n" for r in rows)
    (path / "questions.jsonl").write_text(text)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare_with_classes(tmp_path_factory.mktemp("select"))


def run(folder, out, prompt=None, constrained=False, **changes):
    section = {"n": 2, "temperature": 1.0, "max_new_tokens": 16, "low": 0.1, "high": 0.9, "rows": 4, "threads": 1}
    settings = {
        "select": section | changes,
        "prompt": plain(PROMPT) | (prompt or {}),
        "execution": {"seconds": 1.0},
        "semantics": "bird",
        "constrained": constrained,
    }
    inputs = ["--model-manifest", "base/manifest.json", "--questions", "questions.jsonl"]
    call = ["-m", "sqlr1.stages.select", "--settings", json.dumps(settings), *inputs]
    return run_here(folder, [*call, "--catalogue", "catalogue.jsonl", "--out", out, "--log", f"{out}.log"])


def test_a_policy_that_solves_nothing_still_gets_questions_and_the_log_says_so(folder):
    code, log = run(folder, "some")
    assert code == 0, log
    assert "4 of 4 selected questions are outside the band" in log
    rates = [json.loads(line) for line in (folder / "some/pass_rates.jsonl").read_text().splitlines()]
    assert len(rates) == 12
    assert [r["samples"] for r in rates] == [2] * 12
    kept = {json.loads(line)["id"] for line in (folder / "some/rl.jsonl").read_text().splitlines()}
    assert kept == {r["id"] for r in rates if r["selected"]}
    assert len(kept) == 4


@pytest.mark.slow
def test_pass_rates_are_measured_under_the_masks_of_constrained_rollouts(tmp_path):
    """At a temperature at which hardly a free answer keeps the form. Two runs of the stage."""
    teach(prepare_with_classes(tmp_path))
    executable = {}
    for constrained in (False, True):
        code, log = run(tmp_path, str(constrained), constrained=constrained, temperature=1.3, max_new_tokens=96)
        assert code == 0, log
        rows = [json.loads(line) for line in (tmp_path / f"{constrained}/pass_rates.jsonl").read_text().splitlines()]
        executable[constrained] = sum(row["executable"] for row in rows)
    assert executable[False] < executable[True]


def test_an_empty_band_is_one_clear_line(folder):
    code, log = run(folder, "none", rows=None)
    assert code == 1
    assert "no question has a pass rate from 0.1 to 0.9" in log
    assert not (folder / "none/rl.jsonl").exists()


def test_answers_longer_than_the_context_are_one_clear_line(folder):
    code, log = run(folder, "long", max_new_tokens=2000)
    assert code == 1
    assert "prompts of 400 tokens (prompt.max_length) and answers of 2000 (select.max_new_tokens) are longer" in log
    words = [
        w.replace('"max_completion_length": 96', '"max_completion_length": 2000') for w in command(folder, "grpo", "g")
    ]
    code, log = run_here(folder, words)
    assert code == 1
    assert "answers of 2000 (grpo.max_completion_length) are longer than the 2048 tokens that the model reads" in log


def test_a_file_without_rows_is_one_clear_line(folder):
    (folder / "empty.jsonl").write_text("")
    for stage in ("cold_start", "grpo"):
        code, log = run_here(
            folder, [w.replace("questions.jsonl", "empty.jsonl") for w in command(folder, stage, "no")]
        )
        assert code == 1
        assert "empty.jsonl: the filter has left no row; its funnel.json counts why rows were dropped" in log


def test_no_samples_keep_all_questions(folder):
    assert run(folder, "all", n=0)[0] == 0
    assert (folder / "all/rl.jsonl").read_text().count("\n") == 12
    assert json.loads((folder / "all/linking.json").read_text()) == {}


def test_what_linking_keeps_of_the_golds_is_counted_where_it_cuts(folder):
    """The prompts show one table of two, and all golds are about the one that they name."""
    with closing(sqlite3.connect(folder / "databases/pets/pets.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE visitor (entrance INTEGER, ticket TEXT)")
    code, log = run(folder, "linked", n=0, prompt={"linking": 1})
    assert code == 0, log
    counts = json.loads((folder / "linked/linking.json").read_text())
    assert (counts["asked"], counts["questions"], counts["tables"], counts["tables kept"]) == (12, 12, 12, 12)
    assert counts["columns"] >= counts["columns kept"] > 0
    assert "linking cut the schema of 12 of 12 questions; recall: {'tables': 1.0" in log
