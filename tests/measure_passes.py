"""A program of its own: FLOPs and peak memory of one cold-start step, or of one sampling batch, on random weights.

    measure_passes.py training SHAPE ROWS PROMPT RESPONSE
    measure_passes.py sampling SHAPE PROMPTS PROMPT SAMPLES DRAWN

SHAPE is JSON with the fields of `sqlr1.planning.shapes.Shape`. Prints one JSON line.
"""

import json
import sys
import tempfile
from pathlib import Path

import mlflow  # noqa: F401 - every stage tracks
import torch
from tiny_models import tiny_tokenizer
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from sqlr1.config import ColdStart, Lora
from sqlr1.model.sampler import Sampling, sample
from sqlr1.train import sft
from sqlr1.train.checkpoints import train_on


def random_model(shape: dict) -> LlamaForCausalLM:
    """A Llama of `shape`, made in bf16."""
    config = LlamaConfig(
        hidden_size=shape["hidden"],
        intermediate_size=shape["intermediate"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        num_hidden_layers=shape["layers"],
        vocab_size=shape["vocabulary"],
        tie_word_embeddings=shape["tied"],
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def training(model: LlamaForCausalLM, rows: int, prompt: int, response: int) -> None:
    """One update of LoRA over one pass."""
    row = {"input_ids": [5] * (prompt + response), "labels": [sft.IGNORED] * prompt + [5] * response}
    settings = ColdStart(bf16=True, lora=Lora(r=32), per_device_train_batch_size=rows, max_steps=1)
    with tempfile.TemporaryDirectory() as work:
        trainer = sft.make_trainer(model, tiny_tokenizer(), [row] * rows, settings, Path(work), 0)
        train_on(trainer, Path(work))


def sampling(model: LlamaForCausalLM, prompts: int, prompt: int, samples: int, drawn: int) -> None:
    """One batch, none of whose rows ends early."""
    seeds = [[row * samples + k for k in range(samples)] for row in range(prompts)]
    # Prompts that begin alike would share the pass.
    sample(model, [[row] * prompt for row in range(prompts)], seeds, Sampling(drawn), [])


if __name__ == "__main__":
    kind, shape, *numbers = sys.argv[1:]
    torch.set_num_threads(2)
    model = random_model(json.loads(shape))
    with FlopCounterMode(display=False) as counter:
        {"training": training, "sampling": sampling}[kind](model, *map(int, numbers))
    # Not ru_maxrss: that starts at what the parent held when it forked.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    print(json.dumps({"flops": counter.get_total_flops(), "bytes": peak}))
