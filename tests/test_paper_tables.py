"""The paper's tables on small score files whose numbers were worked out by hand."""

import csv
import itertools
import json
import shutil
from dataclasses import replace
from math import comb

import pytest
from test_reporting import BASE, BOOTSTRAP, FULL, FULL_AGAIN, write_run

from sqlr1.config import Prompt
from sqlr1.data import readers
from sqlr1.evaluate.formats import read_questions
from sqlr1.evaluate.vote import majority, vote_share
from sqlr1.records import read_json, write_json
from sqlr1.report import paper
from sqlr1.report.policies import load_runs
from sqlr1.stages import paper_tables

MAIN = ("reasoning", "full")
PARTS = ("value", "low", "high", "n", "policy", "answers", "model", "seeds", "commit")
# (strategy, reward, verdicts, seed)
RUNS = [
    ("none", "no_rl", BASE, 0),
    ("reasoning", "no_rl", BASE, 0),
    ("reasoning", "full", FULL, 0),
    ("reasoning", "full", FULL_AGAIN, 1),
]


def results_of(folder, runs=RUNS, benchmark="tiny", model="SmolLM2", **more):
    files = [write_run(folder, *run, benchmark=benchmark) for run in runs]
    loaded = load_runs(*zip(*files, strict=True))
    return paper.Results(loaded, MAIN, model, "0" * 40, BOOTSTRAP, more.get("skipped", {}))


@pytest.fixture
def results(tmp_path):
    return results_of(tmp_path)


def named(rows, name):
    (row,) = (row for row in rows if row["row"] == name)
    return row


def test_ours_is_measured_and_the_papers_is_the_papers(results):
    """By question, mean of two seeds: the vote has 1, .5, 1, 0. The base model's has 0, 0, 1, 1."""
    rows = paper.reward(results)
    trained, start, ablated = (named(rows, n) for n in ("GRPO", "without GRPO", "GRPO without length reward"))
    assert (trained["paper_percent"], trained["value"], trained["seeds"]) == (63.1, 0.625, "0, 1")
    assert (start["paper_percent"], start["value"], start["seeds"]) == (58.2, 0.5, "0")
    assert (trained["answers"], trained["n"], trained["model"]) == ("vote of 2", 4, "SmolLM2")
    assert trained["low"] < 0.625 < trained["high"]
    assert (ablated["paper_percent"], ablated["paper_on"]) == (61.0, "bird_dev")
    assert [ablated[part] for part in PARTS] == [None] * len(PARTS)
    assert "snakemake ablation_reward" in ablated["not_run"]


def test_ours_follows_the_answers_alone(tmp_path, monkeypatch):
    """With all answers wrong every number of ours is 0, whatever the paper's are; without the paper's ours stay."""
    wrong = results_of(tmp_path, [(s, r, [(0, 0, 0)] * 4, seed) for s, r, _, seed in RUNS], "bird_dev")
    tables = all_tables(wrong)
    assert {row["value"] for rows in tables for row in rows} == {0, None}
    assert {row["paper_percent"] for rows in tables for row in rows} >= {59.2, 63.1, 63.7, 61.9}
    monkeypatch.setattr(paper, "MAIN_RESULTS", [replace(p, numbers=(1.0, 2.0, 3.0)) for p in paper.MAIN_RESULTS])
    assert [row["value"] for row in paper.main_results(wrong)] == [row["value"] for row in tables[0]]
    assert {row["paper_percent"] for row in paper.main_results(wrong)} == {1.0, 2.0, 3.0}


def all_tables(results):
    functions = (paper.main_results, paper.spider_variants, paper.by_difficulty, paper.cold_start, paper.reward)
    values = paper.values(results, Prompt(), None, "not yet")
    return [*(function(results) for function in functions), values, paper.votes(results, [MAIN])]


def test_each_row_is_ours_or_says_how_to_run_it(results):
    for row in itertools.chain(*all_tables(results)):
        assert (row["value"] is None) == bool(row["not_run"])
        assert all((row[part] is None) == bool(row["not_run"]) for part in PARTS)


