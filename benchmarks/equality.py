"""Is the shared prompt exact on this device? Sampler and packed pass against transformers' own forward.

    python benchmarks/equality.py MODEL_FOLDER

In float32, greedy tokens have to be those of `generate` and log-probabilities within 1e-3. In bfloat16 the errors
against float32 have to be at most twice those of transformers' own bfloat16. Prints a JSON line; fails otherwise.
"""

import argparse
import json
from typing import Any

import torch
from random_model import DEVICE, load

from sqlr1.model.prefix_cache import why_not_shared
from sqlr1.model.sampler import GREEDY, Sampling, sample
from sqlr1.train.packed_forward import add_packed_forward, pack_groups

PROMPT, COMPLETION, GROUPS, SIZE = 200, 32, 3, 4


@torch.no_grad()
def log_probs(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (rows * COMPLETION,) of the completions in ids (rows, tokens): transformers' and ours."""
    logits = model(input_ids=ids).logits[:, PROMPT - 1 : -1].float()
    plain = logits.log_softmax(-1).gather(-1, ids[:, PROMPT:, None]).flatten()
    add_packed_forward(model)
    groups = ids.tolist()
    packed = pack_groups(
        [groups[start][:PROMPT] for start in range(0, len(groups), SIZE)],
        [[row[PROMPT:] for row in groups[start : start + SIZE]] for start in range(0, len(groups), SIZE)],
    )
    return plain, model(packed=packed.to(ids.device))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", help="a model folder, or one of random_model.py")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    generator, found, exact = torch.Generator().manual_seed(0), {}, None
    for dtype in ("float32", "bfloat16"):
        model = load(args.model, dtype)
        if reason := why_not_shared(model):
            raise SystemExit(f"{args.model}, {dtype}: the prompt is not shared: {reason}")
        vocabulary = min(model.config.vocab_size, 40_000)
        if exact is None:
            prompts = torch.randint(10, vocabulary, (GROUPS, PROMPT), generator=generator).repeat_interleave(SIZE, 0)
            ends = torch.randint(10, vocabulary, (GROUPS * SIZE, COMPLETION), generator=generator)
            ids = torch.cat([prompts, ends], 1).to(DEVICE)
        asked = ids[::SIZE, :PROMPT]
        model.generation_config.eos_token_id = None
        drawn = sample(model, asked.tolist(), [[GREEDY, 1]] * GROUPS, Sampling(COMPLETION), [])
        wanted = model.generate(
            asked, attention_mask=torch.ones_like(asked), do_sample=False, max_new_tokens=COMPLETION
        )
        ours = torch.tensor([group[0] for group in drawn])
        equal = (ours == wanted[:, PROMPT:].cpu()).float().mean().item()
        plain, packed = log_probs(model, ids)
        exact = plain if exact is None else exact
        errors = [(values - exact).abs().max().item() for values in (plain, packed)]
        found[dtype] = {"greedy tokens equal": equal, "stock error": errors[0], "our error": errors[1]}
        print(f"{dtype:9} greedy tokens equal {equal:.1%}, largest error stock {errors[0]:.2g}, ours {errors[1]:.2g}")
        del model
    print(json.dumps(found))
    rounded = found["bfloat16"]
    if found["float32"]["greedy tokens equal"] < 1 or found["float32"]["our error"] > 1e-3:
        raise SystemExit("float32: the shared prompt computes something else")
    if rounded["our error"] > 2 * rounded["stock error"] + 1e-3:
        raise SystemExit("bfloat16: the shared prompt rounds more than transformers")


if __name__ == "__main__":
    main()
