"""A stage's run in MLflow: tags, parameters, inputs, one run per result, and the status of a stopped run."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from sqlr1 import tracking
from sqlr1.records import InputError, sha256
from sqlr1.stages.common import stage, stage_parser

SETTINGS = '{"prompt": {"schema": "compact", "max_length": 384}}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the store, shared by the tests because making its tables takes seconds."""
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(autouse=True)
def away_from_the_checkout(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def start(experiment, out="results/probe", *arguments, inputs=()):
    parser = stage_parser("A probe.")
    parser.add_argument("--questions", type=Path, nargs="*")
    common = ["--settings", SETTINGS, "--experiment", experiment, "--out", out]
    return stage("report", parser, [*common, *arguments], inputs)


def runs(experiment, view=ViewType.ACTIVE_ONLY):
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE.resolve()}")
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id], run_view_type=view)


def test_a_run_names_its_stage_wildcards_settings_inputs_and_model(folder):
    paths = [folder / "a.jsonl", folder / "b.jsonl", folder / "pets.sqlite"]
    for path in paths:
        path.write_text(path.name)
    tags = ("--seed", "3", "--tag", "strategy=reasoning", "--questions", *map(str, paths[:2]))
    with start("named", "results/named/probe", *tags, inputs=["questions"]) as job:
        job.reads(paths[2:])
        (job.out / "model").mkdir()
        weights = job.out / "model/model.safetensors"
        weights.write_text("weights")
        job.outputs("model/model.safetensors")
    [run] = runs("named")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "probe")
    expected = {
        "stage": "report",
        "strategy": "reasoning",
        "seed": "3",
        "key": "results/named/probe",
        "input.questions.0": sha256(paths[0])[:16],
        "input.questions.1": sha256(paths[1])[:16],
        "model": "results/named/probe/model",
        "model_sha256": sha256(weights),
    }
    assert {name: run.data.tags.get(name) for name in expected} == expected
    assert len(run.data.tags["settings_sha256"]) == 16
    expected = {"prompt.schema": "compact", "prompt.max_length": "384"}
    assert {name: run.data.params.get(name) for name in expected} == expected
    logged = {(i.dataset.source, i.dataset.digest) for i in run.inputs.dataset_inputs}
    assert logged == {(str(path), sha256(path)[:8]) for path in paths}


def test_the_same_result_made_again_replaces_its_run_and_no_other(folder):
    for value, out in ((1, "results/again"), (2, "results/beside"), (3, "results/again")):
        with start("again", out) as job:
            job.run.metrics({"loss": value}, step=5)
    assert {(r.data.tags["key"], r.data.metrics["loss"]) for r in runs("again")} == {
        ("results/beside", 2),
        ("results/again", 3),
    }
    [replaced] = runs("again", ViewType.DELETED_ONLY)
    assert replaced.data.metrics == {"loss": 1}


def test_a_shared_store_keeps_what_each_checkout_made(folder, monkeypatch):
    """Its runs, its models and the alias of its registered policy; Ann's second run replaces her first."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/shared.db")
    for who, host in (("ann", "login"), ("ben", "login"), ("ann", "node-7")):
        (folder / who).mkdir(exist_ok=True)
        monkeypatch.chdir(folder / who)
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        out = make_policy("policy")
        with start("ranked", "results/ranked/report") as job:
            job.run.register(out / "manifest.json", "ranked")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/shared.db")
    experiment = client.get_experiment_by_name("ranked").experiment_id
    checkouts = {f"login:{folder}/{who}" for who in ("ann", "ben")}
    for found in (client.search_runs([experiment], "tags.key = 'results/ranked/policy'"),
                  client.search_logged_models([experiment])):  # fmt: skip
        tags = [getattr(one, "tags", None) or one.data.tags for one in found]
        assert sorted(tag["checkout"] for tag in tags) == sorted(checkouts)
    versions = {v.version: v.tags["checkout"] for v in client.search_model_versions("name = 'ranked'")}
    assert len(versions) == 3
    best = client.get_model_version_by_alias("ranked", "best")
    assert (best.version, versions[best.version]) == (3, f"login:{folder}/ann")


def test_an_experiment_that_was_deleted_comes_back_with_one_run_per_result():
    def score(value, out):
        with start("gone", out) as job:
            job.run.metrics({"loss": value})

    score(1, "results/a")
    score(2, "results/a")
    score(3, "results/b")
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE.resolve()}")
    experiment = client.get_experiment_by_name("gone").experiment_id
    for _ in range(2):
        client.log_metric(client.create_run(experiment).info.run_id, "loss", 9)  # not the workflow's
    client.delete_experiment(experiment)
    score(4, "results/c")
    assert sorted(run.data.metrics["loss"] for run in runs("gone")) == [2, 3, 4, 9, 9]


def test_a_folder_that_was_moved_is_named_and_costs_no_result(folder, capsys):
    """The old place of the artifacts cannot be made: a file is in its way."""
    (folder / "old").touch()
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE.resolve()}")
    client.create_experiment("moved", f"file://{folder}/old/mlartifacts")
    with start("moved", "results/moved"):
        pass
    moved, lost = (line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
    assert f"experiment moved in file://{folder}/old/mlartifacts: this folder was moved or copied" in moved
    assert "the rest of this job is not tracked" in lost
    assert Path("results/moved/manifest.json").exists()


@pytest.mark.parametrize("fault", [InputError("questions.jsonl:2: not valid JSON"), RuntimeError("a defect")])
def test_a_run_that_fails_says_so_and_keeps_its_metrics(fault):
    def fail():
        with start(experiment) as job:
            job.run.metrics({"loss": 4}, step=1)
            raise fault

    experiment = type(fault).__name__
    with pytest.raises(SystemExit, match="1"):
        fail()
    [run] = runs(experiment)
    assert (run.info.status, run.data.metrics) == ("FAILED", {"loss": 4})


# Runs as a process that gets a signal: it prints a line when its run is open, and waits.
STOPPED = """
import signal
from sqlr1.stages.common import stage, stage_parser
arguments = ["--settings", "{}", "--experiment", "stopped", "--out", "stopped", "--log", "stopped.log"]
with stage("report", stage_parser("A probe."), arguments) as job:
    job.run.metrics({"loss": 5})
    print("open", flush=True)
    signal.pause()