def test_scores_without_a_gold_that_runs_were_run(results):
    for run in results.runs:
        for row in run.rows:
            row["greedy"]["spider_exec"] = row["vote"]["spider_exec"] = None
    tables = [paper.reward(results), paper.main_results(results), paper.by_difficulty(results)]
    rows = [row for table in tables for row in table if row["benchmark"] == "tiny"]
    scored = [row for row in rows if "no gold could be judged" in row["not_run"]]
    assert {row["row"] for row in scored} >= {"GRPO", "without GRPO", "easy", "hard"}
    assert "snakemake ablation_reward" in named(paper.reward(results), "GRPO without length reward")["not_run"]


def test_a_policy_stands_beside_its_own_row_only(tmp_path):
    results = results_of(tmp_path, benchmark="spider_dev", skipped={"bird_dev": "dev.json is missing. Get it there."})
    rows = {(row["row"], row["benchmark"]): row for row in paper.main_results(results)}
    sft_and_rl = rows["Qwen2.5-Coder-7B + SFT-200K + RL", "spider_dev"]
    assert (sft_and_rl["paper_percent"], sft_and_rl["value"]) == (84.7, 0.625)
    assert rows["Qwen2.5-Coder-7B", "spider_dev"]["value"] == 0.5
    assert "ablation_cold_start" in rows["Qwen2.5-Coder-7B + RL", "spider_dev"]["not_run"]
    assert rows["Qwen2.5-Coder-7B", "bird_dev"]["not_run"] == "dev.json is missing. Get it there."
    assert "`benchmarks`" in rows["Qwen2.5-Coder-7B", "spider_test"]["not_run"]
    assert "paper-3b.yaml" in rows["SQL-R1 3B", "spider_dev"]["not_run"]
    assert "`results/paper-3b/paper/tables.md`" in rows["SQL-R1 3B", "spider_dev"]["not_run"]
    assert "`results/paper-omnisql-7b/paper/tables.md`" in rows["OmniSQL-7B", "spider_dev"]["not_run"]
    sized = replace(results, model="qwen2.5-coder-3b-instruct-q4_k_m.gguf")
    rows = {(row["row"], row["benchmark"]): row for row in paper.main_results(sized)}
    assert (rows["SQL-R1 3B", "spider_dev"]["paper_percent"], rows["SQL-R1 3B", "spider_dev"]["value"]) == (78.1, 0.625)
    assert "paper-7b.yaml" in rows["Qwen2.5-Coder-7B", "spider_dev"]["not_run"]
    assert rows["base model", "spider_dev"]["paper_percent"] is None  # the paper has none of 3B
    assert rows["base model", "spider_dev"]["value"] == 0.5


def test_variants_and_difficulties_are_of_the_main_policy(tmp_path):
    variant = paper.spider_variants(results_of(tmp_path / "dk", benchmark="spider_dk"))
    assert [(row["paper_percent"], row["value"]) for row in variant] == [(78.1, 0.625), (76.7, None), (83.3, None)]
    rows = paper.by_difficulty(results_of(tmp_path, benchmark="tiny"))
    # Questions 1 and 3 are easy: the votes' means are .5 and 0.
    assert named(rows, "easy")["value"] == 0.25
    assert named(rows, "challenging") | {"not_run": ""} == dict.fromkeys(named(rows, "easy")) | {
        "row": "challenging", "benchmark": "bird_dev", "paper_percent": 51.0, "paper_on": "bird_dev", "not_run": "",
    }  # fmt: skip


def test_the_vote_over_one_to_all_samples_is_of_the_same_samples(tmp_path):
    """Of two samples a question the first one is right, and wins the tie."""
    results = results_of(tmp_path, [*RUNS[:2], (*MAIN, [(0, 1, 1)] * 3 + [(0, 0, 0)], 0)])
    rows = paper.votes(results, [("none", "no_rl"), MAIN])
    mine = {row["row"]: row for row in rows if row["policy"] in (None, "cold start (reasoning) + GRPO")}
    assert [mine[name]["value"] for name in ("greedy", "vote of 1", "vote of 2")] == [0, 3 / 8, 3 / 4]
    assert (mine["greedy"]["paper_percent"], mine["vote of 1"]["paper_percent"]) == (63.7, None)
    assert (mine["vote of 8"]["paper_percent"], mine["vote of 8"]["value"]) == (66.6, None)
    assert "candidates: {n: 8}" in mine["vote of 8"]["not_run"]
    lines = paper.vote_panels(rows)["tiny: execution accuracy"]
    assert [k for k, _ in lines["base model"]] == [1, 2]
    assert lines["cold start (reasoning) + GRPO"][1][1].value == 3 / 4


