"""Preflight: what would stop an experiment hours or days from now, found in minutes on the machine that will run it.

Checks data, disk, write access, MLflow, libraries, devices, and whether prompts and answers fit the model. Then one
batch of each training stage and one answer, with the real model, the longest rows allowed and the stage's own launch
command and trainer (`check_batches`). These rows are synthetic: no stage has to have run. Nothing is kept.
"""

import argparse
import importlib.util
import itertools
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import requires
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from sqlr1 import tracking
from sqlr1.config import Benchmark, Config, DatabaseFolder, Mix
from sqlr1.config_files import read_config
from sqlr1.data.readers import locate
from sqlr1.data.readers import read_questions as read_rows
from sqlr1.database.files import SQLITE_MAGIC, database_files, resolve, start_of
from sqlr1.database.schema import read_schema
from sqlr1.evaluate.formats import database_path, excluded_questions, read_questions
from sqlr1.launch import launched, runs_on_cpu
from sqlr1.model.base import check_room, context_length, load_tokenizer, make_base_model, model_folder
from sqlr1.model.prompts import Prompts
from sqlr1.plan import ACCELERATORS, Cost, Planner
from sqlr1.records import InputError, Question, read_yaml
from sqlr1.strategies import STRATEGIES

log = logging.getLogger(__name__)

_FIRST_ROWS = 1000  # read of each file of questions to train on; SynSQL's has 9 GB
_FIRST_DATABASES = 100  # of each folder to train on
_RESULTS = Path("results")
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "afs"}  # SQLite's locks may not hold
_SETTING = re.compile(r"[^:=]+:[^=]+=.+")  # of set-resources
_BYTES = {"float32": 4, "bfloat16": 2}
_LESS = "lower per_device_train_batch_size (and raise gradient_accumulation_steps), or the longest prompt or answer"
_PACKAGES = Path(__file__).parents[1]


class NotCheckedError(Exception):
    """Why something is not checked, which is no fault of the experiment."""


