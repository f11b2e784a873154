"""What every stage shares: arguments, log file, MLflow run, manifest, exit codes.

A stage module looks like this (`do_the_work` is a function of a room), and does nothing else:

    def main(argv=None):
        parser = stage_parser(__doc__)
        parser.add_argument("--questions", type=Path, required=True)
        with stage("filter", parser, argv, inputs=["questions"]) as job:
            kept = do_the_work(read_records(job.args.questions, Question), job.settings["filter"])
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
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sqlr1 import tracking
from sqlr1.config import Section, plain
from sqlr1.config_files import load_sections
from sqlr1.cpus import usable_cpus
from sqlr1.provenance import file_hashes, sources
from sqlr1.records import InputError, Question, read_records, sha256, write_json

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "sqlglot", "numpy", "mlflow", "snakemake")
# Results of golds, shared by all stages of a checkout: a gold runs once, not once per policy, run or epoch. A cluster's
# nodes need a folder of their own, since SQLite's locks do not hold on NFS; its name may contain the node's variables.
GOLD_CACHE = Path(os.path.expandvars(os.environ.get("SQLR1_GOLD_CACHE") or "results/.cache/golds")).expanduser()
if "$" in str(GOLD_CACHE):
    raise SystemExit(f"error: SQLR1_GOLD_CACHE: {GOLD_CACHE} has a variable that is not set")
WORK = Path("results/.work")
_LISTED = 1000  # input files that MLflow lists one by one
# Arguments that do not affect the result. (The content of settings and files does, and is recorded.)
_ASIDE = frozenset({"settings", "out", "log", "experiment", "workers", "seed", "tag"})


def stage_parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments of all stages; the first paragraph of the module's docstring is the help text."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--settings", required=True, help="the config sections this stage reads, as one JSON object")
    parser.add_argument("--out", type=Path, required=True, help="folder for the stage's outputs")
    parser.add_argument("--experiment", default="manual", help="name of the MLflow experiment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="also write the log to this file")
    parser.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="an MLflow tag (a wildcard)")
    return parser


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The argument of stages that use several processes; the results do not depend on their number."""
    parser.add_argument("--workers", type=int, default=usable_cpus(), help="processes (default: one per usable CPU)")


def kept_rows(path: Path) -> list[Question]:
    """The rows that the filter left in a file. Raises InputError if there are none."""
    if not (rows := read_records(path, Question)):
        raise InputError(f"{path}: the filter has left no row; its funnel.json counts why rows were dropped")
    return rows


class Job:
    """A running stage: parsed `args`, `settings`, the folder `out`, the MLflow `run`.

    `work` is a folder for work that can be resumed. Snakemake does not know it and thus does not delete it after a
    failure; it is removed after the manifest is written. `facts` are further entries of the manifest. A launcher
    starts several processes; `first` is true in one.
    """

    def __init__(
        self, args: argparse.Namespace, settings: dict[str, Any], run: tracking.Run, work: Path, first: bool = True
    ) -> None:
        self.args, self.settings, self.run, self.work, self.first = args, settings, run, work, first
        self.out: Path = args.out
        self.seed: int = args.seed
        self.written: list[Path] = []
        self.read: dict[str, str] = {}
        self.facts: dict[str, Any] = {}

    def reads(self, paths: Iterable[Path]) -> None:
        """Record the hashes of further input files, such as databases."""
        hashes = {str(path): content for path, content in file_hashes(sorted(set(paths))).items()}
        self.read |= hashes
        if len(hashes) > _LISTED:  # each takes MLflow a few milliseconds; the manifest has them all
            hashes = {os.path.commonpath(map(os.path.abspath, hashes)): _short_hash(json.dumps(hashes))}
        self.run.inputs(hashes)

    def outputs(self, *names: str | Path) -> None:
        """Name output files (relative to `out`); their hashes go into the manifest."""
        self.written += [self.out / name for name in names]


