"""One batch of a stage, for `sqlr1 check`: the stage's own trainer, the longest rows allowed, nothing kept.

    LAUNCH -m sqlr1.check_batches STAGE MODEL_FOLDER WORK_FOLDER CONFIG_FILE...

The process with rank 0 writes what it found to WORK_FOLDER/found; one that fails writes its error to WORK_FOLDER/error.
"""

import contextlib
import os
import resource
import sqlite3
import sys
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any

from sqlr1.config import Config
from sqlr1.config_files import read_config
from sqlr1.cpus import usable_cpus
from sqlr1.model.base import fix_numerics, load_tokenizer
from sqlr1.model.chat import Chat
from sqlr1.prompt import prompt_messages
from sqlr1.records import InputError

_NO_END = [-1]  # in place of the end tokens, so that an answer becomes as long as it may


def main() -> None:
    """Run a batch and write what it found."""
    stage, model, work, *files = sys.argv[1:]
    start, config = time.monotonic(), read_config([Path(file) for file in files])
    fix_numerics(getattr(config, stage).threads)
    try:
        found = BATCHES[stage](config, Path(model), Path(work))
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), "")
        with contextlib.suppress(FileExistsError), open(work + "/error", "x") as file:  # other processes fail after it
            file.write(line if isinstance(error, InputError) else f"{type(error).__name__}: {line}")
        raise
    if os.environ.get("RANK", "0") == "0":
        Path(work, "found").write_text(f"{found}, {time.monotonic() - start:.0f} s with start-up, {_peak()}")


def _peak() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_reserved() / 1e9:.1f} GB of GPU memory at most, vLLM's not counted"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.1f} GB at most"


def cold_start(config: Config, model: Path, work: Path) -> str:
    """One optimiser step over rows of `cold_start.max_row_length`, or of the longest prompt and answer."""
    import numpy as np

    from sqlr1.train import sft
    from sqlr1.train.policy import load_policy

    settings = config.cold_start.model_copy(update={"max_steps": 1, "gradient_accumulation_steps": 1})
    longest = settings.max_row_length or config.prompt.max_length + config.grpo.max_completion_length
    prompt, draw = min(config.prompt.max_length, longest - 1), np.random.default_rng(0)
    tokenizer = load_tokenizer(model)
    rows = []
    for number in range(_rows(settings)):  # drawn tokens: rows that begin alike would be computed together
        ids = draw.integers(len(tokenizer), size=longest, dtype=np.int32)
        labels = np.where(np.arange(longest) < prompt, sft.IGNORED, ids).astype(np.int32)
        rows.append({"input_ids": ids, "labels": labels, "database": str(number)})
    _one_step(sft.make_trainer(load_policy(model, settings), tokenizer, rows, settings, work, 0))
    return f"an optimiser step over {len(rows)} rows of {longest} tokens"


def grpo(config: Config, model: Path, work: Path) -> str:
    """One batch of rollouts that do not end before their longest length, and an optimiser step. No validation."""
    from transformers import TrainerCallback

    from sqlr1.rewards import reward_functions
    from sqlr1.sandbox import Executor, Limits
    from sqlr1.train.grpo_trainer import ExecutionReward, make_trainer
    from sqlr1.train.policy import load_policy

    # At a low temperature completions may be equal, and equal ones are computed once.
    update = {"max_steps": 1, "dynamic_sampling": None, "mask_truncated_completions": False, "temperature": 100.0}
    settings = config.grpo.model_copy(update=update)
    tokenizer = load_tokenizer(model)
    size, number = settings.num_generations, -(-_rows(settings) // settings.num_generations)
    database = _database(work)
    rows = [
        _longest(tokenizer, config, first) | {"gold": "SELECT 1", "database": str(database)} for first in range(number)
    ]
    with Executor(usable_cpus(), Limits.of(config.execution)) as executor:
        parts = reward_functions(config.reward, config.reward.variants[0])
        reward = ExecutionReward(executor, config.reward.semantics, parts)
        policy = load_policy(model, settings)
        trainer = make_trainer(policy, tokenizer, rows, reward, TrainerCallback(), settings, work, 0)
        if settings.use_vllm:
            trainer.vllm_generation.generation_kwargs["ignore_eos"] = True
        trainer.eos_token_ids = _NO_END
        if not settings.use_vllm:
            trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = _NO_END
        _one_step(trainer)
    longest = f"{len(rows[0]['prompt_ids'])} + {settings.max_completion_length} tokens"
    return f"an optimiser step over {number} prompts with {size} completions, {longest} each"


def candidates(config: Config, model: Path, work: Path) -> str:
    """The answers to one prompt: a greedy one and the samples."""
    from sqlr1.model.answers import make_backend
    from sqlr1.model.sampler import GREEDY, Sampling

    settings = config.candidates
    prompt = _longest(load_tokenizer(model), config)["prompt_ids"]
    backend = make_backend(settings, model)
    backend.eos_token_ids = _NO_END  # vLLM's answers end where they like: its memory is taken beforehand
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p, settings.top_k)
    masks = [[_database(work)]] if settings.constrained else []
    answered = list(backend.complete([prompt], [[GREEDY, *range(settings.n)]], sampling, *masks))
    return f"{len(answered[0][1])} answers to a prompt of {len(prompt)} tokens by {settings.backend}"


BATCHES = {"cold_start": cold_start, "grpo": grpo, "candidates": candidates}


def _database(work: Path) -> Path:
    path = work / f"check-{os.environ.get('RANK', '0')}.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
    return path


def _rows(settings: Any) -> int:
    """Rows (GRPO: completions) of an optimiser step over all processes."""
    passes = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return passes * int(os.environ.get("WORLD_SIZE", "1"))


def _longest(tokenizer: Any, config: Config, number: int = 0) -> dict[str, Any]:
    """A prompt of as many tokens as `prompt.max_length` allows; `number` makes it differ from others."""
    chat, room = Chat(tokenizer), config.prompt.max_length

    def written(words: int) -> list[dict[str, str]]:
        return prompt_messages("", f"{number}" + " x" * words)

    words = bisect_right(range(room), room, key=lambda words: len(chat.prompt_ids(written(words)))) - 1
    if words < 0:
        raise InputError(f"config key prompt.max_length: a prompt without schema and question is longer than {room}")
    return {"prompt": written(words), "prompt_ids": chat.prompt_ids(written(words))}


def _one_step(trainer: Any) -> None:
    from transformers.trainer_utils import SaveStrategy

    trainer.args.save_strategy = SaveStrategy.NO
    trainer.train()


if __name__ == "__main__":
    main()
