"""What every stage shares: arguments, log file, MLflow run, manifest, exit codes.

A stage module looks like this, and does nothing else:

    def main(argv=None):
        parser = stage_parser(__doc__)
        parser.add_argument("--questions", type=Path, required=True)
        with stage("filter", parser, argv, inputs=["questions"]) as job:
            kept = filter_questions(read_records(job.args.questions, Question), job.settings["filter"])
            write_jsonl(job.out / "kept.jsonl", kept)
            job.run.metrics({"kept": len(kept)})
            job.outputs("kept.jsonl")

    if __name__ == "__main__":
        main()
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sqlr1 import tracking
from sqlr1.config import Section, plain
from sqlr1.config_files import load_sections
from sqlr1.cpus import usable_cpus
from sqlr1.provenance import sources
from sqlr1.records import InputError, sha256, write_json

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "sqlglot", "numpy", "mlflow", "snakemake")
# Shared by all stages of a checkout that judge: a gold runs once, not once a policy, run or epoch.
GOLD_CACHE = Path("results/.cache/golds")
WORK = Path("results/.work")
# Arguments that say where and how fast, not what; settings and files count by their content.
_ASIDE = frozenset({"settings", "out", "log", "experiment", "workers"})


def data_root() -> Path:
    """The folder under which benchmarks and databases lie: SQLR1_DATA (the Snakefile sets it from `data.root`)."""
    return Path(os.environ.get("SQLR1_DATA", "data"))


def stage_parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments common to all stages; the first paragraph of the module's docstring is the help."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--settings", required=True, help="the config sections this stage reads, as one JSON object")
    parser.add_argument("--out", type=Path, required=True, help="folder for the stage's outputs")
    parser.add_argument("--experiment", default="manual", help="name of the MLflow experiment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="also write the log to this file")
    parser.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="an MLflow tag (a wildcard)")
    return parser


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The argument of stages that work in several processes; their results do not depend on how many."""
    parser.add_argument("--workers", type=int, default=usable_cpus(), help="processes (default: one a usable CPU)")


class Job:
    """A running stage: parsed `args`, `settings`, the folder `out`, the MLflow `run`.

    `first` is false in all processes but one of those that a launcher started.
    """

    def __init__(
        self, args: argparse.Namespace, settings: dict[str, Any], run: tracking.Run, work_key: str, first: bool = True
    ) -> None:
        self.args, self.settings, self.run = args, settings, run
        self.out: Path = args.out
        self.first = first
        self.seed: int = args.seed
        # Undeclared folder for resumable work (Snakemake deletes a failed job's outputs), keyed by `out` and all that
        # the result follows from; removed once the manifest is written.
        self.work = WORK / work_key
        self.written: list[Path] = []
        self.read: dict[str, str] = {}

    def reads(self, paths: Iterable[Path]) -> None:
        """Name files read beside those of the arguments, such as databases; their hashes are recorded too."""
        hashes = {str(path): sha256(path) for path in sorted(set(paths))}
        self.read |= hashes
        self.run.inputs(hashes)

    def outputs(self, *names: str | Path) -> None:
        """Name output files (relative to `out`); their hashes go into the manifest."""
        self.written += [self.out / name for name in names]


def _stop(*_: object) -> None:
    logging.getLogger(__name__).error("stopped by SIGTERM; the same command goes on from what is done")
    sys.exit(143)