def _stop(*_: object) -> None:
    logging.getLogger(__name__).error("stopped by SIGTERM; the same command resumes the work")
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

    `inputs` names the arguments that are files (or lists of files). `precision` returns the machine's native precision,
    for stages whose result depends on it. The manifest holds seed, settings, other arguments, precision, library
    versions, and hashes of inputs and outputs. It holds no time and no run id, so that equal runs write equal
    manifests. While the stage runs, `out` is locked against other runs. A later run resumes the work folder, and
    appends to the log, only if its code and all of the above are the same; otherwise it starts with an empty log.
    """
    args = parser.parse_args(argv)
    rank = os.environ.get("RANK", "0")  # number of this process, if a launcher started several
    _log_to(args.log if rank == "0" else None)
    signal.signal(signal.SIGTERM, _stop)
    try:
        try:
            sections = json.loads(args.settings)
        except json.JSONDecodeError as error:
            raise InputError(f"--settings: not valid JSON ({error.msg}, column {error.colno})") from error
        if not isinstance(sections, dict):
            raise InputError("--settings: not a JSON object with the sections of the configuration")
        if unnamed := [tag for tag in args.tag if "=" not in tag]:
            raise InputError(f"--tag {unnamed[0]}: write NAME=VALUE")
        settings = load_sections(sections)
        origin, hashes, tags = _identify(name, args, settings, inputs, precision)
        of_out = _short_hash(os.path.relpath(args.out))  # relative: in a moved folder it is the same
        work = WORK / f"{name}-{tags['identity']}-{of_out}"
        with _sole_writer(args.out, rank):
            if rank != "0":
                yield Job(args, settings, tracking.Run(), work, first=False)
                return
            if args.log and args.log.is_file() and not work.exists():
                os.truncate(args.log, 0)  # this run resumes nothing
            if not work.exists() and (others := sorted(WORK.glob(f"{name}-*-{of_out}"))):
                _name_unused(others)
            shown = origin["settings"] | ({"arguments": origin["arguments"]} if origin["arguments"] else {})
            long = precision is not None  # a model trains or answers
            with tracking.track(args.experiment, str(args.out), tags, shown, hashes, system_metrics=long) as run:
                job = Job(args, settings, run, work)
                yield job
                _write_manifest(origin, job, hashes)
            # Not before the run has ended: if that fails, the stage must not have to train again.
            shutil.rmtree(job.work, ignore_errors=True)
    except InputError as error:
        logging.getLogger(name).error("%s", error)
        sys.exit(1)
    except Exception:
        logging.getLogger(name).exception("the stage failed")
        sys.exit(1)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _name_unused(folders: Iterable[Path]) -> None:
    """Log which work folders of an output belong to other settings, code or inputs, with their sizes."""
    sizes = {folder: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders}
    names = ", ".join(f"{folder} ({size / 1e9:,.1f} GB)" for folder, size in sizes.items())
    text = "this starts anew; work with other settings, code or inputs is kept in %s: delete it if it is not needed"
    logging.getLogger(__name__).warning(text, names)


@contextlib.contextmanager
def _sole_writer(out: Path, rank: str) -> Iterator[None]:
    """Make the folder `out` and lock it; wait for a process of a killed run that still writes to it.

    Each process of a launcher has a lock of its own. The kernel releases a lock when its process ends.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    lock = FileLock(WORK / f"{_short_hash(str(out.resolve()))}-{rank}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        logging.getLogger(__name__).warning("%s belongs to a run that is still alive: waiting for it to end", out)
        held = lock.acquire()
    with held:
        out.mkdir(parents=True, exist_ok=True)
        if rank == "0":
            for left in out.rglob(".*.tmp"):  # unfinished files of a killed writer
                left.unlink()
        yield


def _files(args: argparse.Namespace, inputs: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(name, path) of each input file; files of a list are numbered."""
    for argument in inputs:
        value = getattr(args, argument)
        several = isinstance(value, list)
        for number, path in enumerate(value if several else [value] if value else []):
            if not path.is_file():
                raise InputError(f"{path}: no such file (--{argument.replace('_', '-')})")
            yield f"{argument}.{number}" if several else argument, path


def _identify(
    name: str, args: argparse.Namespace, settings: dict, inputs: Sequence[str], precision: Callable[[], str] | None
) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """What affects a stage's result, for its manifest; the hashes of its inputs; and its MLflow tags.

    The tag `identity` is a hash of all that, and of code and launcher: only a run with the same one may be resumed.
    """
    files = dict(_files(args, inputs))
    aside = _ASIDE.union(inputs)
    given = {key: str(value) for key, value in vars(args).items() if key not in aside and value is not None}
    origin: dict[str, Any] = {
        "stage": name,
        "seed": args.seed,
        "settings": {key: plain(value) if isinstance(value, Section) else value for key, value in settings.items()},
        "arguments": given,
        "versions": {library: version(library) for library in LIBRARIES},
    }
    origin |= {"native_precision": precision()} if precision else {}
    hashes = {str(path): sha256(path) for path in files.values()}
    # The number of processes and the launcher's settings: a checkpoint made with others must not be resumed.
    launched = {variable: value for variable, value in os.environ.items() if variable.startswith("ACCELERATE_")}
    launched["WORLD_SIZE"] = os.environ.get("WORLD_SIZE", "1")
    code = [sha256(Path(path)) for path in sources(f"sqlr1.stages.{name}")]
    tags = dict(tag.split("=", 1) for tag in args.tag) | {
        "stage": name,
        "seed": args.seed,
        "identity": _short_hash(json.dumps([origin, args.tag, hashes, code, launched], sort_keys=True)),
        "settings_sha256": _short_hash(json.dumps(origin["settings"], sort_keys=True)),
    }
    return origin, hashes, tags | {f"input.{argument}": hashes[str(path)][:16] for argument, path in files.items()}


def _write_manifest(origin: dict[str, object], job: Job, hashes: dict[str, str]) -> None:
    outputs = {str(path.relative_to(job.out)): sha256(path) for path in job.written}
    write_json(job.out / "manifest.json", origin | job.facts | {"inputs": hashes | job.read, "outputs": outputs})
    job.run.artifact(job.out / "manifest.json")
    if tracking.WEIGHTS in outputs:
        job.run.policy(job.out)
    logging.getLogger(__name__).info("%s: %d files and their manifest", job.out, len(outputs))


def _log_to(path: Path | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path))  # appends: a killed run may still be writing
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)
    # transformers warns of a key that TRL and PEFT still use by its old name: nobody who runs a stage can mend that.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    for noisy in ("httpx", "alembic", "urllib3", "filelock", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
