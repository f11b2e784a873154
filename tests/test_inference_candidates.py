"""The candidates stage: who gets answers, who is counted instead."""

import json
import subprocess

import pytest
from tiny_stages import command, prepare

from sqlr1.inference.backends import TransformersBackend
from sqlr1.inference.candidates import Prompted, generate
from sqlr1.records import Candidates, read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    prepare(folder)
    rows = json.loads((folder / "dev.json").read_text())
    rows[1]["db_id"] = "no_such_database"
    rows[2]["question"] += " Please." * 60  # longer than training allows
    rows[3]["question"] += " Please." * 3000
    (folder / "dev.json").write_text(json.dumps(rows))
    (folder / "untrusted.txt").write_text("4\n")
    return folder


def test_left_out_is_only_what_cannot_or_must_not_be_answered(folder):
    done = subprocess.run(
        [*command(folder, "candidates", "out"), "--exclude", "untrusted.txt"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    log = done.stderr
    answers = read_records(folder / "out/candidates.jsonl", Candidates)
    assert [a.id for a in answers] == ["0", "2", "3", *map(str, range(5, 12))]
    assert all(len(a.samples) == 2 for a in answers)
    assert (answers[2].greedy, answers[2].samples) == ("", ["", ""])  # does not fit the context: asked, unanswered
    assert all(a.greedy for a in answers if a.id != "3")
    assert "1 questions get no candidates, their databases are absent: ['no_such_database']" in log
    assert "10 questions; 1 of them unanswered: the prompt does not fit the model's context" in log


def test_no_database_at_all_is_an_error(folder):
    call = [part if part != "databases" else "nowhere" for part in command(folder, "candidates", "none")]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nowhere: none of the databases of dev.json is there" in done.stderr
    assert not (folder / "none/candidates.jsonl").exists()


def test_without_the_greedy_answer_the_samples_are_the_same_and_nothing_else_is_drawn(folder, tmp_path):
    rows = []

    class Counting(TransformersBackend):
        def complete(self, prompts, seeds, sampling):
            rows.append(sum(map(len, seeds)))
            return super().complete(prompts, seeds, sampling)

    questions = [Prompted("a", "pets", [5, 6, 7]), Prompted("b", "pets", [8, 9])]
    settings = {"n": 2, "temperature": 1.0, "max_new_tokens": 8}
    both, samples = (
        generate(questions, lambda: Counting(folder / "base/model"), settings, 0, tmp_path / str(greedy), greedy)
        for greedy in (True, False)
    )
    assert rows == [6, 4]
    assert [c.samples for c in samples] == [c.samples for c in both]
    assert [c.greedy for c in samples] == ["", ""]
