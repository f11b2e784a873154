"""The cold start: supervised fine-tuning on questions and responses, before RL (SQL-R1, section 3.1).

The loss is on the response only. `strategies.STRATEGIES` writes the responses.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm
from trl import SFTTrainer

from sqlr1.config import ColdStart
from sqlr1.model.prefix_cache import why_not_shared
from sqlr1.model.prompts import Prompts
from sqlr1.records import Catalogue, InputError, Question
from sqlr1.strategies import STRATEGIES
from sqlr1.tracking import Run
from sqlr1.train.checkpoints import ByEpoch, LogToRun, MarkComplete
from sqlr1.train.packed_forward import add_packed_forward, pack_sequences
from sqlr1.train.trainer_config import lora_config, named_section, trainer_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100  # label of a token without loss


def encode(
    questions: Sequence[Question], catalogue: Catalogue, prompts: Prompts, strategy: str
) -> tuple[list[dict[str, np.ndarray]], Counter[str]]:
    """Questions as rows `input_ids`, `labels` (IGNORED in the prompt), and how many were dropped, by reason.

    Both are int32 arrays (length,): as Python integers the paper's 200,000 rows would take gigabytes in each process.
    """
    rows, dropped = [], Counter[str]()
    for question in tqdm(questions, desc="tokenize", disable=None):
        prompt = prompts.token_ids(question, catalogue[question.db_id])
        if prompt is None:
            dropped["prompt_over_max_length"] += 1
            continue
        response = prompts.response_ids(STRATEGIES[strategy].response(question))
        row = {"input_ids": prompt + response, "labels": [IGNORED] * len(prompt) + response}
        rows.append({name: np.array(tokens, np.int32) for name, tokens in row.items()})
    return rows, dropped


def length_grouped(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> Iterator[int]:
    """Row numbers, in batches of similar length. Their order depends on seed and epoch alone: exact resume needs it."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = batch * 32  # rows sorted by length at a time: few enough to keep the order random
    batches = []
    for start in range(0, len(order), window):
        block = sorted(order[start : start + window], key=lambda i: lengths[i])
        batches += [block[i : i + batch] for i in range(0, len(block), batch)]
    last = batches.pop() if len(batches[-1]) < batch else []  # an incomplete batch stays last
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield from batches[index]
    yield from last


class ColdStartTrainer(SFTTrainer):
    """SFTTrainer over packed rows: no padding, and logits only where there are labels."""

    def _get_train_sampler(self, dataset: Any = None) -> ByEpoch:
        # The batch of all processes together, so that a step has the same rows for any number of processes. (With
        # several processes accelerate fills an epoch's incomplete last batch with the epoch's first rows.)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        order = partial(length_grouped, list(self.train_dataset["length"]), batch, self.args.seed)
        return ByEpoch(self, len(self.train_dataset), order)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Negative log-likelihood, averaged over all labels of the accumulated batch."""
        packed = inputs["packed"].to(self.accelerator.device)
        with self.accelerator.autocast():
            log_probs, _ = model(packed=packed)
        count = len(log_probs) if num_items_in_batch is None else num_items_in_batch
        loss = -log_probs.sum() / count
        self._metrics["train"]["label_probability"].append(log_probs.detach().exp().mean().item())
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages the gradients
        return loss


def collate(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
    """A batch as one packed row. The Trainer counts `labels` (1, L), except the first, as the loss's denominator."""
    packed = pack_sequences([r["input_ids"] for r in rows], [r["labels"] for r in rows], IGNORED)
    labels = torch.full_like(packed.input_ids, IGNORED)
    labels[0, packed.sources + 1] = packed.targets
    return {"packed": packed, "labels": labels}


def make_trainer(
    model: "PreTrainedModel",
    tokenizer: Any,
    rows: Sequence[Mapping[str, np.ndarray | list[int]]],
    settings: ColdStart,
    work: Path,
    seed: int,
    run: Run | None = None,
) -> ColdStartTrainer:
    """The trainer of the cold start over rows of `encode`; checkpoints go to `work`.

    Raises InputError for a model that cannot be computed on packed rows, and for settings that TRL or PEFT refuse.
    """
    from datasets import Dataset

    dataset = Dataset.from_list([{**r, "length": len(r["input_ids"])} for r in rows])
    args, lora = trainer_config(settings, work, seed), lora_config(settings.lora)
    with named_section("cold_start"):  # some settings are refused only when the model is known
        trainer = ColdStartTrainer(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[MarkComplete(), *([LogToRun(run)] if run else [])],
        )
    base = trainer.model.get_base_model() if lora else trainer.model
    if reason := why_not_shared(base):
        raise InputError(f"the cold start cannot pack its rows: {reason} (config keys base_model, cold_start.lora)")
    add_packed_forward(base)
    return trainer
