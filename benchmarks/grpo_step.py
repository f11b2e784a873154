"""One GRPO step on SmolLM2: stock TRL and the shared-prompt trainer in turn, same weights, same seed, G = 8.

    python benchmarks/grpo_step.py MODEL_FOLDER [--sizes 150x48 300x96 1000x128] [--prompts 1] [--repeats 3]

Each measurement is a process of its own, because its peak memory is measured too; stock and ours alternate. Sampling
draws exactly the given number of tokens (no end token). The training pass computes loss and gradients of these
completions, the step runs the optimizer. The frozen weights have the machine's native precision (bfloat16 if it is
multiplied in hardware), LoRA is trained in float32 with autocast. Memory is the process's, or the GPU's where there is
one. Prints a table of medians and ratios, then a JSON line.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from random_model import DEVICE, load, synchronize

from sqlr1.model.base import native_precision

KINDS = ("stock", "ours")
PHASES = ("sampling", "training pass", "step")


def measure(kind: str, folder: str, prompt: int, completion: int, prompts: int, threads: int) -> dict[str, float]:
    """Seconds of each phase, best of two rounds within this process, and peak memory in MB."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    from sqlr1.model.base import load_tokenizer
    from sqlr1.train.shared_prompt import SharedPromptTrainer

    torch.set_num_threads(threads)
    rows, precision = prompts * 8, native_precision()
    # Our trainer does not read generation_kwargs: it gets no end tokens below.
    no_end = {"generation_kwargs": {"min_new_tokens": completion, "eos_token_id": None}} if kind == "stock" else {}
    config = GRPOConfig(
        "unused", num_generations=8, per_device_train_batch_size=rows, max_completion_length=completion, beta=0.0,
        use_cpu=DEVICE == "cpu", bf16=precision == "bfloat16", gradient_checkpointing=False, report_to="none",
        save_strategy="no", learning_rate=1e-5, **no_end,
    )  # fmt: skip
    trainer = (GRPOTrainer if kind == "stock" else SharedPromptTrainer)(
        model=load(folder, precision),
        args=config,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=load_tokenizer(folder),
        peft_config=LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.eos_token_ids = []
    assert kind == "stock" or not (trainer.unsampled_reason or trainer.unshared_reason)
    trainer.create_optimizer_and_scheduler(10)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(0)
    vocabulary = min(40_000, trainer.model.config.vocab_size)
    ids = torch.randint(10, vocabulary, (prompts, prompt), generator=generator).repeat_interleave(8, 0).to(DEVICE)
    rounds = [_step(trainer, ids, completion) for _ in range(2)]
    seconds = {phase: min(r[phase] for r in rounds) for phase in PHASES}
    gpu = torch.cuda.max_memory_allocated() / 1e6 if DEVICE == "cuda" else 0
    return seconds | {"MB": gpu or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _step(trainer: Any, ids: Any, completion: int) -> dict[str, float]:
    import torch

    start = _clock()
    drawn, _ = trainer._generate_single_turn(ids.tolist(), None, {}, 8)
    sampled = _clock()
    completions = torch.tensor(drawn, device=ids.device)
    assert completions.shape == (len(ids), completion)
    batch = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "advantages": torch.linspace(-1, 1, len(ids), device=ids.device),
        "num_items_in_batch": torch.tensor(completions.numel(), device=ids.device),
    }
    trainer.compute_loss(trainer.model, batch).backward()
    trained = _clock()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    end = _clock()
    return {"sampling": sampled - start, "training pass": trained - sampled, "step": end - start}


def _clock() -> float:
    synchronize()
    return time.perf_counter()


def _child(kind: str, args: argparse.Namespace, size: str) -> dict[str, float]:
    call = [sys.executable, __file__, args.model, "--child", kind, "--sizes", size]
    call += ["--prompts", str(args.prompts), "--threads", str(args.threads)]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", help="a model folder, e.g. results/smoke/base_model/model")
    parser.add_argument("--sizes", nargs="+", default=["150x48", "300x96", "1000x128"], metavar="PROMPTxCOMPLETION")
    parser.add_argument("--prompts", type=int, default=1, help="prompts a step, 8 completions each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        prompt, completion = map(int, args.sizes[0].split("x"))
        print(json.dumps(measure(args.child, args.model, prompt, completion, args.prompts, args.threads)))
        return
    results: dict[str, Any] = {"model": args.model, "prompts": args.prompts, "threads": args.threads}
    results["precision"] = native_precision()
    print(f"{'prompt x completion':>20} {'':14} {'stock':>9} {'ours':>9} {'ratio':>6}")
    for size in args.sizes:
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(args.repeats):
            for kind in KINDS:
                runs[kind].append(_child(kind, args, size))
        for what in (*PHASES, "MB"):
            stock, ours = (statistics.median(run[what] for run in runs[kind]) for kind in KINDS)
            results[f"{size} {what}"] = {
                "stock": round(stock, 2),
                "ours": round(ours, 2),
                "ratio": round(stock / ours, 2),
            }
            print(f"{size:>20} {what:14} {stock:9.2f} {ours:9.2f} {stock / ours:6.2f}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