@pytest.mark.parametrize("n", [3, 8, 12])
def test_votes_over_some_are_means_over_the_choices(n):
    results, right = [None, *"abbaabcbabca"][:n], [0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0][:n]
    assert vote_share(results, right, 1) == pytest.approx(sum(right) / n)
    assert vote_share(results, right, n) == right[majority(results)]
    k = 2
    pairs = [right[i if results[i] else j] for i, j in itertools.combinations(range(n), k)]  # the first that ran
    assert vote_share(results, right, k) == pytest.approx(sum(pairs) / comb(n, k))


def test_rows_that_need_the_same_are_one_in_the_page(results):
    text = paper.markdown(paper.main_results(results))
    assert text.count("SQL-R1 3B") == 1
    assert "| spider_dev, spider_test, bird_dev | 78.1, 78.9, 54.6 | not run (1)" in " ".join(text.split())
    assert text.count("paper-3b.yaml") == 1
    assert "62.5 [" in text
    assert paper.short("0123456789" * 4 + "-dirty") == "0123456789-dirty"


SETTINGS = {
    "experiment": "tiny",
    "base_model": {"source": "hub", "name": "acme/tiny"},
    "prompt": {},
    "cold_start": {"strategy": "reasoning", "learning_rate": 0.001},
    "reward": {"variants": ["full"]},
    "candidates": {"constrained": True},
    "score": {"confidence": 0.95, "resamples": 200},
    "skipped": {},
}


LONGER = f"{{example_values: 2, max_length: {2 * Prompt().max_length}}}"
OTHER_PROMPT = f"`echo '{{experiment: tiny-other-prompt, prompt: {LONGER}}}' > other-prompt.yaml`"


def experiment(folder, name, prompt, beta=0.0, trl="1.0"):
    """What the stage reads of an experiment, below results/NAME."""
    root = folder / "results" / name
    for strategy, reward, verdicts, seed in RUNS:
        write_run(root / "score", strategy, reward, verdicts, seed)
        below = f"{strategy}/{reward}/seed-{seed}"
        settings = {"prompt": prompt, "candidates": {"n": 2}, "benchmark": {"layout": "spider"}}
        tokens = {"prompt": 100.0, "greedy": 10.0 + seed, "sample": 12.0}
        manifest = {"settings": settings, "versions": {"trl": trl}, "answers": 12, "tokens": tokens}
        write_json(root / f"candidates/{below}/tiny/manifest.json", manifest)
        manifest = {"settings": {"prompt": prompt, "grpo": {"beta": beta}}, "versions": {"trl": trl}}
        write_json(root / f"grpo/{below}/manifest.json", manifest)
        times = root / f"benchmarks/candidates/{below}/tiny.tsv"
        times.parent.mkdir(parents=True)
        times.write_text("s\th:m:s\tmax_rss\n30.0\t0:00:30\t900.0\n")


@pytest.fixture(scope="module")
def one_store(tmp_path_factory):
    """One folder for all tests of the stage: a new store of MLflow takes longer than the stage."""
    folder = tmp_path_factory.mktemp("paper")
    experiment(folder, "tiny", {"example_values": 0})
    return folder


@pytest.fixture
def folder(one_store, monkeypatch):
    monkeypatch.chdir(one_store)
    return one_store


def run(folder, *more):
    scores = sorted(map(str, (folder / "results/tiny/score").rglob("summary.json")))
    files = {
        "--scores": scores,
        "--questions": [path.replace("summary.json", "questions.jsonl") for path in scores],
        "--candidates": [
            path.replace("/score/", "/candidates/").replace("summary.json", "manifest.json") for path in scores
        ],
    }
    arguments = ["--settings", json.dumps(SETTINGS), "--out", "results/tiny/paper"]
    arguments += itertools.chain(*([name, *paths] for name, paths in files.items()))
    paper_tables.main([*arguments, "--times", "results/tiny/benchmarks/candidates", *more])
    return (folder / "results/tiny/paper/tables.md").read_text()


