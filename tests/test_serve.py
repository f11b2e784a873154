"""The trained policy as a registered MLflow model: loaded in Python, served over HTTP, refused when it has changed."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import mlflow
import pytest
from tiny_stages import prepare, teach

from sqlr1 import tracking
from sqlr1.records import InputError

MODEL = "models:/mine@best"
ASKED = {"question": "How many pets are older than 3?", "database": "databases/pets/pets.sqlite"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a tiny policy, `base/manifest.json`, registered as `mine`, and MLflow's store."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/results/mlflow.db")
    register(tmp_path)
    return tmp_path


def register(folder):
    with tracking.track("mine", "results/mine/report", {}, {}, {}) as run:
        run.register(folder / "base/manifest.json", "mine")


def test_a_loaded_policy_answers_each_row(folder):
    """A database that is not there is the error of its row alone; no bytes of the weights are in the store."""
    model = mlflow.pyfunc.load_model(MODEL)
    rows = [ASKED | {"evidence": ""}, ASKED | {"database": "absent.sqlite"}]
    answer, absent = model.predict(rows)
    assert answer.keys() >= {"question", "reasoning", "sql", "rows", "error"}
    assert absent["error"].startswith("absent.sqlite: ")
    [without_evidence] = model.predict([ASKED])
    assert without_evidence == answer
    assert sum(path.stat().st_size for path in (folder / "results/mlartifacts").rglob("*") if path.is_file()) < 20_000


def test_a_policy_that_has_changed_is_refused_until_it_is_registered_again(folder):
    weights = folder / "base/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"model\.safetensors: missing or not what .*manifest\.json says"):
        mlflow.pyfunc.load_model(MODEL)
    manifest = folder / "base/manifest.json"
    manifest.write_text(json.dumps({"outputs": {}}))
    with pytest.raises(InputError, match=r"manifest\.json: missing, or of another policy than the registered one"):
        mlflow.pyfunc.load_model(MODEL)
    prepared = folder / "again"
    prepare(prepared)
    register(prepared)
    assert mlflow.pyfunc.load_model(MODEL).predict([ASKED])
    assert mlflow.MlflowClient().get_model_version_by_alias("mine", "best").version == 2


@pytest.mark.slow
def test_mlflow_serves_the_policy_over_http(folder):
    """The command of docs/howto/serve.md, on a free port, with a policy that was taught this question."""
    teach(folder)
    register(folder)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    command = ["mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local", "--port", str(port)]
    log = folder / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=os.environ | {"PATH": path}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/ping", process, log)
        body = json.dumps({"inputs": [ASKED]}).encode()
        request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            [answer] = json.load(response)["predictions"]
        assert answer["sql"].startswith("SELECT count(*) FROM pet WHERE age > ")
        assert (answer["rows"], answer["error"]) in (([[n]], "") for n in range(3))
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def wait_for(url, process, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer from {url}:\n{log.read_text()}")
