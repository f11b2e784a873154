"""The real workflow on the smoke experiment: it runs, is a no-op afterwards, and an edit re-runs what it touches."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, copy_checkout, snakemake
from screenshots import CHROMIUM, chromium, comparison, served

from sqlr1.database.sql import normal_form, parse, without_literals
from sqlr1.records import sha256

# The overlay that the tests edit lies in the copy.
SMOKE = ("--configfile", "workflow/config/smoke.yaml", "fast.yaml")
# Of the smoke experiment's three policies (base model, cold start, GRPO) those that an edit touches.
TRAINED = {"grpo": 1, "candidates": 1, "score": 1, "report": 1}
SELECTED = {"select": 1} | TRAINED
EVERYTHING = {"base_model": 1, "synthesize": 1, "filter": 1, "cold_start": 1} | SELECTED | {"candidates": 3, "score": 3}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A finished run of the smoke experiment in a copy of the checkout: all stages, with the real pretrained model."""
    return clean_run(tmp_path_factory.mktemp("smoke"))


def clean_run(folder):
    copy_checkout(folder)
    shutil.copy2(ROOT / "tests/fast.yaml", folder)
    run = snakemake(folder, *SMOKE)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return folder


@pytest.fixture
def edit(checkout):
    """Replace text in a file for the length of one test; the modification time changes too."""
    originals = {}

    def replace(name, old, new):
        path = checkout / name
        originals.setdefault(path, path.read_text())
        text = path.read_text()
        assert old in text, f"{name} no longer holds {old!r}"
        path.write_text(text.replace(old, new, 1))

    yield replace
    for path, text in originals.items():
        path.write_text(text)


def planned(folder, *targets, configfile=()):
    """Rule -> number of jobs that `snakemake -n` plans for the targets."""
    run = snakemake(folder, *targets, "-n", *SMOKE, *configfile)
    assert run.returncode == 0, run.stdout + run.stderr
    stats = (run.stdout + run.stderr).split("Job stats:")[-1]
    table = re.findall(r"^(\w+) +(\d+)$", stats, re.MULTILINE)
    return {
        rule: int(count)
        for rule, count in table
        if rule not in ("total", "all", "ablation_reward", "ablation_cold_start")
    }


def test_everything_asked_for_is_there(checkout):
    results = checkout / "results/smoke"
    report = (results / "report.md").read_text()
    for heading in ("Appendix: configuration", "Data", "Training", "Scores", "Worked examples"):
        assert heading in report
    summaries = list(results.glob("score/*/*/*/*/summary.json"))
    assert len(summaries) >= 3
    for path in summaries:
        assert json.loads(path.read_text())["questions"] > 0


