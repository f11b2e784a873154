"""MLflow. Only this module imports it, and `serve.py`, which MLflow itself runs.

One MLflow experiment per experiment config and one run per job, with the tags `stage`, `key` (the folder that the job
writes), `settings_sha256`, one per wildcard and one per input hash. If a job runs again, its old runs (same key) are
deleted with their models and traces, so that the UI shows one run per result. Metrics are sent in batches, because a
single call takes 23 ms. The store is `results/mlflow.db` unless MLFLOW_TRACKING_URI is set. Other stores may be shared:
there the tag `checkout` tells whose run or model it is. No result depends on the store: a server that cannot be reached
costs a warning, and the rest of the job is not tracked.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from sqlr1.records import InputError, read_json, sha256

if TYPE_CHECKING:
    from sqlr1.traces import Answer

DEFAULT_STORE = Path("results/mlflow.db")
WEIGHTS = "model/model.safetensors"
_BATCH = 500
# MLflow's own defaults keep a stage waiting for minutes when its server is down: 7 retries, 120 s each.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
log = logging.getLogger(__name__)


def _optional(method: Callable[..., None]) -> Callable[..., None]:
    """A method of `Run` that MLflow cannot make fail: the first error is a warning, and later calls do nothing."""

    @functools.wraps(method)
    def call(run: "Run", *args: Any, **kwargs: Any) -> None:
        if run.client is None:
            return
        try:
            method(run, *args, **kwargs)
        except _mlflow_errors() as error:
            _warn(error)
            run.client = None

    return call


def _mlflow_errors() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    return MlflowException, RequestException, OSError  # OSError: of a place for artifacts


def _warn(error: Exception) -> None:
    where, what = _shown(store_uri()), _reason(error)
    log.warning("MLflow (%s): %s; the results are kept, the rest of this job is not tracked", where, what)


def _reason(error: Exception) -> str:
    """The first line of MLflow's message, which may repeat the URI."""
    return _shown(str(error)).split("\n")[0][:200]


