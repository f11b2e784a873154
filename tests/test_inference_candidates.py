"""The candidates stage: which questions are answered, and which are only counted."""

import json
import sys
from types import SimpleNamespace

import pytest
from tiny_stages import PROMPT, command, prepare, run_here

from sqlr1 import config
from sqlr1.database.schema import read_schema
from sqlr1.model.answers import Prompted, SamplerBackend, generate, make_backend
from sqlr1.model.base import load_tokenizer
from sqlr1.model.grammar import response_grammar
from sqlr1.model.sampler import Sampling
from sqlr1.records import Candidates, read_records
from sqlr1.stages import candidates as stage


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
    code, log = run_here(folder, [*command(folder, "candidates", "out"), "--exclude", "untrusted.txt"])
    assert code == 0, log
    answers = read_records(folder / "out/candidates.jsonl", Candidates)
    assert [a.id for a in answers] == ["0", "2", "3", *map(str, range(5, 12))]
    assert all(len(a.samples) == 2 for a in answers)
    assert (answers[2].greedy, answers[2].samples) == ("", ["", ""])  # the prompt is longer than the context
    assert all(a.greedy for a in answers if a.id != "3")
    manifest = json.loads((folder / "out/manifest.json").read_text())
    tokenizer = load_tokenizer(folder / "base/model")
    texts = {
        "greedy": [a.greedy for a in answers if a.id != "3"],
        "sample": [t for a in answers for t in a.samples if t],
    }
    assert manifest["answers"] == 9 * 3  # a greedy answer and two samples of each question that was asked
    for what, found in texts.items():
        lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in found]
        assert manifest["tokens"][what] == pytest.approx(sum(lengths) / len(texts["greedy"]) / (1 + (what == "sample")))
    assert manifest["tokens"]["prompt"] > 24
    assert "1 questions get no candidates, their databases are missing: ['no_such_database']" in log
    assert "1 questions get no answer and count as wrong: the prompt does not fit into the " in log


def test_answers_that_leave_no_room_for_any_prompt_are_an_error(folder):
    call = [
        part.replace('"max_new_tokens": 24', '"max_new_tokens": 9999') for part in command(folder, "candidates", "no")
    ]
    code, log = run_here(folder, call)
    assert code == 1
    message = "config key candidates.max_new_tokens: 9999: the model reads 2048 tokens: lower it"
    assert message in log.splitlines()[-1]
    code, log = run_here(folder, [part.replace("9999", "2040") for part in call])
    assert code == 1
    assert "dev.json: no question can be answered, the prompt does not fit into the 8 tokens" in log.splitlines()[-1]
    assert not (folder / "no/candidates.jsonl").exists()


def test_no_database_at_all_is_an_error(folder):
    call = [part if part != "databases" else "nowhere" for part in command(folder, "candidates", "none")]
    code, log = run_here(folder, call)
    assert code == 1
    assert "nowhere: holds none of the databases of dev.json" in log
    assert not (folder / "none/candidates.jsonl").exists()


def test_a_batch_is_asked_again_only_if_an_answer_of_it_is_missing(folder, tmp_path):
    asked = []

    class Dying(SamplerBackend):
        def complete(self, prompts, seeds, sampling):
            asked.append([prompt[0] for prompt in prompts])
            if len(asked) == 2:
                raise KeyboardInterrupt
            yield from super().complete(prompts, seeds, sampling)

    settings = config.Candidates(n=2, temperature=1.0, max_new_tokens=8, batch_tokens=54)  # two questions
    questions = [Prompted(f"q{number}", "pets", [number, 6, 7]) for number in (5, 6, 7, 8)]

    def answer():
        return generate(questions, lambda: Dying(folder / "base/model", "float32"), settings, 0, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        answer()
    answers = answer()
    assert asked == [[5, 6], [7, 8], [7, 8]]
    next(tmp_path.glob("1-*.jsonl")).unlink()
    assert answer() == answers
    assert asked[3:] == [[5, 6]]


def test_a_limit_keeps_the_same_questions_for_every_seed(folder):
    kept, model = [], folder / "base/model"
    for seed in (0, 1):
        job = SimpleNamespace(
            seed=seed,
            settings={
                "prompt": PROMPT,
                "candidates": config.Candidates(max_new_tokens=24),
                "benchmark": config.BenchmarkOptions(layout="spider", limit=3),
            },
            args=SimpleNamespace(questions=folder / "dev.json", databases=folder / "databases", exclude=None),
            reads=list,
            run=SimpleNamespace(metrics=dict),
        )
        kept.append([prompted.id for prompted in stage._prompts(job, model, load_tokenizer(model))])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 3


class Engine:
    """Stands for vLLM's engine: it answers two rows per step, the last added first, and may be killed."""

    def __init__(self, dies_at: int) -> None:
        self.waiting, self.steps, self.dies_at, self.most = [], 0, dies_at, 0

    def add_request(self, request_id, prompt, parameters):
        assert prompt["type"] == "token"  # not a raw prompt
        self.waiting.append((request_id, prompt["prompt_token_ids"], parameters))
        self.most = max(self.most, len(self.waiting))

    def has_unfinished_requests(self):
        return bool(self.waiting)

    def step(self):
        self.steps += 1
        if self.steps == self.dies_at:
            raise KeyboardInterrupt
        done = [self.waiting.pop() for _ in range(2) if self.waiting]
        return [
            SimpleNamespace(
                request_id=name, finished=True, outputs=[SimpleNamespace(text=f"{ids} {p.temperature} {p.seed}")]
            )
            for name, ids, p in done
        ]


@pytest.fixture
def engines(monkeypatch):
    """Replaces the module `vllm`; returns the engines made. The first is killed at its fifth step."""
    made = []

    def make(*_, dtype, **__):
        assert dtype == "float32"  # as configured: "auto" would round
        made.append(Engine(0 if made else 5))
        return SimpleNamespace(llm_engine=made[-1])

    def parameters(temperature, seed=None, structured_outputs=None, **_):
        return SimpleNamespace(temperature=temperature, seed=seed, structured_outputs=structured_outputs)

    vllm = SimpleNamespace(LLM=make, SamplingParams=parameters)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    inputs = SimpleNamespace(tokens_input=lambda ids: {"type": "token", "prompt_token_ids": ids})
    monkeypatch.setitem(sys.modules, "vllm.inputs", inputs)
    kinds = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY=0), StructuredOutputsParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", kinds)
    return made


