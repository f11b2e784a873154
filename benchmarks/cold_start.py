"""Cold start on SmolLM2: the stock SFTTrainer and ours on the same batches; candidates against `generate()`.

    python benchmarks/cold_start.py MODEL_FOLDER [--steps 4] [--repeats 3]

Rows of 150 to 350 prompt tokens and 40 to 80 response tokens, batches of 8 grouped by length, LoRA of rank 32, in the
machine's native precision (bf16 if it is multiplied in hardware). Prints tokens per second, losses, our share of the
machine's measured matmul peak, candidates per second over unrelated prompts and over one schema, and a JSON line. Fails
if the losses differ.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from random_model import DEVICE, load, synchronize
from transformers import AutoConfig

from sqlr1.config import ColdStart, Lora
from sqlr1.model.base import load_tokenizer, native_precision
from sqlr1.plan import Model

SETTINGS = ColdStart(
    learning_rate=1e-4,
    per_device_train_batch_size=8,
    save_steps=10_000,
    lr_scheduler_type="constant",
    lora=Lora(r=32, lora_alpha=64),
)
# The products have different shapes, so that losses may differ in the third digit, but not by more.
LOSS_TOLERANCE = 0.01


def rows(number: int, vocabulary: int, seed: int = 0) -> list[dict[str, Any]]:
    """Encoded rows of random tokens: eight over each database, whose schema is the first tokens."""
    rng = random.Random(seed)
    made = []
    for i in range(number):
        if i % 8 == 0:
            schema = [rng.randrange(10, vocabulary) for _ in range(rng.randint(150, 350))]
        question, response = rng.randint(15, 40), rng.randint(40, 80)
        ids = schema + [rng.randrange(10, vocabulary) for _ in range(question + response)]
        prompt = len(schema) + question
        made.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:], "database": str(i // 8)})
    return made


def train(kind: str, folder: str, data: list[dict[str, Any]], steps: int) -> tuple[float, list[float]]:
    """Tokens per second over `steps` updates, after one that is not counted, and the losses."""
    from datasets import Dataset
    from trl import SFTTrainer

    from sqlr1.train import sft
    from sqlr1.train.trainer_config import lora_config, trainer_config

    settings = SETTINGS.model_copy(update={"max_steps": steps + 1})
    model, tokenizer = load(folder, native_precision()), load_tokenizer(folder)
    with tempfile.TemporaryDirectory() as work:
        if kind == "ours":
            trainer = sft.make_trainer(model, tokenizer, data, settings, Path(work), 0)
        else:

            class Stock(SFTTrainer):
                _get_train_sampler = sft.ColdStartTrainer._get_train_sampler

            trainer = Stock(
                model=model,
                args=trainer_config(settings, Path(work), 0),
                train_dataset=Dataset.from_list(data),
                processing_class=tokenizer,
                peft_config=lora_config(settings.lora),
            )
        marks: list[tuple[float, int]] = []
        step, order = trainer.training_step, list(trainer._get_train_sampler())

        def timed(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            asked = order[len(marks) * 8 : len(marks) * 8 + 8]
            synchronize()
            marks.append((time.perf_counter(), sum(len(data[i]["input_ids"]) for i in asked)))
            return step(model, inputs, *rest)

        trainer.training_step = timed
        trainer.train()
        synchronize()
        elapsed = time.perf_counter() - marks[1][0]
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return sum(tokens for _, tokens in marks[1:]) / elapsed, losses


def peak_flops(config: Any) -> float:
    """FLOP/s of a product at the model's own sizes, in the machine's native precision."""
    dtype = getattr(torch, native_precision())
    x = torch.randn(1024, config.hidden_size, dtype=dtype, device=DEVICE)
    w = torch.randn(config.intermediate_size, config.hidden_size, dtype=dtype, device=DEVICE)
    torch.nn.functional.linear(x, w)
    synchronize()
    start = time.perf_counter()
    for _ in range(50):
        torch.nn.functional.linear(x, w)
    synchronize()
    return 50 * 2 * x.numel() * w.shape[0] / (time.perf_counter() - start)


def candidates(
    folder: str, common: int = 0, questions: int = 4, samples: int = 8, prompt: int = 300, tokens: int = 32
) -> dict[str, float]:
    """Candidates per second, `generate()` on copies of prompts of `prompt` tokens and ours.

    The first `common` tokens of all prompts are equal, as those of questions over one database are.
    """
    from sqlr1.model.sampler import Sampling, sample

    model = load(folder, native_precision())
    vocabulary = min(40_000, model.config.vocab_size)
    ids = torch.randint(10, vocabulary, (questions, prompt), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    ids[:, :common] = ids[0, :common]
    synchronize()
    start = time.perf_counter()
    copies = ids.repeat_interleave(samples, 0)
    model.generate(
        copies,
        attention_mask=torch.ones_like(copies),
        do_sample=True,
        top_k=0,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
    )
    synchronize()
    middle = time.perf_counter()
    seeds = [[q * samples + s for s in range(samples)] for q in range(questions)]
    sample(model, ids.tolist(), seeds, Sampling(tokens), [])
    synchronize()
    end = time.perf_counter()
    return {"stock": len(copies) / (middle - start), "ours": len(copies) / (end - middle)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", help="a model folder, e.g. results/smoke/base_model/model")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = AutoConfig.from_pretrained(args.model)
    data = rows(8 * (args.steps + 1), min(40_000, config.vocab_size))
    speeds: dict[str, list[float]] = {"stock": [], "ours": []}
    drawn: dict[str, list[float]] = {"stock": [], "ours": []}
    of_one_schema: dict[str, list[float]] = {"stock": [], "ours": []}
    losses: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        for kind, found in speeds.items():
            speed, losses[kind] = train(kind, args.model, data, args.steps)
            found.append(speed)
        for found, common in ((drawn, 0), (of_one_schema, 250)):
            for kind, speed in candidates(args.model, common).items():
                found[kind].append(speed)
    result: dict[str, Any] = {"threads": args.threads, "precision": native_precision()}
    measures = {"training tokens/s": speeds, "candidates/s": drawn, "same, one schema": of_one_schema}
    for name, measured in measures.items():
        stock, ours = (statistics.median(measured[kind]) for kind in ("stock", "ours"))
        result[name] = {"stock": round(stock, 1), "ours": round(ours, 1), "ratio": round(ours / stock, 2)}
        print(f"{name:18} stock {stock:8.1f}  ours {ours:8.1f}  ratio {ours / stock:.2f}")
    # With frozen weights the backward pass over the layers costs as much as the forward pass.
    flops_per_token = 2 * Model(config, ColdStart()).forward[0]
    share = result["training tokens/s"]["ours"] * flops_per_token / peak_flops(config)
    result |= {"share_of_peak": round(share, 2), "losses": losses}
    print(f"share of the {native_precision()} matmul peak: {share:.0%}")
    print(f"losses: stock {losses['stock']}, ours {losses['ours']}")
    print(json.dumps(result))
    for step, (stock, ours) in enumerate(zip(losses["stock"], losses["ours"], strict=True), 1):
        if abs(ours - stock) > LOSS_TOLERANCE * stock:
            raise SystemExit(f"step {step}: the losses differ by over {LOSS_TOLERANCE:.0%}: stock {stock}, ours {ours}")


if __name__ == "__main__":
    main()