"""


def test_a_run_that_is_stopped_by_a_signal_ends_as_failed():
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        assert [run.info.status for run in runs("stopped")] == ["RUNNING"]
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    [run] = runs("stopped")
    assert (run.info.status, run.data.metrics) == ("FAILED", {"loss": 5})
    assert not Path("stopped/manifest.json").exists()
    assert "stopped by SIGTERM" in Path("stopped.log").read_text()


def test_a_store_named_in_the_environment_is_used_instead(folder, monkeypatch):
    store = folder / "elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    with start("elsewhere"):
        pass
    client = mlflow.MlflowClient(f"sqlite:///{store}")
    assert client.get_experiment_by_name("elsewhere")


def test_a_store_that_fails_for_a_while_ends_no_training_and_loses_no_metric(monkeypatch):
    """Its server is restarted, or its database is locked. At the end of the run it must be there."""
    monkeypatch.setattr(tracking, "_BATCH", 2)
    send, failures = mlflow.MlflowClient.log_batch, ["database is locked", "no route to http://ann:secret@host/api"]

    def log_batch(client, run_id, metrics=(), **more):
        if metrics and failures:
            raise MlflowException(failures.pop())
        send(client, run_id, metrics=metrics, **more)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    with start("away", "results/away", "--log", "away.log") as job:
        for step in range(1, 8):
            job.run.metrics({"loss": step}, step=step)
        assert not failures
    [run] = runs("away")
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE.resolve()}")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 8))
    log = Path("away.log").read_text()
    assert log.count("MLflow took no metrics") == 2
    assert "http://host/api" in log
    assert "secret" not in log


TRACKED = """
from pathlib import Path
import mlflow
from sqlr1 import tracking
Path("note.txt").write_text("a note")
for _ in range(2):
    with tracking.track("odd", "results/odd/probe", {}, {}, {}) as run:
        run.artifact(Path("note.txt"))
