"""The cold start: the encoded rows, and the same numbers as the stock SFTTrainer."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_models import tiny_model, tiny_tokenizer
from tiny_stages import PROMPT, command, prepare, run_here
from trl import SFTTrainer

from sqlr1.config import ColdStart, Lora
from sqlr1.model.prompts import Prompts
from sqlr1.prompt import parse_response
from sqlr1.records import Catalogue, Question, read_records
from sqlr1.train import sft
from sqlr1.train.trainer_config import lora_config, trainer_config

SETTINGS = ColdStart(
    learning_rate=1e-3, lr_scheduler_type="constant", max_steps=5, per_device_train_batch_size=3, bf16=False,
    lora=Lora(r=4, lora_alpha=8), gradient_accumulation_steps=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cold_start")
    prepare(folder)
    return folder


def encoded(folder: Path, strategy: str, max_row_length=None, **prompt):
    questions = read_records(folder / "questions.jsonl", Question)
    prompts = Prompts(tiny_tokenizer(), PROMPT.model_copy(update=prompt))
    return sft.encode(questions, Catalogue(folder / "catalogue.jsonl", folder), prompts, strategy, max_row_length)


@pytest.mark.parametrize(("strategy", "think"), [("sql_only", ""), ("reasoning", "Count pets by age.")])
def test_a_row_teaches_the_response_and_the_end_token(folder, strategy, think):
    rows, dropped = encoded(folder, strategy)
    assert not dropped
    row = rows[3]
    taught = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != sft.IGNORED]
    response = parse_response(tiny_tokenizer().decode(taught[:-1]))
    assert taught[-1] == tiny_tokenizer().eos_token_id
    assert (response.think, response.sql) == (think, "SELECT count(*) FROM pet WHERE age > 3")
    assert response.well_formed
    prompt = tiny_tokenizer().decode(row["input_ids"][: -len(taught)])
    assert prompt.endswith("Question: How many pets are older than 3?<|im_end|>\n<|im_start|>assistant\n")


def test_a_prompt_over_the_limit_is_dropped_and_counted(folder):
    rows, dropped = encoded(folder, "reasoning", max_length=32)
    assert rows == []
    assert dropped == {"prompt_over_max_length": 12}


def test_without_a_row_that_fits_the_keys_to_change_are_named(tmp_path):
    prepare(tmp_path)
    words = command(tmp_path, "cold_start", "out")
    at = words.index("--settings") + 1
    words[at] = words[at].replace('"max_length": 400', '"max_length": 40')
    code, log = run_here(tmp_path, words)
    assert code == 1
    assert "prompts over prompt.max_length, 0 rows are over cold_start.max_row_length; raise the limit" in log


def test_a_row_over_the_limit_is_dropped_and_counted_and_none_is_cut(folder):
    every, _ = encoded(folder, "reasoning")
    longest = sorted(len(row["input_ids"]) for row in every)[5]
    rows, dropped = encoded(folder, "reasoning", max_row_length=longest)
    kept = [row["input_ids"].tolist() for row in every if len(row["input_ids"]) <= longest]
    assert [row["input_ids"].tolist() for row in rows] == kept
    assert dropped == {"row_over_max_row_length": len(every) - len(kept)}


def trained(folder, tmp_path, stock, shared):
    """Losses and trained weights of the stock trainer or ours on the same batches, in float32."""
    rows, _ = encoded(folder, "reasoning")
    if not shared:  # rows of mixed lengths that begin differently
        rows = [r | {"input_ids": r["input_ids"][i:], "labels": r["labels"][i:]} for i, r in enumerate(rows)]
    model = tiny_model()
    if not stock:
        trainer = sft.make_trainer(model, tiny_tokenizer(), rows, SETTINGS, tmp_path, seed=1)
    else:

        class Stock(SFTTrainer):
            _get_train_sampler = sft.ColdStartTrainer._get_train_sampler

        trainer = Stock(
            model=model,
            args=trainer_config(SETTINGS, tmp_path, 1),
            train_dataset=Dataset.from_list(rows),
            processing_class=tiny_tokenizer(),
            peft_config=lora_config(SETTINGS.lora),
        )
    trainer.args.adam_epsilon = 1e-4  # at the default, rounding errors of tiny gradients become whole steps
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("shared", [True, False], ids=["schema computed once", "rows alone"])
def test_losses_and_weights_equal_the_stock_trainers(folder, tmp_path, shared):
    stock, ours = (trained(folder, tmp_path / str(kind), kind, shared) for kind in (True, False))
    assert ours[0] == pytest.approx(stock[0], rel=1e-4)
    assert ours[0][-1] < ours[0][0]
    assert max((ours[1][n] - p).abs().max() for n, p in stock[1].items()) < 1e-4


def test_rows_over_one_database_share_their_schema(folder):
    rows, _ = encoded(folder, "sql_only")
    packed = sft.collate(rows[:4])["packed"]
    assert len(packed.groups) == 1
    assert packed.input_ids.numel() < 0.6 * sum(len(row["input_ids"]) for row in rows[:4])
    taught = [label for row in rows[:4] for label in row["labels"] if label != sft.IGNORED]
    assert sorted(packed.targets.tolist()) == sorted(taught)


def test_equal_rows_do_not_share_the_token_before_the_response(folder):
    row = encoded(folder, "sql_only")[0][0]
    packed = sft.collate([row, row])["packed"]
    assert len(set(packed.sources.tolist())) == len(packed.sources)


def test_a_pass_has_one_database_and_the_order_follows_seed_and_epoch_alone():
    databases = [f"db{i % 7}" for i in range(1001)]

    def order(epoch):
        return list(sft.by_database(databases, 8, seed=4, epoch=epoch))

    first = order(0)
    assert sorted(first) == list(range(1001))
    passes = [{databases[i] for i in first[k : k + 8]} for k in range(0, 1000, 8)]
    assert sum(len(names) == 1 for names in passes) == 119  # 17 whole passes of each of 7; the other rows are mixed
    torch.rand(5)  # the global generator is not used
    assert order(0) == first
    assert order(1) != first