@dataclass
class Preflight:
    """The checks of an experiment. Each returns what it found; InputError says what is wrong, and what to do."""

    config: Config
    temporary: Path
    profile: Path | None = None
    model: Path = Path()
    costs: list[Cost] = field(default_factory=list)
    weights: int = 0
    problems: list[str] = field(default_factory=list)

    def __call__(self, name: str, check: Callable[[], str]) -> bool:
        """Run a check, print its line, and return whether it is ok."""
        log.info("checking %s", name)
        try:
            word, found = "ok", check()
        except NotCheckedError as reason:
            word, found = "skipped", str(reason)
        except (InputError, OSError) as error:
            word, found = "problem", str(error)
            self.problems.append(name)
        print(f"{word:8} {name}: {found}", flush=True)
        return word == "ok"

    def data(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """The checks of files that the experiment reads, by name."""
        for number, entry in enumerate(self.config.synthesize.mix):
            yield f"synthesize.mix {number} ({entry.layout})", partial(_mix, entry)
        for number, folder in enumerate(self.config.synthesize.folders):
            yield f"synthesize.folders {number}", partial(_folder, folder)
        for name, benchmark in self.config.benchmarks.items():
            if benchmark and not benchmark.made_by:
                yield f"benchmark {name}", partial(_benchmark, benchmark)

    def base_model(self) -> str:
        """Find the experiment's base model, or make one that needs no hub; its context has to hold the longest rows."""
        config, manifest = self.config, _RESULTS / self.config.experiment / "base_model/manifest.json"
        if manifest.is_file():
            folder = model_folder(manifest)
        elif config.base_model.source == "hub":
            how = "run `snakemake base_model --configfile ...` with the same files first, where there is a network"
            raise InputError(f"{config.base_model.name} is not here: {how}")
        else:
            folder = self.temporary / "model"
            make_base_model(config.base_model, folder)
        answers = {"grpo.max_completion_length": config.grpo.max_completion_length}
        answers["candidates.max_new_tokens"] = config.candidates.max_new_tokens
        answers |= {"select.max_new_tokens": config.select.max_new_tokens} if config.select.n else {}
        check_room(folder, config.prompt.max_length, answers)
        self.model = folder
        return f"{folder}, reads {context_length(folder)} tokens"

    def prompts(self) -> str:
        """Some databases to train on have schemas that fit `prompt.max_length`."""
        folders, settings = self.config.synthesize, self.config.prompt.model_copy(update={"retrieved_values": 0})
        entries = [(e.databases, e.db_ids) for e in folders.folders] + [(e.databases, None) for e in folders.mix]
        found = (database_files(resolve(folder), ids and resolve(ids)).values() for folder, ids in entries)
        paths = list(dict.fromkeys(p for files in found for p in itertools.islice(files, _FIRST_DATABASES)))
        prompts = Prompts(load_tokenizer(self.model), settings)
        long = [path for path in paths if prompts.token_ids(Question("", "", "", ""), path) is None]
        words = f"{len(long)} of {len(paths)} schemas are over prompt.max_length ({settings.max_length} tokens)"
        if paths and len(long) == len(paths):
            raise InputError(f"{words}, such as that of {long[0]}: raise it, or set prompt.linking to fit")
        return words

    def plan(self) -> str:
        """Plan the experiment for the devices of this machine."""
        (gpus, memory), config = _devices(), self.config
        accelerator = ACCELERATORS["a100-80gb" if gpus else "cpu"]._replace(memory=memory)
        if self.model != Path():
            local = config.base_model.model_copy(update={"source": "path", "name": str(self.model)})
            config = config.model_copy(update={"base_model": local})
        planner = Planner(config, accelerator, config.prompt.max_length, config.grpo.max_completion_length)
        try:
            self.costs, self.weights = planner.costs(), planner.model.weights
        except InputError as error:
            raise NotCheckedError(f"neither disk nor memory can be compared with a plan: {error}") from error
        return ", ".join(f"{cost.stage} {cost.memory / 1e9:.1f} GB" for cost in self.costs) + " per device (estimates)"

    def disk(self) -> str:
        """Room for the checkpoints of one training run, and for every model that stays."""
        config = self.config
        policies = _BYTES[config.cold_start.dtype] + _BYTES[config.grpo.dtype] * len(config.reward.variants)
        models = self.weights * (len(config.seeds) * policies + _BYTES[config.base_model.dtype])
        needed, free = max(cost.disk_peak for cost in self.costs) + models, shutil.disk_usage(_RESULTS).free
        words = f"{free / 1e9:,.0f} GB free; checkpoints of one run and all models take {needed / 1e9:,.1f} GB"
        if free < needed:
            raise InputError(f"{_RESULTS.resolve()}: {words}; make room, or link results to a larger disk")
        return words

    def devices(self) -> str:
        """As many GPUs as `launch` starts processes. Whether their memory suffices is seen in the batches."""
        from accelerate.utils import parse_flag_from_env

        (count, memory), on_cpu = _devices(), parse_flag_from_env("ACCELERATE_USE_CPU")
        for cost in self.costs:
            command = getattr(self.config.launch, cost.stage, "")
            if cost.devices > max(1, count) and not on_cpu and not runs_on_cpu(command):
                change = "use a machine that has them, or change num_processes in launch or the file that it names"
                raise InputError(f"{count} GPUs, but {cost.stage} is launched with {cost.devices} processes: {change}")
            if not count and cost.memory > memory:
                sizes = f"{cost.memory / 1e9:.0f} GB (an estimate), there are {memory / 1e9:.0f}"
                raise InputError(f"{cost.stage} needs {sizes}: {_LESS}")
        return f"{count} GPUs of {memory / 1e9:.0f} GB" if count else f"no GPU; {memory / 1e9:.0f} GB of main memory"

    def of_profile(self) -> str:
        """The profile gives each stage the GPUs that `launch` uses, and on this machine no more memory than it has."""
        profile, memory = read_yaml(self.profile / "config.yaml"), psutil.virtual_memory().total / 1e6
        given = profile.get("set-resources") or {}
        if isinstance(given, dict):  # Snakemake reads both ways of writing
            if flat := [rule for rule, named in given.items() if not isinstance(named, dict)]:
                raise InputError(f"{self.profile}: set-resources: {flat[0]}: write NAME: VALUE below it")
            given = [f"{rule}:{name}={value}" for rule, named in given.items() for name, value in named.items()]
        given = [given] if isinstance(given, str) else given
        if unclear := [line for line in given if not (isinstance(line, str) and _SETTING.fullmatch(line))]:
            raise InputError(f"{self.profile}: set-resources: {unclear[0]!r} is not RULE:NAME=VALUE")
        asked = dict(line.split("=", 1) for line in given)
        counted = {name: value for name, value in asked.items() if name.endswith((":gpu", ":mem_mb"))}
        if code := [f"{name}={value}" for name, value in counted.items() if not value.strip().isdecimal()]:
            raise NotCheckedError(f"{self.profile}: {code[0]} is computed when a job starts")
        for cost in self.costs:
            if cost.devices > int(asked.get(f"{cost.stage}:gpu", 1)):
                raise InputError(f"{self.profile}: add {cost.stage}:gpu={cost.devices} to set-resources, as in launch")
            if "executor" not in profile and float(asked.get(f"{cost.stage}:mem_mb", 0)) > memory:
                raise InputError(f"{self.profile}: {cost.stage}:mem_mb is more than the {memory:,.0f} MB here")
        return f"{self.profile} gives what launch needs"

    def libraries(self) -> list[str]:
        """The libraries for GPUs that the configuration uses."""
        config = self.config
        deepspeed = any(launched(command)[1] for command in (config.launch.cold_start, config.launch.grpo))
        vllm = config.grpo.use_vllm or "vllm" in (config.candidates.backend, config.select.backend)
        return ["torch", *["deepspeed"] * deepspeed, *["vllm"] * vllm]

    def batches(self) -> Iterator[tuple[str, str]]:
        """The stages of which a batch is run, and how each is launched."""
        if STRATEGIES[self.config.cold_start.strategy].response:
            yield "cold_start", self.config.launch.cold_start
        yield "grpo", self.config.launch.grpo
        yield "candidates", "python"


def add_parser(commands: Any) -> None:
    about = "what would stop an experiment, found before it runs"
    parser = commands.add_parser("check", help=about, description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], metavar="FILE", help="over config.yaml")
    parser.add_argument("--workflow-profile", type=Path, metavar="DIR", help="the profile that Snakemake will be given")
    parser.add_argument("--seconds", type=float, default=300, help="for all checks together (default: 300)")
    parser.add_argument("--verbose", action="store_true", help="show what the stages print")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print a line per check. Raises InputError for a faulty configuration, and at the end if there are problems."""
    end, files = time.monotonic() + args.seconds, [Path("config.yaml"), *args.configfile]
    with TemporaryDirectory(prefix="sqlr1-check-") as temporary:
        check = Preflight(read_config(files), Path(temporary), args.workflow_profile)
        os.environ["SQLR1_DATA"] = os.environ.get("SQLR1_DATA") or check.config.data.root
        for name, of_data in check.data():
            check(name, of_data)
        writable = check("results", _writable)
        check("MLflow", tracking.reachable)
        ready = [check(f"library {name}", partial(_library, name)) for name in check.libraries()]
        ready.append(check("base model", check.base_model))
        if ready[-1]:
            check("prompts", check.prompts)
        if check("plan", check.plan):
            if writable:
                check("disk", check.disk)
            ready.append(check("devices", check.devices))
            if args.workflow_profile:
                check("profile", check.of_profile)
        for stage, launch in check.batches():
            # In a shell, as Snakemake runs it: variables count.
            command = ["bash", "-c", f'{launch} "$@"', "bash", "-m", "sqlr1.check_batches", stage, str(check.model)]
            command.append(temporary)
            seconds = end - time.monotonic() if all(ready) else 0
            check(f"{stage}, one batch", partial(_batch, [*command, *map(str, files)], seconds, args.verbose))
    if check.problems:
        raise InputError(f"{len(check.problems)} problems: {', '.join(check.problems)}")


def _mix(entry: Mix) -> str:
    """The first rows, read as the stage does."""
    paths, skip = database_files(resolve(entry.databases)), entry.missing == "skip"
    unusable, missing = Counter[str](), Counter[str]()
    rows = read_rows(entry.layout, resolve(entry.questions), unusable if skip else None)
    usable = list(locate(itertools.islice(rows, _FIRST_ROWS), paths, missing if skip else None))
    if not usable and entry.layout != "feedback":
        raise InputError(f"{entry.questions}: none of the first rows has its database, or all of its fields")
    _readable(paths.values())
    return f"{len(usable)} rows read, {missing.total()} without their database; {len(paths)} databases"


def _folder(entry: DatabaseFolder) -> str:
    db_ids, tables = (resolve(path) if path else None for path in (entry.db_ids, entry.tables))
    if tables and not tables.is_file():
        raise InputError(f"{tables}: no such file")
    paths = database_files(resolve(entry.databases), db_ids)
    _readable(paths.values())
    return f"{len(paths)} databases"


def _benchmark(entry: Benchmark) -> str:
    questions, databases = (resolve(path) for path in (entry.questions, entry.databases))
    if absent := [str(path) for path in (questions, databases) if not path.exists()]:
        if entry.required:
            raise InputError(f"{absent[0]} is missing. {entry.download}")
        raise NotCheckedError(f"{absent[0]} is missing, so it will not be scored. {entry.download}")
    asked = read_questions(entry.layout, questions)
    if entry.exclude and resolve(entry.exclude).exists():
        excluded_questions(resolve(entry.exclude), len(asked))
    paths = {question.db_id: database_path(databases, question.db_id) for question in asked}
    left_out = ""
    if missing := sorted(name for name, path in paths.items() if not path):
        count = sum(not paths[question.db_id] for question in asked)
        left_out = f"; {count} questions without a database are left out: {', '.join(missing[:5])}"
    here = [path for path in paths.values() if path]
    if not here:
        raise InputError(f"{databases}: holds none of the databases of {questions}")
    _readable(here)
    return f"{len(asked)} questions over {len(here)} databases{left_out}"


def _readable(paths: Iterable[Path]) -> None:
    """Raises InputError for a file that is no SQLite database, such as the pointer that Git LFS leaves."""
    for number, path in enumerate(paths):
        if start_of(path) != SQLITE_MAGIC:
            raise InputError(f"{path}: not a SQLite database; fetch it again")
        if not number:
            read_schema(path)


def _writable() -> str:
    """Files can be written and locked; on a network's disk, MLflow and the gold cache are elsewhere."""
    place = _RESULTS.resolve()
    try:
        _RESULTS.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=_RESULTS) as folder, FileLock(f"{folder}/lock", timeout=5):
            Path(folder, "file").write_text("x")
    except (OSError, NotImplementedError, Timeout) as error:
        raise InputError(f"{place}: files cannot be written and locked here ({error})") from error
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    kind = next((mounts[str(folder)] for folder in (place, *place.parents) if str(folder) in mounts), "unknown")
    unset = [name for name in ("MLFLOW_TRACKING_URI", "SQLR1_GOLD_CACHE") if not os.environ.get(name)]
    if kind in _NETWORK and unset:
        raise InputError(f"{place} is on {kind}, where SQLite is not safe: set {unset[0]} (docs/howto/cluster.md)")
    return f"{place} can be written (file system: {kind})"


