"""The shared-prompt sampler: equal to `generate()`, and reproducible."""

import pytest
import torch
from tiny_models import smollm2, tiny_model

from sqlr1.model.base import eos_token_ids, load_model, load_tokenizer
from sqlr1.model.prefix_cache import shared_prefixes, why_not_shared
from sqlr1.model.sampler import GREEDY, Sampling, batches, choose, row_seed, sample

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20, 21, 22], [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41], [50]]


def generated(model, prompt, new_tokens, eos):
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=eos,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_greedy_tokens_equal_generate(architecture):
    model = tiny_model(architecture).eval()
    eos = list(range(3, 60))  # many end tokens: rows end early and at different steps
    drawn = sample(model, PROMPTS, [[GREEDY, 1, 2]] * 4, Sampling(70), eos)
    expected = [generated(model, p, 70, eos) for p in PROMPTS]
    assert [group[0] for group in drawn] == expected
    assert len({len(tokens) for tokens in expected}) > 1


def test_greedy_tokens_equal_generate_on_smollm2():
    folder = smollm2()
    model, tokenizer = load_model(folder, "float32"), load_tokenizer(folder)
    questions = ["What is the capital of France?", "Write a SQL query that counts all users older than 30."]
    messages = [[{"role": "user", "content": question}] for question in questions]
    prompts = [tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=False) for m in messages]
    eos = eos_token_ids(model, tokenizer)
    drawn = sample(model, prompts, [[GREEDY, 1, 2, 3]] * 2, Sampling(24), eos)
    assert [group[0] for group in drawn] == [generated(model, p, 24, eos) for p in prompts]
    assert "Paris" in tokenizer.decode(drawn[0][0])


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_shared_prefix_is_computed_once(architecture, monkeypatch):
    """Three schemas and questions of different lengths, and a prompt that shares nothing."""
    model = tiny_model(architecture).eval()
    schemas = [[n, *range(30 + n, 60 + 3 * n)] for n in (3, 4, 5)]
    prompts = [[*schema, *range(90, 90 - n, -1)] for schema in schemas for n in (1, 4, 9, 2)] + [[7, 8, 9]]
    assert why_not_shared(model) == ""
    computed = []
    inner = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **k: computed.append(k["input_ids"].shape) or inner(**k))
    drawn = sample(model, prompts, [[GREEDY, 1, 2]] * len(prompts), Sampling(12), [2])
    assert computed[:2] == [(4, 41), (13, 9)]  # three schemas and the last prompt without its last token; then the rest
    monkeypatch.undo()
    assert [group[0] for group in drawn] == [generated(model, p, 12, [2]) for p in prompts]
    alone = [sample(model, [p], [[GREEDY, 1, 2]], Sampling(12), [2])[0] for p in prompts]
    assert drawn == alone


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([[1, 2, 3, 4], [9, 8], [1, 2, 3, 5]], [(3, [0, 2]), (1, [1])]),
        ([[1, 2, 3], [1, 2, 3]], [(2, [0, 1])]),  # the last token is never shared, because its logits are needed
        ([[1, 2, 3, 4], [1, 2, 3]], [(2, [1, 0])]),  # one prompt is a prefix of the other
        ([[1, 2, 3, 4, 5, 6], [1, 2, 9]], [(5, [0]), (2, [1])]),  # too little in common
        ([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7, 8], [9], [7, 6, 5, 4]], [(4, [0, 1]), (2, [3]), (0, [2])]),
    ],
)
def test_shared_prefixes(prompts, expected):
    assert shared_prefixes(prompts) == expected


def test_a_row_does_not_depend_on_its_batch():
    model = tiny_model().eval()
    sampling = Sampling(20, temperature=0.8)
    together = sample(model, PROMPTS, [[1, 2], [3], [GREEDY, 4, 5], [6]], sampling, [2])
    alone = [
        sample(model, [p], [s], sampling, [2])[0]
        for p, s in zip(PROMPTS, [[1, 2], [3], [GREEDY, 4, 5], [6]], strict=True)
    ]
    assert together == alone


def test_a_prompt_is_held_once_whatever_the_number_of_rows(monkeypatch):
    from sqlr1.model import prefix_cache

    caches = []

    class Kept(prefix_cache.SharedPromptCache):
        def __init__(self, *args):
            super().__init__(*args)
            caches.append(self)

    monkeypatch.setattr(prefix_cache, "SharedPromptCache", Kept)
    sample(tiny_model().eval(), [PROMPTS[0]], [list(range(8))], Sampling(2), [])
    assert caches[-1].prompt_keys[0].shape == (2, len(PROMPTS[0]), 8)  # key/value heads, prompt, head size


def test_rows_that_have_ended_are_not_computed(monkeypatch):
    model = tiny_model().eval()
    assert why_not_shared(model) == ""
    rows = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **k: rows.append(len(k["input_ids"])) or forward(**k))
    sample(model, PROMPTS, [[1, 2, 3, 4]] * 4, Sampling(40), list(range(100)))
    assert rows[0] < 16
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < rows[0]


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(40_000, 1)
    uniforms = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    for sampling, expected in (
        (Sampling(1, temperature=0.7), (logits[0] / 0.7).softmax(-1)),
        (Sampling(1, temperature=0.0), torch.tensor([0.0, 0, 1, 0])),
        (Sampling(1, top_k=2), torch.tensor([0, 1 / (1 + torch.e), torch.e / (1 + torch.e), 0])),
        (Sampling(1, top_p=0.6), torch.tensor([0.0, 0, 1, 0])),
        (Sampling(1, top_p=0.7), torch.tensor([0, 1 / (1 + torch.e), torch.e / (1 + torch.e), 0])),
    ):
        share = torch.bincount(choose(logits, uniforms, sampling), minlength=4) / 40_000
        torch.testing.assert_close(share, expected, atol=0.01, rtol=0)


def test_equal_seeds_draw_equal_rows_and_others_differ():
    drawn = sample(tiny_model().eval(), [PROMPTS[0]], [[7, 7, 8]], Sampling(16, temperature=2.0), [2])[0]
    assert drawn[0] == drawn[1] != drawn[2]
    assert row_seed(0, "a", 1) != row_seed(0, "a", 2) != row_seed(1, "a", 2)


def test_batches_keep_the_budget_and_every_prompt():
    lengths = [300, 10, 50, 290, 900, 5]
    planned = batches(lengths, rows=4, sampling=Sampling(20), batch_tokens=800)
    assert sorted(i for batch in planned for i in batch) == list(range(6))
    assert all(len(b) * (lengths[b[0]] + 80) <= 800 or len(b) == 1 for b in planned)


def test_completions_are_the_same_in_other_batches():
    model, seeds = tiny_model().eval(), [[GREEDY], [1], [2], [3]]
    alone = [sample(model, [prompt], [own], Sampling(6), [2])[0] for prompt, own in zip(PROMPTS, seeds, strict=True)]
    assert alone == sample(model, PROMPTS, seeds, Sampling(6), [2])
