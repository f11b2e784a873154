"""`sqlr1 export`: a trained policy as a folder for the Hugging Face Hub, and what others do with that folder."""

import contextlib
import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from tiny_models import WHEEL
from tiny_stages import GRPO as GRPO_SETTINGS
from tiny_stages import PROMPT, prepare

from sqlr1.ask import Answering, Policy
from sqlr1.cli import main
from sqlr1.config import Reward, plain
from sqlr1.config_files import read_config
from sqlr1.model.sampler import GREEDY
from sqlr1.prompt import format_response
from sqlr1.records import Candidates, Question, read_json, read_jsonl, sha256, write_json, write_jsonl
from sqlr1.report import model_card
from sqlr1.report.model_card import geography
from sqlr1.stages import score

CONFIG = Path(__file__).parent.parent / "config.yaml"
RESULTS = Path("results/tiny")
POLICY = RESULTS / "grpo/sql_only/graded/seed-3"
SCORED = RESULTS / "score/sql_only/graded/seed-3/pets"
ASKED = (0, 2, 3, 5, 8, 11)  # questions of the benchmark, under a limit


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The results of an experiment: a tiny policy, answers to 6 of 12 questions scored by the real stage, a report."""
    folder = tmp_path_factory.mktemp("export")
    prepare(folder)
    with contextlib.chdir(folder):
        shutil.copytree("base/model", POLICY / "model")
        base, start = (RESULTS / name / "manifest.json" for name in ("base_model", "cold_start/sql_only/seed-3"))
        manifest(base, "base_model", settings={"base_model": plain(WHEEL)})
        manifest(start, "cold_start", [base], {"cold_start": {"learning_rate": 0.5}}, {"strategy": "sql_only"})
        settings = {"grpo": plain(GRPO_SETTINGS), "reward": plain(Reward()), "prompt": plain(PROMPT)}
        outputs = read_json(Path("base/manifest.json"))["outputs"]
        manifest(POLICY / "manifest.json", "grpo", [start], settings, {"reward_variant": "graded"}, outputs)
        answer_and_score()
        Path(RESULTS / "report.md").write_text("| what | value |\n|---|---|\n| commit     | abc123 |\n| python | 3 |\n")
        manifest(RESULTS / "report/manifest.json", "report", [SCORED / "summary.json"], {"experiment": "tiny"})
        report = read_json(RESULTS / "report/manifest.json") | {"outputs": {"../report.md": ""}}
        write_json(RESULTS / "report/manifest.json", report)
    return folder


def manifest(path, stage, inputs=(), settings=None, arguments=None, outputs=None):
    made = {
        "stage": stage,
        "seed": 3,
        "settings": settings or {},
        "arguments": arguments or {},
        "versions": {"trl": "1"},
    }
    write_json(path, made | {"inputs": {str(p): sha256(p) for p in inputs}, "outputs": outputs or {}})


def answer_and_score(**candidates):
    """Greedy answers: three right, one wrong, one that fails, one without SQL. The votes are others."""
    right = [row["query"] for row in read_json(Path("dev.json"))]
    greedy = [*right[:3], "SELECT name FROM pet", "SELECT nothing FROM pet", ""]
    votes = [right[0], "SELECT 1,\n 2 -- two", *right[2:6]]
    rows = zip(ASKED, greedy, votes, strict=True)
    out = RESULTS / "candidates/sql_only/graded/seed-3/pets"
    answers = [Candidates(str(i), "pets", format_response("", g), [format_response("", v)] * 2) for i, g, v in rows]
    write_jsonl(out / "candidates.jsonl", answers)
    outputs = {"candidates.jsonl": sha256(out / "candidates.jsonl")}
    settings = {"candidates": {"max_new_tokens": 96} | candidates}
    manifest(out / "manifest.json", "candidates", [POLICY / "manifest.json"], settings, outputs=outputs)
    settings = {"benchmark": {"layout": "spider", "limit": 6}, "score": {"resamples": 200}, "execution": {}}
    arguments = ["--settings", json.dumps(settings), "--out", str(SCORED), "--questions", "dev.json", "--databases"]
    arguments += ["databases", "--candidates", f"{out}/candidates.jsonl", "--seed", "3"]
    score.main([*arguments, *(f"--tag={tag}" for tag in ("strategy=sql_only", "reward=graded", "benchmark=pets"))])


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the results that a test may change, as the working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_card_is_what_the_hub_reads(folder):
    main(["export", "out/hub"])
    card = ModelCard.load("out/hub/README.md")
    assert (card.data.base_model, card.data.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert card.data.tags == ["text-to-sql", "sqlite", "sql-r1", "grpo"]
    measured = read_json(SCORED / "summary.json")["metrics"]["spider_exec"]
    found = {result.metric_name: result for result in card.data.eval_results}
    assert found.keys() == {"execution accuracy, % (greedy)", "execution accuracy, % (vote)"}
    for method in ("greedy", "vote"):
        result, expected = found[f"execution accuracy, % ({method})"], measured[method]["all"]
        assert (result.dataset_name, result.metric_args["questions"]) == ("pets", 6)
        assert [result.metric_value, result.metric_args["low"]] == [
            round(100 * expected[key], 2) for key in ("value", "low")
        ]
    assert re.search(r"\| pets +\| cold start \(SQL only\) \+ GRPO \(graded reward\) +\| \d+\.\d \[", card.text)
    assert re.search(r"\| commit +\| abc123 +\|", card.text)
    assert "In a checkout of sqlr1 at commit abc123, `snakemake" in card.text
    assert "{" not in re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)  # nothing of the template is left


def test_the_folder_has_all_files_and_the_report_of_this_policy(folder):
    main(["export", "hub", "--experiment", "tiny"])
    model = {path.name for path in (POLICY / "model").iterdir()}
    more = {"README.md", "manifest.json", "settings.yaml", "predictions", "report.md"}
    assert {path.name for path in Path("hub").iterdir()} == model | more
    assert all((POLICY / "model" / name).read_bytes() == Path("hub", name).read_bytes() for name in model)
    assert not list(folder.glob(".*.tmp"))


def verdicts(predictions, questions):
    main([
        "score", "--benchmark", "spider", "--questions", questions, "--databases", "databases", "--workers", "1",
        "--predictions", predictions, "--out", "scored.jsonl",
    ])  # fmt: skip
    return {row["index"]: row["verdict"] for _, row in read_jsonl(Path("scored.jsonl"))}


@pytest.mark.parametrize("method", ["greedy", "vote"])
def test_the_predictions_are_scored_as_the_stage_did(folder, method):
    """BIRD's file beside the benchmark's questions; Spider's beside its golds, as Spider's script takes them."""
    main(["export", "hub"])
    expected = {row["index"]: row[method]["verdict"] for _, row in read_jsonl(SCORED / "questions.jsonl")}
    assert len(expected) == 6
    assert set(expected.values()) == {"match", "mismatch"} | ({"failed"} if method == "greedy" else set())
    assert verdicts(f"hub/predictions/pets/{method}.json", "dev.json") == expected
    golds = [line.split("\t") for line in Path("hub/predictions/pets/gold.txt").read_text().splitlines()]
    write_json(Path("golds.json"), [{"db_id": db, "question": "?", "query": sql} for sql, db in golds])
    found = verdicts(f"hub/predictions/pets/{method}.txt", "golds.json")
    assert list(found.values()) == list(expected.values())


def test_the_card_says_whether_answers_were_given_under_masks(folder):
    main(["export", "free"])
    answer_and_score(constrained=True)
    main(["export", "masked"])
    assert ["under masks" in Path(name, "README.md").read_text() for name in ("free", "masked")] == [False, True]


def test_the_folder_answers_as_the_policy_in_results_does(folder, monkeypatch, capsys):
    """Asked by `sqlr1 ask`, with the prompt it was trained on; and by the code in the card, with transformers alone."""
    monkeypatch.setattr(geography, "_TABLE", "CREATE TABLE pet (name TEXT, age INTEGER)")
    monkeypatch.setattr(model_card, "QUESTION", "How many pets are older than 3?")
    # The card's code takes the weights as they are; random ones in bfloat16 would soon write something else.
    monkeypatch.setattr("sqlr1.model.base.native_precision", lambda: "float32")
    main(["export", "hub"])
    texts = []
    for model in (POLICY / "model", Path("hub")):
        policy = Policy(model, Answering(max_new_tokens=256))
        asked = Question("", "", "How many pets are older than 3?", "")
        ids = policy.prompts.token_ids(asked, Path("databases/pets/pets.sqlite"))
        [(_, [text])] = policy.backend.complete([ids], [[GREEDY]], policy.sampling)
        texts.append(text)
        assert (policy.prompts.settings, policy.sha256) == (PROMPT, sha256(POLICY / "model/model.safetensors"))
    [code] = re.findall(r"```+python\n(.*?)\n```+\n", Path("hub/README.md").read_text(), re.DOTALL)
    capsys.readouterr()
    with contextlib.chdir("hub"):
        exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.removesuffix("\n")
    assert len(printed) > 5  # random weights write random bytes
    assert texts == [printed, printed]


def test_the_settings_configure_the_workflow_to_train_it_again(folder):
    main(["export", "hub"])
    config = read_config([CONFIG, Path("hub/settings.yaml")])
    assert (config.experiment, config.seeds, config.reward.variants) == ("tiny", [3], ["graded"])
    assert (config.cold_start.strategy, config.cold_start.learning_rate) == ("sql_only", 0.5)
    assert (config.grpo, config.prompt, config.base_model) == (GRPO_SETTINGS, PROMPT, WHEEL)
    assert config.candidates.max_new_tokens == 96


def refuse(*_):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_weights_are_linked_or_else_copied_and_nothing_else_is(folder, monkeypatch):
    main(["export", "linked"])
    assert [path.name for path in Path("linked").rglob("*") if path.is_file() and path.stat().st_nlink > 1] == [
        "model.safetensors"
    ]
    monkeypatch.setattr(os, "link", refuse)
    main(["export", "copied"])
    weights = [Path(name, "model.safetensors") for name in ("linked", "copied")]
    assert weights[1].stat().st_nlink == 1
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_scores_and_report_of_an_older_policy_are_left_out(folder, capsys):
    """The policy was trained again, with another result, and not yet scored; its base model was deleted."""
    Path(RESULTS / "base_model/manifest.json").unlink()
    changed = read_json(POLICY / "manifest.json")
    write_json(POLICY / "manifest.json", changed | {"versions": {"trl": "2"}})
    main(["export", "hub"])
    assert "no predictions and no report" in capsys.readouterr().out
    assert not Path("hub/predictions").exists()
    assert not Path("hub/report.md").exists()
    card = ModelCard.load("hub/README.md")
    assert (card.data.eval_results, card.data.base_model, card.data.license) == (None, None, None)
    assert "License: whatever the base model's" in card.text
    assert "This policy has not been scored." in card.text
    assert "Base model: unknown" in card.text
    assert "In a checkout of sqlr1, `snakemake" in card.text
    assert re.search(r"not in settings.yaml +\| .*base_model, .*benchmarks, ", card.text)


def test_it_may_be_run_elsewhere_and_results_may_be_a_link(folder, monkeypatch, capsys):
    main(["export", "here"])
    Path("results").rename("store")
    Path("results").symlink_to("store")
    Path("else where").mkdir()
    monkeypatch.chdir("else where")
    main(["export", "../else where/hub", "--model", str(folder / POLICY / "model")])
    for name in ("README.md", "settings.yaml", "predictions/pets/vote.json", "report.md"):
        assert Path("hub", name).read_bytes() == (folder / "here" / name).read_bytes()
    assert "hf upload USER/NAME '../else where/hub'\n" in capsys.readouterr().out


def test_a_strategy_whose_manifest_changed_is_that_of_the_folder_or_unknown(folder):
    """The cold start was made again: the policy keeps its scores, in the workflow's folder also its name."""
    start = RESULTS / "cold_start/sql_only/seed-3/manifest.json"
    write_json(start, read_json(start) | {"versions": {"trl": "2"}})
    shutil.copytree(POLICY, "moved")
    for name, label, strategy in (
        (POLICY, "cold start (SQL only)", {"strategy": "sql_only"}),
        ("moved", "unknown", {}),
    ):
        main(["export", f"hub/{label}", "--model", f"{name}/model"])
        card = ModelCard.load(f"hub/{label}/README.md")
        assert f"Policy: {label} + GRPO (graded reward)," in card.text
        assert yaml.safe_load(Path(f"hub/{label}/settings.yaml").read_text())["cold_start"] == strategy
        assert bool(card.data.eval_results) == (name == POLICY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hub", "--experiment", "absent"], "results/absent: no trained policy; run `snakemake --cores all` first"),
        (["hub", "--experiment", "/absent"], "error: /absent: no trained policy; run `snakemake --cores all` first"),
        (["databases"], "databases: exists and is not empty; choose another folder, or delete this one"),
        (["dev.json"], "dev.json: exists and is not empty"),
        (["dev.json/hub"], "Not a directory"),
        (["results/hub"], "results/hub: is in "),
        (["results/tiny/report/hub"], "for results alone; choose a folder elsewhere"),
        (["hub", "--model", "databases"], "databases: no manifest.json beside it; name a model folder in results/"),
        (["hub", "--model", "broken/model"], "model.safetensors: missing or not what "),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(folder, arguments, message):
    shutil.copytree(POLICY, "broken")
    Path("broken/model/model.safetensors").write_bytes(b"cut off")
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["export", *arguments])
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert sorted(folder.rglob("*")) == before
