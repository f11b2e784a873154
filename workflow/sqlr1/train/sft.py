"""The cold start: supervised fine-tuning on questions and responses, before RL (SQL-R1, section 3.1).

The loss is on the response only. `strategies.STRATEGIES` writes the responses.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm
from trl import SFTTrainer
from trl.trainer.utils import selective_log_softmax

from sqlr1.config import ColdStart
from sqlr1.model.prefix_cache import shared_prefixes, why_not_shared
from sqlr1.model.prompts import Prompts
from sqlr1.records import Catalogue, Question
from sqlr1.strategies import STRATEGIES
from sqlr1.tracking import Run
from sqlr1.train.checkpoints import ByEpoch, LogToRun, MarkComplete, WarnOfStalls
from sqlr1.train.packed_forward import add_packed_forward, pack_groups
from sqlr1.train.trainer_config import lora_config, named_section, trainer_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

IGNORED = -100  # label of a token without loss


def encode(
    questions: Sequence[Question],
    catalogue: Catalogue,
    prompts: Prompts,
    strategy: str,
    max_length: int | None = None,
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Questions as rows `input_ids`, `labels` (IGNORED in the prompt), `database`, and counts of the dropped by reason.

    The first two are int32 arrays (length,): as Python integers the paper's 200,000 rows would take gigabytes in each
    process.
    """
    rows, dropped = [], Counter[str]()
    for question in tqdm(questions, desc="tokenize", disable=None):
        prompt = prompts.token_ids(question, catalogue[question.db_id])
        if prompt is None:
            dropped["prompt_over_max_length"] += 1
            continue
        response = prompts.chat.response_ids(STRATEGIES[strategy].response(question))
        if max_length and len(prompt) + len(response) > max_length:
            dropped["row_over_max_row_length"] += 1
            continue
        row = {"input_ids": prompt + response, "labels": [IGNORED] * len(prompt) + response}
        arrays = {name: np.array(tokens, np.int32) for name, tokens in row.items()}
        rows.append({**arrays, "database": question.db_id})
    return rows, dropped


def by_database(databases: Sequence[str], size: int, seed: int, epoch: int) -> Iterator[int]:
    """Row numbers in passes of `size` rows over one database, whose schema is then computed once; the rest is mixed.

    `databases` has a name per row. The order depends on seed and epoch alone, which exact resume needs.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    groups: dict[str, list[int]] = {}
    for index in torch.randperm(len(databases), generator=generator).tolist():
        groups.setdefault(databases[index], []).append(index)
    whole, mixed = [], []
    for rows in groups.values():
        end = len(rows) - len(rows) % size
        whole += rows[:end]
        mixed += rows[end:]
    rows = whole + mixed
    passes = [rows[start : start + size] for start in range(0, len(rows), size)]
    last = passes.pop() if len(passes[-1]) < size else []  # an incomplete pass stays last
    for index in torch.randperm(len(passes), generator=generator).tolist():
        yield from passes[index]
    yield from last


class ColdStartTrainer(SFTTrainer):
    """SFTTrainer over packed rows: no padding, and logits only where there are labels; or over padded rows (`pad`)."""

    def _get_train_sampler(self, dataset: Any = None) -> ByEpoch:
        # The order is the same for any number of processes. (Several fill an epoch's incomplete last batch with the
        # epoch's first rows: accelerate does.)
        databases = list(self.train_dataset["database"])
        order = partial(by_database, databases, self.args.train_batch_size, self.args.seed)
        return ByEpoch(self, len(databases), order)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Negative log-likelihood, averaged over all labels of the accumulated batch."""
        with self.accelerator.autocast():
            if "packed" in inputs:
                log_probs, _ = model(packed=inputs["packed"].to(self.accelerator.device))
            else:
                labels = inputs["labels"][:, 1:]
                logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
                log_probs = selective_log_softmax(logits, labels.clamp(min=0))[labels != IGNORED]
        count = len(log_probs) if num_items_in_batch is None else num_items_in_batch
        loss = -log_probs.sum() / count
        self._metrics["train"]["label_probability"].append(log_probs.detach().exp().mean().item())
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages the gradients
        return loss


def collate(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """A batch as one packed row. Tokens with a label are scored, except a first token: nothing predicts it.

    Rows that begin alike, as the questions over one database do, share their beginning: it is computed once. The
    Trainer counts `labels` (1, L), except the first, as the loss's denominator.
    """
    prompts, endings, flat = [], [], []
    for members, shared in _alike(rows):
        first = members[0]
        prompts.append(list(first["input_ids"][:shared]))
        endings.append([list(row["input_ids"][shared:]) for row in members])
        flat += [IGNORED, *first["labels"][1:shared], *(label for row in members for label in row["labels"][shared:])]
    packed, labels = pack_groups(prompts, endings), torch.tensor(flat, dtype=torch.long)
    scored = (labels != IGNORED).nonzero().squeeze(1)
    packed.sources, packed.targets = scored - 1, labels[scored]
    return {"packed": packed, "labels": labels[None]}


def pad(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, torch.Tensor]:
    """A batch (B, L) padded on the right, for models that cannot compute packed rows."""
    filled = {}
    for name, padding in (("input_ids", 0), ("labels", IGNORED)):
        tokens = [torch.as_tensor(row[name], dtype=torch.long) for row in rows]
        filled[name] = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    present = torch.arange(filled["labels"].shape[1]) < lengths[:, None]
    return filled | {"attention_mask": present.long()}


def _alike(rows: Sequence[Mapping[str, Sequence[int]]]) -> list[tuple[list[Mapping[str, Sequence[int]]], int]]:
    """Groups of rows whose prompts begin alike, and how many tokens they share; a row alone shares all of its own.

    The last token of a prompt is never shared, so that the token before a scored one is always in the same row.
    """
    scored = [int((np.asarray(row["labels"]) != IGNORED).argmax()) for row in rows]
    prompts = [row["input_ids"][:first] for row, first in zip(rows, scored, strict=True)]
    groups = [([rows[i] for i in members], length) for length, members in shared_prefixes(prompts)]
    return [(group, length if len(group) > 1 else len(group[0]["input_ids"])) for group, length in groups]


def make_trainer(
    model: "PreTrainedModel",
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    settings: ColdStart,
    work: Path,
    seed: int,
    run: Run | None = None,
) -> ColdStartTrainer:
    """The trainer of the cold start over rows of `encode`; checkpoints go to `work`.

    Raises InputError for settings that TRL or PEFT refuse.
    """
    from datasets import Dataset

    dataset = Dataset.from_list(list(rows))
    args, lora = trainer_config(settings, work, seed), lora_config(settings.lora)
    with named_section("cold_start"):  # some settings are refused only when the model is known
        trainer = ColdStartTrainer(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[MarkComplete(), *([LogToRun(run)] if run else []), WarnOfStalls(run)],
        )
    base = trainer.model.get_base_model() if lora else trainer.model
    if reason := why_not_shared(base):
        costs = "each row computes its whole schema, padding, and logits of all tokens: several times the work"
        log.warning("%s: %s", costs, reason)
        trainer.data_collator = pad
    else:
        add_packed_forward(base)
    return trainer