def _library(name: str) -> str:
    """Imported in a process of its own, which a library for GPUs may end."""
    if importlib.util.find_spec(name) is None:
        raise InputError("not installed: pip install -e '.[gpu]'")
    call = [sys.executable, "-c", f"import {name}; print({name}.__version__)"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"cannot be imported: {(done.stderr.splitlines() or ['killed'])[-1]}")
    version = done.stdout.split()[-1]
    for wanted in map(Requirement, requires("sqlr1") or []):
        if wanted.name == name and not wanted.specifier.contains(version, prereleases=True):
            raise InputError(f"version {version}, but {wanted.specifier} is needed: pip install -e '.[gpu]'")
    return version


def _devices() -> tuple[int, int]:
    """How many GPUs there are, and the bytes of the smallest one; of main memory if there is none."""
    import torch

    sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    return len(sizes), min(sizes, default=psutil.virtual_memory().total)


def _batch(command: Sequence[str], seconds: float, verbose: bool) -> str:
    """What a batch of a stage found. The work folder is the argument of `command` before its configuration files."""
    if seconds <= 0:
        raise NotCheckedError("not tried: there are problems above, or no time is left (--seconds)")
    work = Path(command[command.index("sqlr1.check_batches") + 3])
    found, error, output = work / "found", work / "error", work / "output"
    for path in (found, error):
        path.unlink(missing_ok=True)
    places = {"PATH": Path(sys.executable).parent, "PYTHONPATH": _PACKAGES}
    places = {name: os.pathsep.join([str(first), os.environ.get(name, "")]) for name, first in places.items()}
    log.info("at most %.0f seconds", seconds)
    with output.open("w") as file:
        shown = sys.stderr if verbose else file
        process = psutil.Popen(command, env=os.environ | places, stdout=shown, stderr=shown)
        try:
            code = process.wait(seconds)
        except psutil.TimeoutExpired as late:
            for started in [*process.children(recursive=True), process]:
                started.kill()
            raise InputError(f"not done after {seconds:.0f} s: give it more --seconds, or see --verbose") from late
    if code == 0:
        return found.read_text()
    lines = ["see above", *output.read_text(errors="replace").splitlines()]
    killed = code in (-9, 137) or any("(SIGKILL)" in line for line in lines)  # a launcher's words about its processes
    lines += ["killed, as when main memory runs out"] * killed
    reason = error.read_text().strip() if error.exists() else lines[-1]
    memory = any(words in reason.lower() for words in ("out of memory", "allocate memory", "memory runs out"))
    raise InputError(f"{reason}{f'; {_LESS}' if memory else ''} (--verbose shows more)")
