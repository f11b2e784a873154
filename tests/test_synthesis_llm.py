"""The language model back end, against a real `transformers serve` process with the default small model."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tiny_models import smollm2

from sqlr1.execution import Executor
from sqlr1.prompting import format_response
from sqlr1.records import InputError, Question, read_json, read_records
from sqlr1.stages.synthesize import main
from sqlr1.synthesis.llm import Client, Endpoint, Prompt
from sqlr1.synthesis.polish import explain, paraphrase


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """`transformers serve` on a free port of the loopback interface."""
    model = smollm2()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("serve") / "log"
    # One thread: OpenMP's waiting threads would fight with the other tests for two cores.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.5)
        yield Endpoint(f"http://127.0.0.1:{port}/v1", str(model), concurrency=2, retries=1, timeout=120)
    finally:
        server.terminate()
        server.wait(20)


def row(question, sql, number=0):
    return Question(f"music-{number}", "music", question, sql, reasoning="own", sql_class="Simple", style="formal")


HELLO = [Prompt((("user", f"Say hello number {i}"),), max_tokens=6, sample=i) for i in range(3)]


def test_answers_come_from_the_model_and_then_from_the_cache(endpoint, tmp_path):
    with Client(endpoint, tmp_path / "cache.jsonl") as client:
        answers = client.ask(HELLO, "test")
        assert client.tokens > 0
    assert all(answers)
    nowhere = Endpoint("http://127.0.0.1:9/v1", endpoint.model, retries=0)
    with Client(nowhere, tmp_path / "cache.jsonl") as client:
        assert client.ask(HELLO, "test") == answers
        assert client.tokens == 0


def test_budget_stops_the_asking(endpoint, tmp_path):
    alone = Endpoint(endpoint.base_url, endpoint.model, concurrency=1, budget=1)
    with Client(alone, tmp_path / "cache.jsonl") as client:
        first, *others = client.ask(HELLO, "test")
    assert first
    assert others == [None, None]


def test_unreachable_endpoint_is_named(tmp_path):
    nowhere = Endpoint("http://127.0.0.1:9/v1", "m", retries=0, timeout=2)
    with (
        Client(nowhere, tmp_path / "c.jsonl") as client,
        pytest.raises(InputError, match=r"llm: http://127\.0\.0\.1:9/v1"),
    ):
        client.ask(HELLO[:1], "test")


def test_stage_asks_the_model_and_keeps_only_questions_that_name_their_values(endpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llm = {"base_url": endpoint.base_url, "model": endpoint.model, "concurrency": 1, "timeout": 300, "paraphrase": 1.0}
    settings = {
        "domains": ["bookshop"], "held_out_domains": ["zoo"], "questions": 1, "benchmark_questions": 2, "folders": [],
        "classes": {"Simple": 1, "Moderate": 0, "Complex": 0, "Highly Complex": 0}, "llm": llm,
    }  # fmt: skip
    main(["--settings", json.dumps({"synthesize": settings}), "--out", "out"])
    rows = read_records(tmp_path / "out/questions.jsonl", Question)
    assert len(rows) == 1
    assert (tmp_path / "results/.work/llm.jsonl").read_text().count("\n") == 1
    assert read_json(tmp_path / "out/manifest.json")["settings"]["synthesize"]["llm"] == llm


class Scripted:
    """A client whose answers are given."""

    def __init__(self, answers):
        self.answers = answers

    def ask(self, prompts, progress):
        assert len(prompts) == len(self.answers)
        return self.answers


@pytest.fixture
def paths(tmp_path):
    with sqlite3.connect(tmp_path / "music.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE singer (name TEXT, age INTEGER); INSERT INTO singer VALUES ('Ann', 30), ('Bo', 40);"
        )
    connection.close()
    return {"music": tmp_path / "music.sqlite"}


def test_paraphrase_must_keep_values_and_be_one_line():
    rows = [row("Who is above 35?", "SELECT name FROM singer WHERE age > 35", i) for i in range(4)]
    answers = ["Which singers are older than 35?", "Which singers are old?", "A first line\nand a second 35", None]
    questions = [r.question for r in paraphrase(rows, Scripted(answers))]
    assert questions == ["Which singers are older than 35?", *["Who is above 35?"] * 3]


def test_majority_of_executed_results_has_to_agree_with_the_gold(paths):
    gold = "SELECT name FROM singer WHERE age > 35"
    right, wrong, broken = (
        format_response(text, sql)
        for text, sql in (
            ("good", "SELECT name FROM singer WHERE age >= 36"),
            ("bad", "SELECT name FROM singer"),
            ("", "SELECT"),
        )
    )
    cases = [
        ([right, right, wrong, broken], "good"),
        ([wrong, wrong, right, broken], None),
        ([right, right, broken, broken], None),  # only two that run
    ]
    rows = [row("Who is above 35?", gold, i) for i in range(3)]
    client = Scripted([answer for answers, _ in cases for answer in answers])
    with Executor(workers=1) as executor:
        explained = explain(rows, paths, client, 4, executor)
    assert [e and e.reasoning for e in explained] == [expected for _, expected in cases]
