"""The training stages on a tiny model and database, in processes that a test can kill or within the test's own."""

import contextlib
import hashlib
import importlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from tiny_models import tiny_folder, tiny_model, tiny_tokenizer

from sqlr1.config import Grpo, Prompt, plain
from sqlr1.model.prompts import Prompts
from sqlr1.records import Catalogue, Database, Question, read_records, write_json, write_jsonl
from sqlr1.train.sft import IGNORED, encode

PROMPT = Prompt(max_length=400)
SETTINGS = {
    "cold_start": {
        "prompt": plain(PROMPT),
        "cold_start": {
            "learning_rate": 1e-3, "max_steps": 7, "save_steps": 2, "logging_steps": 2, "threads": 1,
            "per_device_train_batch_size": 2, "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
        },
    },
    "grpo": {
        "prompt": plain(PROMPT),
        "reward": {},
        "execution": {"seconds": 1.0, "rows": 1000},
        # A random model gets no reward; after `teach` some groups have variance.
        "grpo": {
            "num_generations": 2, "learning_rate": 1e-3, "max_steps": 10, "save_steps": 2, "threads": 1, "beta": 0.01,
            "per_device_train_batch_size": 4, "max_completion_length": 96,
            "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
            "gradient_accumulation_steps": 2, "num_iterations": 2, "dynamic_sampling": {"refill_rounds": 1},
            "validation": {"questions": 2, "every": 3},
        },
    },
    "candidates": {
        "prompt": plain(PROMPT),
        "candidates": {
            "n": 2, "temperature": 0.8, "max_new_tokens": 24, "backend": "transformers", "batch_tokens": 500,
            "threads": 1,
        },
        "benchmark": {"layout": "spider"},
    },
}  # fmt: skip
GRPO = Grpo.model_validate(SETTINGS["grpo"]["grpo"])
# Full fine-tuning with a reference model, as in the paper.
SETTINGS["grpo_all_weights"] = SETTINGS["grpo"] | {
    "grpo": SETTINGS["grpo"]["grpo"] | {"lora": None, "learning_rate": 1e-4, "max_steps": 4}
}
SETTINGS["grpo_constrained"] = SETTINGS["grpo"] | {"grpo": SETTINGS["grpo"]["grpo"] | {"constrained": True}}
# The policy of the best validation is kept, not the last one.
SETTINGS["grpo_best"] = SETTINGS["grpo"] | {
    "grpo": SETTINGS["grpo"]["grpo"] | {"keep": "best", "validation": {"questions": 12, "every": 2}}
}


_TAUGHT: dict[str, torch.nn.Module] = {}  # by the changes to the model's configuration


def prepare(folder: Path) -> None:
    """A model, a database, its catalogue, questions for training and as a benchmark in Spider's layout."""
    tiny_folder(folder / "base/model")
    describe(folder)
    database = folder / "databases/pets/pets.sqlite"
    database.parent.mkdir(parents=True)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE pet (name TEXT, age INTEGER)")
        connection.executemany("INSERT INTO pet VALUES (?, ?)", [("Rex", 3), ("Ada", 5)])
    write_jsonl(folder / "catalogue.jsonl", [Database("pets", "databases/pets/pets.sqlite", "test", "train", "")])
    texts = [(f"How many pets are older than {i}?", f"SELECT count(*) FROM pet WHERE age > {i}") for i in range(12)]
    questions = [Question(f"q{i}", "pets", q, sql, reasoning="Count pets by age.") for i, (q, sql) in enumerate(texts)]
    write_jsonl(folder / "questions.jsonl", questions)
    write_json(folder / "dev.json", [{"db_id": "pets", "question": q, "query": sql} for q, sql in texts])


def teach(folder: Path, **changes: object) -> None:
    """Train the model of `prepare` for seconds, until its answers are well-formed and some are right by chance.

    `changes` are made to the model's configuration. The questions are those of `prepare`: a process trains once.
    """
    if repr(changes) not in _TAUGHT:
        _TAUGHT[repr(changes)] = _taught(folder, changes)
    _TAUGHT[repr(changes)].save_pretrained(folder / "base/model")
    describe(folder)


def _taught(folder: Path, changes: dict[str, object]) -> torch.nn.Module:
    model, tokenizer = tiny_model(initializer_range=0.05, **changes), tiny_tokenizer()
    questions = read_records(folder / "questions.jsonl", Question)
    rows, _ = encode(questions, Catalogue(folder / "catalogue.jsonl", folder), Prompts(tokenizer, PROMPT), "sql_only")
    batch = [torch.nn.utils.rnn.pad_sequence([torch.tensor(r[name], dtype=torch.long) for r in rows], True, padding)
             for name, padding in (("input_ids", 0), ("labels", IGNORED))]  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(90):
        model(input_ids=batch[0], labels=batch[1]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def describe(folder: Path) -> None:
    """Write the manifest of the model in `base/model`."""
    model = folder / "base/model"
    digests = {f"model/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in model.iterdir()}
    write_json(folder / "base/manifest.json", {"outputs": digests})


def command(folder: Path, stage: str, out: str, launch: Sequence[str] = ()) -> list[str]:
    """The command of a stage, named as in SETTINGS, to be run in `folder`; `launch` are a launcher's arguments."""
    module = next(name for name in ("cold_start", "grpo", "candidates") if stage.startswith(name))
    inputs = {
        "cold_start": ["--questions", "questions.jsonl", "--catalogue", "catalogue.jsonl", "--strategy", "reasoning"],
        "grpo": [
            *("--questions", "questions.jsonl", "--validation", "questions.jsonl"),
            *("--catalogue", "catalogue.jsonl", "--reward-variant", "full"),
        ],
        "candidates": ["--questions", "dev.json", "--databases", "databases"],
    }[module]
    common = ["--settings", json.dumps(SETTINGS[stage]), "--model-manifest", "base/manifest.json", "--out", out]
    common += ["--log", f"{out}.log"]
    return [sys.executable, *launch, "-m", f"sqlr1.stages.{module}", *common, *inputs]


def run(folder: Path, stage: str, out: str, launch: Sequence[str] = ()) -> str:
    """Run a stage to its end; returns its log."""
    call = command(folder, stage, out, launch)
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def run_here(folder: Path, call: Sequence[str]) -> tuple[int, str]:
    """Run a stage's command in this process, which has imported torch already: exit code and log."""
    module, *arguments = call[call.index("-m") + 1 :]
    handlers, stopping, threads = logging.root.handlers[:], signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    with contextlib.chdir(folder):
        try:
            importlib.import_module(module).main(arguments)
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        finally:
            logging.root.handlers[:] = handlers
            signal.signal(signal.SIGTERM, stopping)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(False)
        return code, Path(arguments[arguments.index("--log") + 1]).read_text()


def kill_when(
    folder: Path,
    stage: str,
    out: str,
    condition: Callable[[], object],
    launch: Sequence[str] = (),
    seconds: float = 120,
) -> str:
    """Start a stage and kill it with SIGKILL, its workers too, as soon as `condition` holds; returns its log."""
    path = folder / f"{out.replace('/', '-')}.killed.log"
    with path.open("w") as log:
        call = command(folder, stage, out, launch)
        process = subprocess.Popen(call, cwd=folder, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, f"the stage ended before it could be killed:\n{path.read_text()}"
            assert time.monotonic() < end, "the stage did not come to the point at which to kill it"
            time.sleep(0.005)
    finally:
        if process.returncode is None:
            started = psutil.Process(process.pid).children(
                recursive=True
            )  # a launcher starts them in sessions of their own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for one in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
    return path.read_text()


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every file a stage wrote, by name."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