@contextlib.contextmanager
def stage(
    name: str,
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    inputs: Sequence[str] = (),
    precision: Callable[[], str] | None = None,
) -> Iterator[Job]:
    """Parse arguments, set up the log, open the MLflow run, and write `<out>/manifest.json` at the end.

    `inputs` names the arguments that are files (or lists of files); `precision` finds out the machine's, where that
    decides the result, too. The manifest holds seed, settings, other arguments, precision, library versions, hashes of
    inputs and outputs: no time, no run id, so that two equal runs write equal manifests. Until it is written, `out` is
    locked against other runs and the job's work folder is kept; only a run with the same code and the same of all these
    goes on from there, and adds to its log: any other empties the log once it has the lock.
    """
    args = parser.parse_args(argv)
    rank = os.environ.get("RANK", "0")  # among the processes that a launcher started
    first = rank == "0"
    _log_to(args.log if first else None)
    signal.signal(signal.SIGTERM, _stop)
    try:
        try:
            settings = load_sections(json.loads(args.settings))
        except json.JSONDecodeError as error:
            raise InputError(f"--settings: not valid JSON ({error.msg}, column {error.colno})") from error
        resolved = {name: plain(value) if isinstance(value, Section) else value for name, value in settings.items()}
        named = dict(_files(args, inputs))
        hashes = {str(p): sha256(p) for p in named.values()}
        origin = _origin(name, args, resolved, inputs)
        origin |= {"native_precision": precision()} if precision else {}
        code = [sha256(Path(path)) for path in sources(f"sqlr1.stages.{name}")]
        # How many processes divide a step, and how: a checkpoint of another launcher's settings is not gone on from.
        launched = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
        launched["WORLD_SIZE"] = os.environ.get("WORLD_SIZE", "1")
        identity = json.dumps([origin, args.tag, hashes, code, launched], sort_keys=True)
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        tags = dict(t.split("=", 1) for t in args.tag)
        tags |= {"stage": name, "seed": args.seed, "identity": key}
        tags |= {f"input.{name}": hashes[str(p)][:16] for name, p in named.items()}
        tags["settings_sha256"] = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16]
        work_key = f"{name}-{key}-{_place(args.out)}"
        if not first:
            with _sole_writer(args.out, rank):
                yield Job(args, settings, tracking.SilentRun(), work_key, first=False)
            return
        shown = resolved | ({"arguments": origin["arguments"]} if origin["arguments"] else {})
        with _sole_writer(args.out, rank):
            if args.log and args.log.is_file() and not (WORK / work_key).exists():
                os.truncate(args.log, 0)  # the log of a run that goes on goes on, too
            with tracking.track(args.experiment, str(args.out), tags, shown, hashes) as run:
                job = Job(args, settings, run, work_key)
                yield job
                _write_manifest(origin, job, hashes)
                shutil.rmtree(job.work, ignore_errors=True)
    except InputError as error:
        logging.getLogger(name).error("%s", error)
        sys.exit(1)
    except Exception:
        logging.getLogger(name).exception("the stage failed")
        sys.exit(1)


def _place(out: Path) -> str:
    return hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _sole_writer(out: Path, rank: str) -> Iterator[None]:
    """Make the folder `out` and write it alone: an orphan of a killed run is waited for, whatever its settings.

    Each process of a launcher waits for its own predecessor. The lock is the kernel's and ends with its process.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    lock = FileLock(WORK / f"{_place(out)}-{rank}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logging.getLogger(__name__).warning("%s belongs to a run that is still alive: waiting for it to end", out)
        lock.acquire()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if rank == "0":
            for left in out.rglob(".*.tmp"):  # what a killed writer had not finished
                left.unlink()
        yield
    finally:
        lock.release()


def _origin(name: str, args: argparse.Namespace, settings: dict[str, Any], inputs: Sequence[str]) -> dict[str, object]:
    """What a stage's result follows from beside its inputs and its code."""
    given = {key: value for key, value in vars(args).items() if key not in _ASIDE | {*inputs, "seed", "tag"}}
    return {
        "stage": name,
        "seed": args.seed,
        "settings": settings,
        "arguments": {key: str(value) for key, value in given.items() if value is not None},
        "versions": {library: version(library) for library in LIBRARIES},
    }


def _write_manifest(origin: dict[str, object], job: Job, hashes: dict[str, str]) -> None:
    outputs = {str(path.relative_to(job.out)): sha256(path) for path in job.written}
    manifest = origin | {"inputs": hashes | job.read, "outputs": outputs}
    write_json(job.out / "manifest.json", manifest)
    job.run.artifact(job.out / "manifest.json")
    if weights := outputs.get("model/model.safetensors"):
        job.run.tags({"model": job.out / "model", "model_sha256": weights})
    logging.getLogger(__name__).info("%s: %d files and their manifest", job.out, len(outputs))


def _files(args: argparse.Namespace, inputs: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(name, path) of each input file; the files of a list are numbered."""
    for argument in inputs:
        value = getattr(args, argument)
        for number, path in enumerate(value if isinstance(value, list) else [value]):
            if path is None:
                continue
            if not path.is_file():
                raise InputError(f"{path}: no such file (--{argument.replace('_', '-')})")
            yield f"{argument}.{number}" if isinstance(value, list) else argument, path


def _log_to(path: Path | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path))  # appends: a killed run may not have ended yet
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)
    for noisy in ("httpx", "alembic", "urllib3", "filelock", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