def table(name):
    with open(f"results/tiny/paper/{name}.csv") as file:
        return list(csv.DictReader(file))


def test_the_stage_writes_a_page_with_every_table(folder):
    text = run(folder)
    for title in paper.TITLES.values():
        assert f"\n## {title}\n" in text
    assert "acme/tiny" in text
    assert "in brackets. Our answers were given under masks, which allow" in text
    assert OTHER_PROMPT in text
    outputs = read_json(folder / "results/tiny/paper/manifest.json")["outputs"]
    figures = {"votes.svg", "comparison.svg"}
    assert set(outputs) == {"tables.md", *figures, *(f"{name}.csv" for name in paper.TITLES)}
    trained = next(row for row in table("reward") if row["row"] == "GRPO")
    assert (float(trained["value"]), float(trained["paper_percent"])) == (0.625, 63.1)
    run(folder)
    assert read_json(folder / "results/tiny/paper/manifest.json")["outputs"] == outputs


def test_tokens_and_seconds_are_those_of_the_candidates(folder, results):
    times = folder / "results/tiny/benchmarks/candidates"
    manifests = {
        path.parent.parts[-4:]: read_json(path) for path in (folder / "results/tiny/candidates").rglob("manifest.json")
    }
    trained, start = paper.efficiency(results, [MAIN, ("reasoning", "no_rl")], manifests, times)
    assert (trained["greedy_tokens"], trained["seconds_per_answer"]) == (10.5, 60 / 24)  # two seeds
    assert (start["prompt_tokens"], start["seconds_per_answer"]) == (100, 30 / 12)
    (untimed,) = paper.efficiency(results, [MAIN], manifests, folder / "nowhere")
    assert untimed["seconds_per_answer"] is None


def test_the_other_prompt_is_another_experiment_with_equal_settings(folder):
    def values():
        rows = {row["row"]: row for row in table("values")}
        assert [rows[n]["paper_percent"] for n in ("without values", "with values")] == ["61.9", "63.1"]
        return rows["without values"]["value"], rows["with values"]["value"]

    other = "results/tiny-other-prompt/score/reasoning/full/seed-0/tiny/summary.json"
    experiment(folder, "tiny-other-prompt", {"example_values": 0, "schema": "ddl"}, beta=0.5, trl="0.9")
    text = run(folder, "--other", other)
    found = "grpo.beta, prompt.schema, the prompt is of the same kind, versions.trl"
    assert f"must differ in the prompt's values alone ({found})" in text
    assert OTHER_PROMPT in text
    assert values() == ("0.625", "")
    shutil.rmtree(folder / "results/tiny-other-prompt")
    experiment(folder, "tiny-other-prompt", {"example_values": 2, "max_length": 4096})
    assert OTHER_PROMPT not in run(folder, "--other", other)
    assert values() == ("0.625", "0.75")  # the other experiment's first seed alone


def test_a_missing_manifest_of_the_other_experiment_is_named(folder, capsys):
    experiment(folder, "tiny-broken", {"example_values": 2})
    missing = "results/tiny-broken/grpo/reasoning/full/seed-0/manifest.json"
    (folder / missing).unlink()
    with pytest.raises(SystemExit):
        run(folder, "--other", "results/tiny-broken/score/reasoning/full/seed-0/tiny/summary.json")
    assert f"{missing}: no such file" in capsys.readouterr().err.splitlines()[-1]


def test_spider_syn_is_read_as_it_comes(tmp_path):
    row = {"db_id": "zoo", "SpiderQuestion": "How many pets?", "SpiderSynQuestion": "How many animals?"}
    write_json(tmp_path / "dev.json", [row | {"query": "SELECT count(*) FROM pet"}])
    for questions in (read_questions, readers.read_questions):
        assert next(iter(questions("spider", tmp_path / "dev.json"))).question == "How many animals?"