class Run:
    """An active MLflow run. `metrics` may be called at every step, the other methods only now and then.

    Without a client nothing is logged: in all processes of a distributed job but the first, or if a server is down.
    """

    def __init__(
        self,
        client: Any = None,
        run_id: str = "",
        experiment_id: str = "",
        prefix: str = "",
        own: Mapping[str, str] | None = None,
    ) -> None:
        self.client = self._store = client  # None: nothing is logged
        self.run_id = run_id
        self._experiment_id, self._prefix = experiment_id, prefix
        self._own = own or {}  # the tags by which what this checkout made is found
        self._buffer: list[Any] = []
        self._full = _BATCH

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record scalar metrics at `step`; sent when the buffer is full or the run ends.

        A store that fails meanwhile, such as a server that is being restarted, must not end days of training, nor lose
        a curve: the metrics are kept, and sent with the next ones.
        """
        if self.client is None:
            return
        self._buffer += _metrics(values, step)
        if len(self._buffer) < self._full:
            return
        try:
            self._send()
        except _mlflow_errors() as error:
            self._full = len(self._buffer) + _BATCH
            log.warning("MLflow took no metrics; they are kept and sent later (%s)", _reason(error))

    def _send(self) -> None:
        """Send buffered metrics, at most 1,000 per call (the store's limit)."""
        for start in range(0, len(self._buffer), 1000):
            self.client.log_batch(self.run_id, metrics=self._buffer[start : start + 1000])
        self._buffer, self._full = [], _BATCH

    @_optional
    def params(self, settings: Mapping[str, Any]) -> None:
        """Log nested settings as flat parameters."""
        from mlflow.entities import Param

        self.client.log_batch(self.run_id, params=[Param(k, v[:6000]) for k, v in _flat(settings)])

    @_optional
    def inputs(self, hashes: Mapping[str, str]) -> None:
        """Log the files that the job reads (path -> sha256) as dataset inputs."""
        found = [_dataset(Path(p).name, h, p, "input") for p, h in hashes.items()]
        for start in range(0, len(found), 100):
            self.client.log_inputs(self.run_id, found[start : start + 100])

    @_optional
    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Log rows (for instance results per question) as a table that the UI can filter. `name` ends in .json."""
        columns = list(rows[0]) if rows else []
        self.client.log_table(self.run_id, {c: [row[c] for row in rows] for c in columns}, name)

    @_optional
    def figure(self, figure: Any, name: str) -> None:
        """Log a matplotlib figure as an image."""
        self.client.log_figure(self.run_id, figure, name)

    @_optional
    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, for instance the number of warnings."""
        for name, value in values.items():
            self.client.set_tag(self.run_id, name, str(value))

    @_optional
    def artifact(self, path: Path) -> None:
        """Log a small text file (a report, a manifest). Models are not copied; they are logged by path and hash."""
        self.client.log_artifact(self.run_id, str(path))

    @_optional
    def policy(self, folder: Path) -> None:
        """Log the policy that this run has made: `folder` has its `manifest.json` and weights, which stay there."""
        from mlflow.entities import LoggedModelOutput

        model = self._model(folder)
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        self.tags({"model": folder / "model", "model_sha256": model.tags["model_sha256"]})

    def _model(self, folder: Path) -> Any:
        """The LoggedModel of the policy in `folder`; it is made if this store has none of these weights.

        As `mlflow.create_external_model` makes it, which takes no client and writes an artifact.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

        manifest = read_json(folder / "manifest.json")
        tags = {"key": _plain(str(folder)), "model_sha256": manifest["outputs"].get(WEIGHTS, "")} | self._own
        if found := self.client.search_logged_models([self._experiment_id], _with(tags), max_results=1):
            return found[0]
        name = str(folder).removeprefix(self._prefix)
        facts = {key: manifest[key] for key in ("stage", "seed") if key in manifest} | manifest.get("arguments", {})
        model = self.client.create_logged_model(
            self._experiment_id,
            re.sub(r"""[/:.%"']""", "-", name),
            self.run_id,
            tags | {MLFLOW_MODEL_IS_EXTERNAL: "true", "path": str((folder / "model").resolve())},
            {key: str(value) for key, value in facts.items()},
            "policy",
        )
        return self.client.finalize_logged_model(model.model_id, "READY")

    @_optional
    def prompt(self, messages: Sequence[Mapping[str, str]], policy: Path) -> None:
        """Log the prompt that the policy in a folder is asked with: registered once, linked to run and model.

        For stages that take minutes: importing the registry would slow a short stage.
        """
        # Under a lock: jobs that end at the same time register one version.
        with _as_default(self.client.tracking_uri), FileLock(DEFAULT_STORE.with_suffix(".lock")):
            model = self._model(policy)
            version = _prompt_version(self.client, messages)
            self.client.link_prompt_version_to_run(self.run_id, version)
            self.client.link_prompt_version_to_model(version.name, str(version.version), model.model_id)

    @_optional
    def evaluation(
        self, policy: Path | None, dataset: tuple[str, str], scores: Mapping[str, float], answers: Sequence["Answer"]
    ) -> None:
        """Log what the policy in a folder scored on a dataset (name, sha256), with a trace per answer.

        The Models view ranks policies by `scores`. The answers' questions become an evaluation dataset, made once.
        """
        from mlflow.entities import LoggedModelInput

        name, digest = dataset[0], dataset[1][:8]
        # Under a lock: jobs that end at the same time make one dataset.
        with _as_default(self.client.tracking_uri), FileLock(DEFAULT_STORE.with_suffix(".lock")):
            model = self._model(policy) if policy else None
            if answers:
                _evaluation_dataset(self.client, self._experiment_id, f"{name} {digest}", answers)
        models = [LoggedModelInput(model.model_id)] if model else None
        self.client.log_inputs(self.run_id, [_dataset(name, digest, name, "evaluation")], models)
        link = {"model_id": model.model_id, "dataset_name": name, "dataset_digest": digest} if model else {}
        self.client.log_batch(self.run_id, metrics=_metrics(scores, 0, **link))
        self._traces(answers, model)

    @_optional
    def traces(self, answers: Callable[[], Sequence["Answer"]]) -> None:
        """Log a trace per answer. Nothing is called if nothing is logged; if the call fails, the log has the reason."""
        try:
            found = answers()
        except Exception:  # the job's results are complete without its traces
            log.warning("no traces are logged, because their answers could not be read", exc_info=True)
            return
        self._traces(found, None)

    def _traces(self, answers: Sequence["Answer"], model: Any) -> None:
        from sqlr1.traces import log_traces

        model_id = model.model_id if model else ""
        for start in range(0, len(answers), 100):  # the store's limit for links
            ids = log_traces(self.client, self._experiment_id, self.run_id, model_id, answers[start : start + 100])
            self.client.link_traces_to_run(ids, self.run_id)

    @_optional
    def register(self, manifest: Path, name: str) -> None:
        """Register the policy beside a stage's `manifest` as a version of the MLflow model `name`, alias `best`.

        The model holds the path and hash of the manifest, which has the hashes of the weights. These stay where they
        are. The alias does not move from another checkout's version.
        """
        import mlflow

        with TemporaryDirectory() as folder:
            mlflow.pyfunc.save_model(
                f"{folder}/policy",
                python_model=str(Path(__file__).with_name("serve.py")),  # not imported: a stage does not depend on it
                model_config={"manifest": str(manifest.resolve()), "sha256": sha256(manifest)},
                pip_requirements=[f"mlflow=={mlflow.__version__}"],  # given: to find them, it would load the policy
            )
            self.client.log_artifacts(self.run_id, f"{folder}/policy", "policy")
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/policy"
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        version = self.client.create_model_version(name, source, self.run_id, self._own).version
        best = self.client.get_registered_model(name).aliases.get("best")
        holder = best and self.client.get_model_version(name, best).tags.get("checkout")
        if holder and holder != self._own.get("checkout"):
            log.warning("MLflow: models:/%s@best stays a version of %s; this one is version %s", name, holder, version)
        else:
            self.client.set_registered_model_alias(name, "best", version)

    def end(self, status: str) -> None:
        """Send what is left and set the run's status, which is set also if the store refused something."""
        if self._store is None:
            return
        try:
            try:
                if self.client:
                    self._send()
            finally:
                self._store.set_terminated(self.run_id, status)
        except _mlflow_errors() as error:
            if self.client:  # or it has been warned of
                _warn(error)


