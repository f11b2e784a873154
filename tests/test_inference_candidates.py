"""The candidates stage: who gets answers, who is counted instead."""

import json
import subprocess

import pytest
import tiny_stages
from tiny_stages import command, prepare, run

from sqlr1.records import Candidates, read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    prepare(folder)
    rows = json.loads((folder / "dev.json").read_text())
    rows[1]["db_id"] = "no_such_database"
    rows[2]["question"] += " Please." * 60
    (folder / "dev.json").write_text(json.dumps(rows))
    (folder / "untrusted.txt").write_text("4\n")
    return folder


def test_left_out_is_only_what_cannot_or_must_not_be_answered(folder, monkeypatch):
    benchmark = {"layout": "spider", "exclude": "untrusted.txt"}
    monkeypatch.setitem(
        tiny_stages.SETTINGS, "candidates", tiny_stages.SETTINGS["candidates"] | {"benchmark": benchmark}
    )
    log = run(folder, "candidates", "out")
    answers = read_records(folder / "out/candidates.jsonl", Candidates)
    assert [a.id for a in answers] == ["0", "2", "3", *map(str, range(5, 12))]
    assert all(len(a.samples) == 2 for a in answers)
    assert (answers[1].greedy, answers[1].samples) == ("", ["", ""])  # its prompt is over the limit: asked, unanswered
    assert all(a.greedy for a in answers if a.id != "2")
    assert "1 questions get no candidates, their databases are absent: ['no_such_database']" in log
    assert "10 questions; 1 of them unanswered: the prompt is over max_length" in log


def test_no_database_at_all_is_an_error(folder):
    call = [part if part != "databases" else "nowhere" for part in command(folder, "candidates", "none")]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nowhere: none of the databases of dev.json is there" in done.stderr
    assert not (folder / "none/candidates.jsonl").exists()
