"""MLflow. Only this module imports it, and `serve.py`, which MLflow itself runs.

One MLflow experiment per experiment config and one run per job, with the tags `stage`, `key` (the folder that the job
writes), `settings_sha256`, one per wildcard and one per input hash. If a job runs again, its old runs (same key) are
deleted, so that the UI shows one run per result. Metrics are sent in batches, because a single call takes 23 ms.
The store is `results/mlflow.db` unless MLFLOW_TRACKING_URI is set.
"""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from sqlr1.records import InputError, sha256

DEFAULT_STORE = Path("results/mlflow.db")
_BATCH = 500
log = logging.getLogger(__name__)


class Run:
    """An active MLflow run. `metrics` may be called at every step, the other methods only now and then."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id
        self._buffer: list[Any] = []
        self._full = _BATCH

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record scalar metrics at `step`; sent when the buffer is full or the run ends.

        A store that fails meanwhile, such as a server that is being restarted, must not end days of training: the
        metrics are kept, and sent with the next ones.
        """
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = int(time.time() * 1000)
        self._buffer += [Metric(name, float(value), now, step) for name, value in values.items()]
        if len(self._buffer) < self._full:
            return
        try:
            self.flush()
        except MlflowException as error:
            self._full = len(self._buffer) + _BATCH
            log.warning("MLflow took no metrics; they are kept and sent later (%s)", str(error).split("\n")[0])

    def flush(self) -> None:
        """Send buffered metrics, at most 1,000 per call (the store's limit)."""
        for start in range(0, len(self._buffer), 1000):
            self._client.log_batch(self.run_id, metrics=self._buffer[start : start + 1000])
        self._buffer, self._full = [], _BATCH

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, for instance the path and hash of a model."""
        for name, value in values.items():
            self._client.set_tag(self.run_id, name, str(value))

    def inputs(self, hashes: Mapping[str, str]) -> None:
        """Log the files that the job reads (path -> sha256) as dataset inputs."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tag = InputTag("mlflow.data.context", "input")
        found = [DatasetInput(Dataset(Path(p).name, h[:8], "local", p), [tag]) for p, h in hashes.items()]
        for start in range(0, len(found), 100):
            self._client.log_inputs(self.run_id, found[start : start + 100])

    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Log rows (for instance results per question) as a table that the UI can filter. `name` ends in .json."""
        columns = list(rows[0]) if rows else []
        self._client.log_table(self.run_id, {c: [row[c] for row in rows] for c in columns}, name)

    def figure(self, figure: Any, name: str) -> None:
        """Log a matplotlib figure as an image."""
        self._client.log_figure(self.run_id, figure, name)

    def artifact(self, path: Path) -> None:
        """Log a small text file (a report, a manifest). Models are not copied; they are logged by path and hash."""
        self._client.log_artifact(self.run_id, str(path))

    def register(self, manifest: Path, name: str) -> None:
        """Register the policy beside a stage's `manifest` as a version of the MLflow model `name`, alias `best`.

        The model holds the path and hash of the manifest, which has the hashes of the weights. These stay where they
        are.
        """
        import mlflow

        with TemporaryDirectory() as folder:
            mlflow.pyfunc.save_model(
                f"{folder}/policy",
                python_model=str(Path(__file__).with_name("serve.py")),  # not imported: a stage does not depend on it
                model_config={"manifest": str(manifest.resolve()), "sha256": sha256(manifest)},
                pip_requirements=[f"mlflow=={mlflow.__version__}"],  # given: to find them, it would load the policy
            )
            self._client.log_artifacts(self.run_id, f"{folder}/policy", "policy")
        source = f"{self._client.get_run(self.run_id).info.artifact_uri}/policy"
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        version = self._client.create_model_version(name, source, self.run_id).version
        self._client.set_registered_model_alias(name, "best", version)


class SilentRun(Run):
    """Logs nothing; for all processes of a distributed job except the first."""

    def __init__(self) -> None:
        super().__init__(client=None, run_id="")
        self.metrics = self.tags = self.inputs = self.table = self.figure = self.artifact = lambda *_, **__: None


def reachable() -> str:
    """Where runs are tracked. Raises InputError if a server does not answer."""
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = _store_uri()
    if not uri.startswith("sqlite"):
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
        try:
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
        except MlflowException as error:
            reason = str(error).split("\n")[0]
            raise InputError(f"{uri} (MLFLOW_TRACKING_URI) does not answer: {reason:.200}") from error
    return uri


def _store_uri() -> str:
    path = DEFAULT_STORE.resolve()
    # A question mark would begin the URI's options, and SQLAlchemy knows no way to quote it.
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE if '?' in str(path) else path}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


@contextlib.contextmanager
def track(
    experiment: str, key: str, tags: Mapping[str, Any], settings: Mapping[str, Any], datasets: Mapping[str, str]
) -> Iterator[Run]:
    """Run the block as an MLflow run: tag `key`, `settings` as flat params, `datasets` (path -> sha256) as inputs.

    The run ends as FINISHED, or as FAILED if the block raises (also SystemExit, which the stages raise on SIGTERM).
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow
    from mlflow.entities import Param
    from mlflow.utils.git_utils import get_git_commit

    uri = _store_uri()
    # Processes that create the tables of a new SQLite store at the same time crash.
    DEFAULT_STORE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(DEFAULT_STORE.with_suffix(".lock")):
        # Not mlflow.set_tracking_uri: it sets the variable for this process and its children.
        client = mlflow.MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        # Artifacts go beside a local store; a server has a place of its own for them.
        kind, _, store = uri.partition(":///")
        location = (Path(store).resolve().parent / "mlartifacts").as_uri() if kind == "sqlite" else None
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, location)
    for old in client.search_runs([experiment_id], f"tags.key = '{key}'"):
        client.delete_run(old.info.run_id)
    commit = get_git_commit(str(Path(__file__).parent))
    all_tags = {"key": key, **tags} | ({"mlflow.source.git.commit": commit} if commit else {})
    name = key.removeprefix(f"results/{experiment}/")
    info = client.create_run(experiment_id, tags={k: str(v) for k, v in all_tags.items()}, run_name=name).info
    run, status = Run(client, info.run_id), "FAILED"
    try:
        client.log_batch(info.run_id, params=[Param(k, v[:6000]) for k, v in _flat(settings)])
        run.inputs(datasets)
        yield run
        status = "FINISHED"
    finally:
        run.flush()
        client.set_terminated(info.run_id, status)


def add_parser(commands: Any) -> None:
    """Add the sub-command `ui`."""
    parser = commands.add_parser("ui", help="browse the runs in MLflow; prints a link to each experiment's charts")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.set_defaults(run=serve_ui)


def serve_ui(args: argparse.Namespace) -> None:
    """Serve MLflow's UI until interrupted. Raises InputError if nothing has been tracked yet."""
    import mlflow

    uri = _store_uri()
    store = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not store.exists():
        raise InputError(f"{store}: no runs yet; run `snakemake --cores all` first")
    # The UI opens with an empty GenAI view; these links open the runs and their charts.
    for experiment in mlflow.MlflowClient(uri).search_experiments():
        view = f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"
        print(f"{experiment.name}: http://{args.host}:{args.port}/{view}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", args.host, "--port", str(args.port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.execve(sys.executable, command, os.environ | quiet)