def _metrics(values: Mapping[str, float], step: int, **link: str) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step, **link) for name, value in values.items()]


def _dataset(name: str, digest: str, source: str, context: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(Dataset(name, digest[:8], "local", source), [InputTag("mlflow.data.context", context)])


def _prompt_version(client: Any, messages: Sequence[Mapping[str, str]]) -> Any:
    """The prompt's version in the registry, found by an alias that is its hash; registered if it is new."""
    digest = "sha256-" + hashlib.sha256(json.dumps(list(messages)).encode()).hexdigest()[:16]
    if found := client.load_prompt(f"prompts:/sqlr1@{digest}", allow_missing=True):
        return found
    version = client.register_prompt("sqlr1", [dict(message) for message in messages], tags={"sha256": digest})
    client.set_prompt_alias("sqlr1", digest, version.version)
    return version


def _evaluation_dataset(client: Any, experiment_id: str, name: str, answers: Sequence["Answer"]) -> None:
    if client.search_datasets([experiment_id], f"name = '{name}'", max_results=1):
        return
    records = [{"inputs": dict(a.inputs), "expectations": {"gold": a.gold}} for a in answers]
    client.create_dataset(name, experiment_id).merge_records(records)


@contextlib.contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """MLflow's prompts and datasets ignore the client's store: they use the one of the environment."""
    kept = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        os.environ |= {"MLFLOW_TRACKING_URI": kept} if kept is not None else {}


def reachable() -> str:
    """Where runs are tracked. Raises InputError if a server does not answer."""
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = store_uri()
    if not uri.startswith("sqlite"):
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
        try:
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
        except MlflowException as error:
            raise InputError(f"{_shown(uri)} (MLFLOW_TRACKING_URI) does not answer: {_reason(error)}") from error
    return _shown(uri)


def _shown(uri: str) -> str:
    """A URI, or a text with one, without a user's name and password."""
    return re.sub(r"//[^/\s]*@", "//", uri)


def store_uri() -> str:
    """MLFLOW_TRACKING_URI, or the store in `results/`."""
    path = DEFAULT_STORE.resolve()
    # A question mark would begin the URI's options, and SQLAlchemy knows no way to quote it.
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE if '?' in str(path) else path}"


def experiments(uri: str) -> dict[str, str]:
    """Name -> id of the experiments in a store, without MLflow's own."""
    import mlflow

    found = mlflow.MlflowClient(uri).search_experiments(filter_string="name != 'Default'")
    return {experiment.name: experiment.experiment_id for experiment in found}


def _with(tags: Mapping[str, str]) -> str:
    """MLflow's filter for what has these tags; paths in them are `_plain`."""
    return " AND ".join(f"tags.{name} = '{value}'" for name, value in tags.items())


def _plain(path: str) -> str:
    """A path without apostrophes, which not every filter of MLflow can quote."""
    return path.replace("'", "")


def _checkout() -> str:
    """This checkout's name in a shared store: its folder, and the host that first used it.

    A file keeps it, because the nodes of a cluster share a folder. A copy of the folder has a name of its own.
    """
    file, here = DEFAULT_STORE.with_suffix(".checkout"), _plain(str(Path.cwd()))
    if not file.exists() or file.read_text().partition(":")[2] != here:
        file.write_text(f"{socket.gethostname()}:{here}")
    return file.read_text()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


