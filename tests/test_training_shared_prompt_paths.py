"""The trainer's calls of the shared-prompt sampler and pass, and when it uses TRL's own code instead."""

from unittest.mock import patch

import pytest
from datasets import Dataset
from peft import LoraConfig
from tiny_models import tiny_model, tiny_tokenizer
from trl import GRPOConfig, GRPOTrainer

from sqlr1.config import ColdStart, Lora
from sqlr1.model.sampler import Sampling
from sqlr1.records import InputError
from sqlr1.train import sft, shared_prompt
from sqlr1.train.shared_prompt import SharedPromptTrainer


def letters(completions, **_):
    """Any reward."""
    return [float(len(c[0]["content"]) % 5) for c in completions]


def trainer_of(model, tmp_path, prompts=("a",), peft_config=None, **settings):
    defaults = {"num_generations": 4, "use_cpu": True, "bf16": False, "report_to": "none", "max_completion_length": 4}
    return SharedPromptTrainer(
        model=model,
        args=GRPOConfig(str(tmp_path), **(defaults | settings)),
        reward_funcs=letters,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in prompts]),
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
    )


def test_prompts_and_equal_completions_are_computed_once_with_the_settings_of_the_config_and_other_seeds_each_step(
    tmp_path, monkeypatch
):
    drawn, packed = [], []
    sample_of, pack = shared_prompt.sample, shared_prompt.pack_groups

    def sample_a_pair_of_equals(*args):
        drawn.append(args)
        return [[group[0], group[0], *group[2:]] for group in sample_of(*args)]

    monkeypatch.setattr(shared_prompt, "sample", sample_a_pair_of_equals)
    monkeypatch.setattr(shared_prompt, "pack_groups", lambda *args: (packed.append(args), pack(*args))[1])
    settings = {"per_device_train_batch_size": 8, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "max_steps": 2}
    trainer_of(tiny_model(), tmp_path, ("How many?", "Name?", "a", "b c"), **settings, save_strategy="no").train()
    assert [len(prompts) for _, prompts, *_ in drawn] == [len(prompts) for prompts, _ in packed] == [2, 2]
    assert {len(group) for _, groups in packed for group in groups} == {3}
    assert {args[3] for args in drawn} == {Sampling(4, 0.7, 0.9, 20)}
    assert len({seed for args in drawn for group in args[2] for seed in group}) == 16


ROWS = [{"input_ids": [5, 6], "labels": [-100, 6]}]  # of a cold start


def test_an_adapter_of_the_embeddings_is_not_left_out(tmp_path):
    """A packed pass would ignore it, but rollouts would use it. (An adapter of the head is refused by TRL.) Here both
    are the model's own.
    """
    reason = "the embeddings or the head are not plain layers"
    lora = {"r": 2, "target_modules": ["q_proj", "embed_tokens"]}
    config = LoraConfig(**lora, task_type="CAUSAL_LM")
    assert trainer_of(tiny_model(), tmp_path, peft_config=config).unshared_reason.startswith(reason)
    settings = ColdStart(bf16=False, lora=Lora(**lora))
    assert sft.make_trainer(tiny_model(), tiny_tokenizer(), ROWS, settings, tmp_path, 0).data_collator is sft.pad


def test_an_adapter_of_no_module_is_one_line(tmp_path):
    settings = ColdStart(bf16=False, lora=Lora(r=2, target_modules=["q_prj"]))
    with pytest.raises(InputError, match=r"config section cold_start: Target modules \{.q_prj.\} not found"):
        sft.make_trainer(tiny_model(), tiny_tokenizer(), ROWS, settings, tmp_path, seed=0)


def test_what_our_sampler_does_not_draw_is_left_to_trl(tmp_path):
    trainer = trainer_of(tiny_model(), tmp_path)
    trainer.unsampled_reason = "grpo.use_vllm"
    with patch.object(GRPOTrainer, "_generate_single_turn", return_value=([[5]], None)) as own:
        assert trainer._generate_single_turn([[5, 6]] * 4, None, None, 4) == ([[5]], None)
    assert own.call_count == 1