print([file.path for file in mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE}").list_artifacts(run.run_id)])
"""


@pytest.mark.parametrize("name", ["what?", "50%25 #1 done"])
def test_tracking_stays_inside_a_folder_with_an_odd_name(tmp_path, name):
    """In a process of its own: MLflow keeps a store open, by its path from the first folder."""
    (tmp_path / name).mkdir()
    done = subprocess.run([sys.executable, "-c", TRACKED], cwd=tmp_path / name, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "['note.txt']\n"), done.stderr
    assert "was moved or copied" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in (tmp_path / name / "results").iterdir()) == [
        "mlartifacts",
        "mlflow.db",
        "mlflow.lock",
    ]


UNREACHABLE = """
from sqlr1.stages.common import stage, stage_parser
arguments = ["--settings", "{}", "--experiment", "lost", "--out", "lost"]
with stage("report", stage_parser("A probe."), arguments) as job:
    job.run.metrics({"loss": 5})
    (job.out / "result.txt").write_text("kept")
    job.outputs("result.txt")
"""


def test_a_server_that_is_down_costs_one_warning_and_no_result(tmp_path):
    """MLflow alone would try for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    away = os.environ | {"MLFLOW_TRACKING_URI": f"http://ann:secret@127.0.0.1:{port}"}
    command = [sys.executable, "-c", UNREACHABLE]
    done = subprocess.run(command, cwd=tmp_path, env=away, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("WARNING") == 1, done.stderr
    assert "the rest of this job is not tracked" in done.stderr
    assert "secret" not in done.stderr
    assert json.loads((tmp_path / "lost/manifest.json").read_text())["outputs"].keys() == {"result.txt"}


def test_a_store_that_is_lost_during_a_job_costs_one_warning_and_no_result(capsys):
    with start("cut", "results/cut") as job:
        job.run.client.delete_run(job.run.run_id)  # from now on the store refuses what is logged
        job.run.tags({"a": 1})
        job.run.tags({"b": 2})
    assert capsys.readouterr().err.count("WARNING") == 1
    assert Path("results/cut/manifest.json").exists()


def test_a_run_whose_metrics_are_refused_ends():
    with start("refused", "results/refused") as job:
        job.run.metrics({"bird_ex/hard (joins)": 1})
    assert [run.info.status for run in runs("refused")] == ["FINISHED"]


def test_a_run_of_which_the_store_refused_something_ends(capsys):
    with start("half", "results/half") as job:
        job.run.tags({"(a name that MLflow refuses)": 1})
    assert capsys.readouterr().err.count("WARNING") == 1
    assert [run.info.status for run in runs("half")] == ["FINISHED"]


PROMPT = [{"role": "user", "content": "{{question}}"}]


def make_policy(name, experiment="ranked"):
    with start(experiment, f"results/{experiment}/{name}") as job:
        (job.out / "model").mkdir(exist_ok=True)
        (job.out / "model/model.safetensors").write_text(name)
        job.outputs("model/model.safetensors")
    return job.out


def test_a_folder_with_an_apostrophe_is_one_run_and_one_model(folder):
    for _ in range(2):
        evaluate(make_policy("o'hara", "odd"), 0.5, "odd")
    assert sorted(run.data.tags["key"] for run in runs("odd")) == ["results/odd/ohara", "results/odd/score/ohara"]
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE}")
    experiment = client.get_experiment_by_name("odd").experiment_id
    found = client.search_logged_models([experiment], max_results=50)
    assert [model.tags["key"] for model in found] == ["results/odd/ohara"]


def evaluate(policy, score, experiment="ranked"):
    from sqlr1.traces import Answer

    feedback = {"right": score > 0.5, "error_kind": "none"}
    answer = Answer("pets 0", {"question": "How many?"}, {"sql": f"SELECT {score}"}, "SELECT 1", feedback)
    with start(experiment, f"results/{experiment}/score/{policy.name}") as job:
        job.run.evaluation(policy, ("pets", "0123456789"), {"bird_ex/greedy": score}, [answer])
        job.run.prompt(PROMPT, policy)


def test_policies_are_ranked_by_score_and_their_answers_compared_by_question(folder):
    policies = {make_policy("weak"): 0.25, make_policy("strong"): 0.75}
    for policy, score in policies.items():
        evaluate(policy, 1 - score)
        evaluate(policy, score)  # made again: it counts instead of the first
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE.resolve()}")
    experiment = client.get_experiment_by_name("ranked").experiment_id
    order = [{"field_name": "metrics.bird_ex/greedy", "dataset_name": "pets", "ascending": False}]
    models = client.search_logged_models([experiment], order_by=order)
    assert [model.name for model in models] == ["strong", "weak"]
    assert models[0].tags["model_sha256"] == sha256(folder / "results/ranked/strong/model/model.safetensors")
    last = max(models[0].metrics, key=lambda metric: metric.timestamp)
    assert (last.key, last.value, last.dataset_name) == ("bird_ex/greedy", 0.75, "pets")
    assert {metric.dataset_digest for metric in models[0].metrics} == {"01234567"}
    traces = {t.info.trace_metadata["mlflow.modelId"]: t for t in client.search_traces(locations=[experiment])}
    assert traces.keys() == {model.model_id for model in models}
    assert {str(t.data.spans[0].inputs) for t in traces.values()} == {"{'question': 'How many?'}"}
    found = {a.name: a.value for a in traces[models[0].model_id].info.assessments}
    assert found == {"gold": "SELECT 1", "right": True, "error_kind": "none"}
    assert [dataset.name for dataset in client.search_datasets([experiment])] == ["pets 01234567"]
    assert client.load_prompt("prompts:/sqlr1/1").template == PROMPT
    assert client.load_prompt("prompts:/sqlr1/2", allow_missing=True) is None
    assert not list(folder.glob("mlflow.db"))


def test_traces_that_cannot_be_made_cost_a_warning(caplog):
    tracking.Run().traces(lambda: 1 / 0)
    assert not caplog.text
    with tracking.track("untraced", "k", {}, {}, {}) as run:
        run.traces(lambda: 1 / 0)
    assert "no traces are logged" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert [run.info.status for run in runs("untraced")] == ["FINISHED"]