@contextlib.contextmanager
def track(
    experiment: str,
    key: str,
    tags: Mapping[str, Any],
    settings: Mapping[str, Any],
    datasets: Mapping[str, str],
    system_metrics: bool = False,
) -> Iterator[Run]:
    """Run the block as an MLflow run: tag `key`, `settings` as flat params, `datasets` (path -> sha256) as inputs.

    `system_metrics` (CPU, memory, disk, GPU every 10 s) are for jobs of minutes.
    The run ends as FINISHED, or as FAILED if the block raises (also SystemExit, which the stages raise on SIGTERM).
    """
    run, status = _open(experiment, _plain(key), tags), "FAILED"
    run.params(settings)
    run.inputs(datasets)
    monitor = _monitor(run) if system_metrics and run.client else None
    try:
        yield run
        status = "FINISHED"
    finally:
        if monitor:
            monitor.finish()
        run.end(status)


def _open(experiment: str, key: str, tags: Mapping[str, Any]) -> Run:
    """A new run; a silent one if the store is a server that cannot be reached."""
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", **_PATIENCE}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for noisy in ("urllib3", "mlflow.system_metrics"):  # a warning per retry
        logging.getLogger(noisy).setLevel(logging.ERROR)
    import mlflow
    from mlflow.utils.git_utils import get_git_commit

    uri = store_uri()
    # Processes that create the tables of a new SQLite store at the same time crash.
    DEFAULT_STORE.parent.mkdir(parents=True, exist_ok=True)
    commit = get_git_commit(str(Path(__file__).parent))
    all_tags = {"key": key, **tags} | ({"mlflow.source.git.commit": commit} if commit else {})
    is_local = Path(uri.removeprefix("sqlite:///")).resolve() == DEFAULT_STORE.resolve()
    name = key.removeprefix(f"results/{experiment}/")
    try:
        with FileLock(DEFAULT_STORE.with_suffix(".lock")):
            # Not mlflow.set_tracking_uri: it sets the variable for this process and its children.
            client = mlflow.MlflowClient(uri)
            found = client.get_experiment_by_name(experiment)
            # Artifacts go beside a local store; a server has a place of its own for them.
            kind, _, store = uri.partition(":///")
            location = (Path(store).resolve().parent / "mlartifacts").as_uri() if kind == "sqlite" else None
            experiment_id = found.experiment_id if found else client.create_experiment(experiment, location)
            own = {} if is_local else {"checkout": _checkout()}
            if found and found.lifecycle_stage == "deleted":
                _restore(client, experiment_id, own)
        if found and is_local and found.artifact_location != location:
            log.warning(
                "MLflow keeps files of experiment %s in %s: this folder was moved or copied. Rename the experiment in "
                "MLflow (make ui), and the next stage makes one that keeps them here",
                experiment,
                found.artifact_location,
            )
        _delete(client, experiment_id, _with({"key": key} | own))
        all_tags |= own
        info = client.create_run(experiment_id, tags={k: str(v) for k, v in all_tags.items()}, run_name=name).info
    except _mlflow_errors() as error:
        if not uri.startswith("http"):
            raise
        _warn(error)
        return Run()
    return Run(client, info.run_id, experiment_id, f"results/{experiment}/", own)


def _restore(client: Any, experiment_id: str, own: Mapping[str, str]) -> None:
    """Restore an experiment that was deleted. MLflow restores replaced runs too: the newest of each result stays.

    Only this checkout's runs (tags `own`) are replaced, and none that the workflow did not make.
    """
    client.restore_experiment(experiment_id)
    results = set()
    for run in client.search_runs([experiment_id], _with(own), max_results=50000):  # newest first
        result = run.data.tags.get("key")
        if result and result in results:
            client.delete_run(run.info.run_id)
        results.add(result)


def _delete(client: Any, experiment_id: str, filter_string: str) -> None:
    """Delete the runs of a result that is made again, with their models and traces."""
    for old in client.search_runs([experiment_id], filter_string):
        run_id = old.info.run_id
        for model in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
            client.delete_logged_model(model.model_id)
        of_run = {"locations": [experiment_id], "run_id": run_id, "include_spans": False, "max_results": 100}
        while traces := client.search_traces(**of_run):
            client.delete_traces(experiment_id, trace_ids=[trace.info.trace_id for trace in traces])
        client.delete_run(run_id)


def _monitor(run: Run) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.run_id, tracking_uri=run.client.tracking_uri)
    monitor.start()
    return monitor