def sqlr1_command(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(folder / "workflow")}
    command = [sys.executable, "-m", "sqlr1.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_trained_policy_answers_questions(checkout):
    """By the newest policy, found by itself: once as text, once as JSON for two lines of input."""
    database = "results/smoke/synthesize/databases/library/library.sqlite"
    text = sqlr1_command(checkout, "ask", database, "How many books are there?")
    assert text.returncode == 0, text.stderr
    assert "results/smoke/grpo/" in text.stderr
    assert text.stdout.strip()
    voted = sqlr1_command(checkout, "ask", database, "List all members.", "--samples", "2", "--json")
    assert voted.returncode == 0, voted.stderr
    record = json.loads(voted.stdout)
    assert record["samples"] == 2
    assert record["status"] in ("ok", "failed", "refused", "timed_out", "too_large")
    absent = sqlr1_command(checkout, "ask", "absent.sqlite", "?")
    assert (absent.returncode, absent.stdout) == (1, "")
    assert "absent.sqlite" in absent.stderr.splitlines()[-1]


# What `sh` blocks of the guides need besides the checkout; blocks of `shell` need a GPU, a cluster or the network.
GUIDES = [path for path in sorted((ROOT / "docs/howto").glob("*.md")) if "```sh\n" in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_the_commands_of_the_guides_run(checkout, guide):
    with sqlite3.connect(checkout / "my.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE IF NOT EXISTS customer (id INTEGER PRIMARY KEY, name TEXT, city TEXT);"
            "INSERT OR IGNORE INTO customer VALUES (1, 'Ada', 'Rome'), (2, 'Bob', 'Oslo'), (3, 'Cy', 'Rome');"
        )
    connection.close()
    (checkout / "databases/my").mkdir(parents=True, exist_ok=True)
    shutil.copy2(checkout / "my.sqlite", checkout / "databases/my/my.sqlite")
    question = {"db_id": "my", "question": "How many?", "query": "SELECT COUNT(*) FROM customer"}
    (checkout / "mine.json").write_text(json.dumps([question]))
    (checkout / "predictions.txt").write_text("SELECT COUNT(*) FROM customer\n")
    blocks = re.findall(r"^```sh\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(checkout / "workflow"), "PATH": path}
    assert blocks
    for block in blocks:
        run = subprocess.run(
            ["bash", "-euc", block], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, block + run.stdout[-2000:] + run.stderr[-2000:]


@pytest.mark.slow
def test_from_a_file_to_a_policy(data_root, tmp_path):
    """`sqlr1 init` on a folder with one database, then every stage with the real pretrained model: two minutes."""
    copy_checkout(tmp_path)
    shutil.copy2(ROOT / "tests/fast.yaml", tmp_path)
    made = sqlr1_command(tmp_path, "init", str(data_root / "chinook"))
    assert made.returncode == 0, made.stderr
    small = {key: {"max_new_tokens": 16} for key in ("select", "candidates")} | {"grpo": {"max_completion_length": 16}}
    small |= {"synthesize": {"folder_questions": 200}, "filter": {"test_rows": 8}}
    (tmp_path / "small.yaml").write_text(json.dumps(small))
    configfiles = (*SMOKE, "workflow/config/chinook.yaml", "small.yaml")
    run = snakemake(tmp_path, *configfiles)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    results = tmp_path / "results/chinook"
    funnel = json.loads((results / "filter/funnel.json").read_text())
    assert funnel["dropped"]["contaminated_database"] == 0
    assert funnel["subsets"] == {"test": 8, "validation": 8, "rl": 8, "cold_start": 32}
    forms = {name: sql_forms(results / f"filter/{name}.jsonl") for name in funnel["subsets"]}
    assert not forms["test"] & (forms["validation"] | forms["rl"] | forms["cold_start"])
    summaries = [json.loads(path.read_text()) for path in results.glob("score/*/*/seed-0/own/summary.json")]
    assert [summary["questions"] for summary in summaries] == [8, 8, 8]
    assert "own" in (results / "report.md").read_text()
    again = snakemake(tmp_path, "-n", *configfiles)
    assert "Nothing to be done" in again.stdout + again.stderr


def sql_forms(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {without_literals(normal_form(parse(row["sql"])[0])) for row in rows}


@pytest.mark.slow
def test_another_clean_run_gives_equal_files(checkout, tmp_path):
    """Every result file; times and run ids are in logs, benchmarks and MLflow's store. It runs everything again."""
    first, second = (result_hashes(folder / "results/smoke") for folder in (checkout, clean_run(tmp_path)))
    assert len(first) > 50
    assert first == second


def result_hashes(results):
    paths = [p for p in sorted(results.rglob("*")) if p.is_file()]
    names = {p: p.relative_to(results) for p in paths}
    return {str(n): sha256(p) for p, n in names.items() if n.parts[0] not in ("logs", "benchmarks")}


def test_every_stage_is_tracked_as_finished(checkout):
    with sqlite3.connect(checkout / "results/mlflow.db") as store:
        rows = store.execute(
            "SELECT t.value, r.status FROM runs r JOIN tags t USING (run_uuid) WHERE t.key = 'stage'"
        ).fetchall()
    stages = {"base_model", "synthesize", "filter", "cold_start", "select", "grpo", "candidates", "score", "report"}
    assert {stage for stage, _ in rows} == stages
    assert {status for _, status in rows} == {"FINISHED"}


def html_report(folder, *targets, configfile=()):
    """Category -> the captions of its files, out of Snakemake's HTML report."""
    run = snakemake(folder, *targets, "--report", "report.html", *SMOKE, *configfile)
    assert run.returncode == 0, run.stdout + run.stderr
    html = (folder / "report.html").read_text()
    scripts = (html.split(f'<script id="{name}">')[1] for name in ("results", "categories"))
    results, categories = (json.JSONDecoder().raw_decode(script.partition("= ")[2])[0] for script in scripts)
    return {
        category: " ".join(results[path]["caption"] for paths in groups.values() for path in paths)
        for category, groups in categories.items()
    }


def test_the_html_report_has_the_results_by_category_with_their_captions(checkout):
    captions = html_report(checkout)
    assert captions.keys() == {"Report", "Data", "Training", "Scores"}
    assert "worked examples and configuration of experiment" in captions["Report"]
    assert "smoke" in captions["Report"]
    assert "How many synthesized questions were dropped" in captions["Data"]
    assert "RL questions by how many of the cold start" in captions["Data"]
    assert "A rising reward alone" in captions["Training"]
    assert "self-consistency vote" in captions["Scores"]


@pytest.fixture
def browser():
    if not CHROMIUM:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    return chromium


@pytest.mark.slow
def test_the_html_report_opens_without_a_network(checkout, browser):
    html_report(checkout)
    page = browser(f"file://{checkout}/report.html", "--dump-dom", offline=True)
    assert "Uncaught" not in page.stderr
    shown = re.sub(r"<script.*?</script>", "", page.stdout, flags=re.DOTALL)
    for category in ("Report", "Data", "Training", "Scores"):
        assert category in shown


def test_mlflow_has_policies_with_scores_and_an_answer_per_question(checkout):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{checkout}/results/mlflow.db")
    experiment = client.get_experiment_by_name("smoke").experiment_id
    models = client.search_logged_models([experiment])
    assert {model.params["stage"] for model in models} == {"base_model", "cold_start", "grpo"}
    questions = 4  # of fast.yaml
    for model in models:
        assert {metric.dataset_name for metric in model.metrics} == {"built_in"}
        assert len(client.search_traces(locations=[experiment], model_id=model.model_id)) == questions
    [report] = client.search_runs([experiment], "tags.stage = 'report'")
    assert len(client.search_traces(locations=[experiment], run_id=report.info.run_id)) == 3


@pytest.mark.slow
def test_the_links_of_the_ui_lead_to_runs_policies_and_answers(checkout, browser, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(checkout / "workflow"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with served(checkout) as links:
        shown = {what: browser(link, "--dump-dom").stdout for what, link in links.items()}
        answers = comparison(links["smoke, answers by question"], checkout / "results/mlflow.db")
        compared = browser(answers, "--dump-dom", width=2200).stdout
    assert "grpo/reasoning/full/seed-0" in shown["smoke, training curves"]
    assert "validation" in shown["smoke, training curves"] or "bird_ex" in shown["smoke, training curves"]
    assert "grpo-reasoning-full-seed-0" in shown["smoke, policies, ranked"]
    assert "built_in" in shown["smoke, policies, ranked"]
    assert "score/reasoning/full/seed-0/built_in" in shown["smoke, answers by question"]
    assert "error_kind" in compared


@pytest.mark.alone
def test_no_op_plans_nothing_in_two_seconds(checkout, tmp_path):
    """Or, where Snakemake needs more than a second for an empty workflow, in twice as long as that."""
    assert planned(checkout) == {}
    (tmp_path / "Snakefile").write_text("rule all:\n")
    shares = []
    for _ in range(3):
        start = time.perf_counter()
        snakemake(tmp_path, "--cores", "1", "-n")
        between = time.perf_counter()
        snakemake(checkout, *SMOKE, "-n")
        shares.append((time.perf_counter() - between) / (2 * max(1, between - start)))
    assert min(shares) < 1


def test_every_job_is_told_in_one_line_with_its_reason(checkout):
    """Snakemake's own text of a job lists all its files: hundreds of databases."""
    targets = ("all", "ablation_reward", "ablation_cold_start", "paper_tables")
    run = snakemake(checkout, *targets, "-n", "--forceall", *SMOKE)
    told = re.findall(r"^Job \d+: (\w+): .+\nReason: ", run.stdout + run.stderr, re.MULTILINE)
    assert set(told) == {*EVERYTHING, *targets}
    assert "    input:" not in run.stdout + run.stderr


def test_a_touched_module_plans_nothing(checkout):
    os.utime(checkout / "workflow/sqlr1/rewards.py")
    assert planned(checkout) == {}


def test_other_cores_plan_nothing(checkout):
    assert planned(checkout, "--cores", "1") == {}


def test_data_stages_work_in_as_many_processes_as_snakemake_gives_them_cores(checkout):
    target = "results/smoke/filter/funnel.json"
    run = snakemake(checkout, target, "-n", "-p", "--forceall", "--cores", "1", *SMOKE)
    assert (run.stdout + run.stderr).count("--workers 1") == 2


def test_an_edit_in_rewards_reruns_grpo_and_what_follows(checkout, edit):
    edit("workflow/sqlr1/rewards.py", '"""', '"""Edited. ')
    assert planned(checkout) == TRAINED


def test_one_key_of_select_reruns_the_selection_and_what_follows(checkout, edit):
    edit("fast.yaml", "max_new_tokens: 16", "max_new_tokens: 15")  # the first one is of select
    assert planned(checkout) == SELECTED


def test_another_reward_variant_trains_only_itself(checkout):
    (checkout / "variants.yaml").write_text("reward: {variants: [full, binary]}")
    jobs = planned(checkout, configfile=["variants.yaml"])
    assert jobs == {"grpo": 1, "candidates": 1, "score": 1, "report": 1}


def test_one_key_of_grpo_reruns_grpo_and_what_follows(checkout, edit):
    edit("fast.yaml", "max_completion_length: 16", "max_completion_length: 15")
    assert planned(checkout) == TRAINED


def test_a_swapped_pair_of_values_is_noticed(checkout, edit):
    pair = "execution: {{right: {0}, wrong: -{0}}}\n  result: {{right: {1}, wrong: -{1}}}"
    edit("config.yaml", pair.format(2, 3), pair.format(3, 2))
    assert planned(checkout) == TRAINED


def test_another_pin_reruns_every_stage_that_computes(checkout, edit):
    edit("constraints.txt", "torch==2.13.0", "torch==2.13.1")
    assert planned(checkout) == EVERYTHING


def test_a_new_seed_plans_only_its_jobs(checkout):
    (checkout / "seeds.yaml").write_text("seeds: [0, 1]")
    jobs = planned(checkout, configfile=["seeds.yaml"])
    benchmarks = len(list((checkout / "results/smoke/candidates/reasoning/full/seed-0").iterdir()))
    assert jobs == {
        "cold_start": 1,
        "select": 1,
        "grpo": 1,
        "candidates": 2 * benchmarks,  # the base model has no seed of its own
        "score": 2 * benchmarks,
        "report": 1,
    }


def test_a_deleted_output_is_made_again(checkout):
    path = next((checkout / "results/smoke/score/reasoning/full/seed-0").glob("*/predictions.txt"))
    text = path.read_text()
    path.unlink()
    try:
        assert planned(checkout) == {"score": 1, "report": 1}
    finally:
        path.write_text(text)


def test_an_unrelated_module_plans_nothing(checkout, edit):
    edit("workflow/sqlr1/cli.py", '"""', '"""Edited. ')
    assert planned(checkout) == {}


def test_the_reward_ablation_plans_a_policy_for_each_dropped_part(checkout):
    assert planned(checkout, "ablation_reward") == {"grpo": 4, "candidates": 4, "score": 4, "ablation": 1}


def test_the_cold_start_ablation_plans_the_policies_that_are_not_there_yet(checkout):
    """There are the base model and, after a cold start with reasoning, the policies without and with RL."""
    assert planned(checkout, "ablation_cold_start") == {
        "cold_start": 2,  # none (a copy of the base model, for RL to start from) and sql_only
        "select": 2,  # for none and sql_only, as grpo
        "grpo": 2,
        "candidates": 3,
        "score": 3,
        "ablation": 1,
    }


def test_the_papers_tables_plan_the_ablations_that_the_configuration_names(checkout):
    (checkout / "ablations.yaml").write_text("paper_tables: {ablations: [ablation_reward]}")
    more = {"grpo": 4, "candidates": 4, "score": 4, "paper_tables": 1}
    assert planned(checkout, "paper_tables", configfile=["ablations.yaml"]) == more
    (checkout / "ablations.yaml").write_text("paper_tables: {ablations: []}")
    assert planned(checkout, "paper_tables", configfile=["ablations.yaml"]) == {"paper_tables": 1}


@pytest.mark.slow
def test_ablation_reward_and_the_papers_tables_run(checkout):
    """It trains four more policies, two at a time: much of such a small job is imports, which keep one core busy."""
    (checkout / "ablations.yaml").write_text("paper_tables: {ablations: [ablation_reward]}")
    threads = ("--set-threads", "grpo=1", "candidates=1", "score=1")
    run = snakemake(checkout, "ablation_reward", "paper_tables", *SMOKE, "ablations.yaml", *threads)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    table = (checkout / "results/smoke/ablation_reward/table.csv").read_text()
    for variant in ("full", "no_format", "no_execution", "no_result", "no_length"):
        assert variant in table
    assert planned(checkout, "ablation_reward") == {}
    assert "Execution accuracy of each variant" in html_report(checkout, "ablation_reward")["Ablations"]
    tables = (checkout / "results/smoke/paper/tables.md").read_text()
    assert "| GRPO without length reward | built_in" in tables
    assert "`snakemake ablation_cold_start`, then `snakemake paper_tables`" in tables
    assert planned(checkout, "paper_tables", configfile=["ablations.yaml"]) == {}
    captions = html_report(checkout, "paper_tables", configfile=["ablations.yaml"])
    assert "The paper's numbers" in captions["Paper"]
