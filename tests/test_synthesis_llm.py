"""The language model back end, against a real `transformers serve` process with the default small model."""

import http.server
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
import sqlglot
from tiny_models import smollm2

from sqlr1.config import LanguageModel
from sqlr1.data.llm import Client, Prompt
from sqlr1.data.mentions import unmentioned_value
from sqlr1.data.paraphrase import explain, paraphrase
from sqlr1.prompt import format_response
from sqlr1.records import InputError, Question, read_json, read_records
from sqlr1.sandbox import Executor
from sqlr1.stages.synthesize import main


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
        address = f"http://127.0.0.1:{port}/v1"
        yield LanguageModel(base_url=address, model=str(model), concurrency=2, retries=1, timeout=120)
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
        spent = client.tokens
    assert all(answers)
    nowhere = LanguageModel(base_url="http://127.0.0.1:9/v1", model=endpoint.model, retries=0)
    with Client(nowhere, tmp_path / "cache.jsonl") as client:
        assert client.ask(HELLO, "test") == answers
        assert client.tokens == spent


def test_budget_stops_the_asking_in_this_and_in_later_runs(endpoint, tmp_path):
    alone = endpoint.model_copy(update={"concurrency": 1, "budget": 30})
    for _ in range(2):
        with Client(alone, tmp_path / "cache.jsonl") as client:
            first, *others = client.ask(HELLO, "test")
        assert first
        assert others == [None, None]


class Faulty(http.server.BaseHTTPRequestHandler):
    """Answers each prompt in ten tokens, unless the prompt names a fault."""

    asked: ClassVar[list[str]] = []

    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][0]["content"]
        self.asked.append(text)
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}
        content = {"null": None, "empty": ""}.get(text, f"re: {text}")
        if text != "no choices":
            message = {"role": "assistant", "content": content}
            reply["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        if not text.startswith("no usage"):
            reply["usage"] = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        broken = text == "fails once" and self.asked.count(text) == 1
        body = json.dumps(reply).encode()
        self.send_response(400 if text == "too long" else 500 if broken else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def faulty():
    """An endpoint with faults that a real server shows only now and then."""
    Faulty.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    yield LanguageModel(base_url=address, model="m", concurrency=1, retries=0)
    server.shutdown()
    server.server_close()


def prompts(*texts):
    return [Prompt((("user", text),), max_tokens=5) for text in texts]


@pytest.mark.parametrize(("fault", "tokens"), [("too long", 0), ("no choices", 10), ("null", 10), ("empty", 10)])
def test_a_prompt_that_is_refused_or_unanswered_is_skipped_and_counted(faulty, tmp_path, fault, tokens):
    with Client(faulty, tmp_path / "cache.jsonl") as client:
        assert client.ask(prompts("a", fault, "b"), "test") == ["re: a", None, "re: b"]
        assert client.failed == 1
    with Client(faulty, tmp_path / "cache.jsonl") as client:
        assert client.tokens == 20 + tokens
        assert client.ask(prompts("a", fault), "test") == ["re: a", None]
    assert Faulty.asked == ["a", fault, "b", fault]


def test_an_endpoint_that_refuses_every_prompt_is_named(faulty, tmp_path):
    with Client(faulty, tmp_path / "cache.jsonl") as client, pytest.raises(InputError, match="no prompt was answered"):
        client.ask(prompts("too long", "too long"), "test")


def test_a_request_that_fails_is_tried_again(faulty, tmp_path):
    with Client(faulty.model_copy(update={"retries": 1}), tmp_path / "cache.jsonl") as client:
        assert client.ask(prompts("fails once"), "test") == ["re: fails once"]
    assert Faulty.asked == ["fails once"] * 2


def test_requests_at_once_stay_within_the_budget(faulty, tmp_path):
    texts = [f"prompt {i}" for i in range(20)]
    with Client(faulty.model_copy(update={"concurrency": 8, "budget": 45}), tmp_path / "cache.jsonl") as client:
        answers = client.ask(prompts(*texts), "test")
        assert client.tokens <= 45
    assert len(Faulty.asked) == sum(a is not None for a in answers) == 4


def test_an_endpoint_that_counts_no_tokens_is_charged_the_most(faulty, tmp_path):
    with Client(faulty.model_copy(update={"budget": 30}), tmp_path / "cache.jsonl") as client:
        assert client.ask(prompts("no usage é", "another"), "test") == ["re: no usage é", "re: another"]
        assert client.tokens == len("no usage é".encode()) + 5 + 10


def test_a_cache_cut_off_while_it_was_written_is_read_up_to_there(faulty, tmp_path):
    cache = tmp_path / "cache.jsonl"
    for _ in range(2):
        with Client(faulty, cache) as client:
            assert client.ask(prompts("a", "b"), "test") == ["re: a", "re: b"]
        cache.write_text(cache.read_text()[:-5])
    assert Faulty.asked == ["a", "b", "b"]


def test_unreachable_endpoint_is_named(tmp_path):
    nowhere = LanguageModel(base_url="http://127.0.0.1:9/v1", model="m", retries=0, timeout=2)
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
    main(["--settings", json.dumps({"synthesize": settings, "execution": {}}), "--out", "out"])
    rows = read_records(tmp_path / "out/questions.jsonl", Question)
    assert len(rows) == 1
    assert unmentioned_value(rows[0], sqlglot.parse_one(rows[0].sql, read="sqlite")) is None
    assert (tmp_path / "results/.work/llm.jsonl").read_text().count("\n") == 1
    assert read_json(tmp_path / "out/manifest.json")["settings"]["synthesize"]["llm"].items() >= llm.items()


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


def test_reasoning_is_asked_of_the_model_with_the_schema(endpoint, paths, tmp_path, monkeypatch):
    def brief(turns, max_tokens, sample):
        """Answers of 512 tokens would take 15 s more."""
        return Prompt(turns, min(max_tokens, 48), sample=sample)

    monkeypatch.setattr("sqlr1.data.paraphrase.Prompt", brief)
    with Client(endpoint, tmp_path / "cache.jsonl") as client, Executor(workers=1) as executor:
        explained = explain([row("Who is above 35?", "SELECT name FROM singer")], paths, client, 2, executor)
        assert client.tokens > 2 * 50  # the prompt with its schema, twice
    assert explained == [None]  # neither answer is complete
    assert (tmp_path / "cache.jsonl").read_text().count("\n") == 2


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