def test_vllm_gets_all_questions_at_once_and_is_resumed_by_question(engines, tmp_path):
    settings = config.Candidates(n=2, temperature=0.8, max_new_tokens=2048, backend="vllm", dtype="float32")
    questions = [Prompted(f"q{i}", "pets", [i] * 4000) for i in range(6)]

    def answer(work):
        work.mkdir(exist_ok=True)
        return generate(questions, lambda: make_backend(settings, tmp_path), settings, 0, work)

    with pytest.raises(KeyboardInterrupt):
        answer(tmp_path / "killed")
    resumed = answer(tmp_path / "killed")
    assert [engine.most for engine in engines] == [18, 12]  # 4 steps answered 8 rows, and with them 2 questions
    assert resumed == answer(tmp_path / "whole")
    assert [c.id for c in resumed] == [q.id for q in questions]
    assert resumed[3].greedy == f"{[3] * 4000} 0.0 None"
    assert all(" 0.8 " in text and text.startswith("[3,") for text in resumed[3].samples)
    assert len(set(resumed[3].samples)) == 2


def test_vllm_is_given_the_grammar_of_each_questions_database(engines, folder, tmp_path):
    [backend] = [make_backend(config.Candidates(backend="vllm", dtype="float32"), tmp_path)]
    database = next((folder / "databases").rglob("*.sqlite"))
    added = []
    backend.engine.add_request = lambda name, prompt, parameters: added.append(parameters.structured_outputs)
    list(backend.complete([[5]], [[None, 1]], Sampling(8), [database]))
    assert [given.grammar for given in added] == [response_grammar(read_schema(database))] * 2
    added.clear()
    list(backend.complete([[5]], [[None, 1]], Sampling(8)))
    assert added == [None, None]


def test_constrained_candidates_follow_the_format_that_this_model_does_not_know(folder):
    call = [part.replace('"max_new_tokens": 24', '"constrained": true, "max_new_tokens": 24')
            for part in command(folder, "candidates", "constrained")]  # fmt: skip
    assert run_here(folder, call)[0] == 0
    answers = read_records(folder / "constrained/candidates.jsonl", Candidates)
    texts = [text for answer in answers if answer.greedy for text in (answer.greedy, *answer.samples)]
    assert texts
    assert all(text.startswith("<think>") for text in texts)


def test_without_the_greedy_answer_the_samples_are_the_same_and_nothing_else_is_drawn(folder, tmp_path):
    rows = []

    class Counting(SamplerBackend):
        def complete(self, prompts, seeds, sampling):
            rows.append(sum(map(len, seeds)))
            return super().complete(prompts, seeds, sampling)

    def work(greedy):
        (tmp_path / str(greedy)).mkdir()
        return tmp_path / str(greedy)

    questions = [Prompted("a", "pets", [5, 6, 7]), Prompted("b", "pets", [8, 9])]
    settings = config.Candidates(n=2, temperature=1.0, max_new_tokens=8)
    both, samples = (
        generate(questions, lambda: Counting(folder / "base/model", "float32"), settings, 0, work(greedy), greedy)
        for greedy in (True, False)
    )
    assert rows == [6, 4]
    assert [c.samples for c in samples] == [c.samples for c in both]
    assert [c.greedy for c in samples] == ["", ""]
