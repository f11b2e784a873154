"""GRPOTrainer that computes each group's prompt once: in sampling, in log-probabilities and in the backward pass.

Completions of a group that are equal are computed once too, except in sampling.

Loss, advantages, clipping and KL are TRL's own code; only the log-probabilities that go into it are computed here.
Models and settings that do not support this (attention dropout, capped scores, ...) use TRL's own code for rollouts and
log-probabilities, and the log says why and what it costs.

Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) refills or drops groups whose completions all have the same
reward: their advantages are zero, so they cost a pass, teach nothing, and lower the mean loss. A dropped row adds
nothing to the loss, not even a KL term. With `loss_type` dapo the mean is over the remaining tokens; grpo and dr_grpo
count a dropped row as one with loss 0. TRL computes bnpo and the entropy bonus as means within a micro-batch; one that
has only dropped rows adds nothing to them.

Shapes: B rows in a batch of rollouts, the rows of a group are contiguous; T tokens of the longest completion.
"""

import functools
import logging
import random
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from trl import GRPOTrainer
from trl.distributed import DistributedBackend
from trl.trainer.utils import pad, split_tensor_dict

from sqlr1.model.chat import Chat
from sqlr1.model.constraint import Grammars
from sqlr1.model.prefix_cache import why_not_shared
from sqlr1.model.sampler import Sampling, row_seed, sample
from sqlr1.records import InputError
from sqlr1.train.checkpoints import ByEpoch
from sqlr1.train.packed_forward import add_packed_forward, pack_groups
from sqlr1.train.policy import rollout_policy

log = logging.getLogger(__name__)

_ROUNDING = 1e-5  # relative error of a sum in float32


class SharedPromptTrainer(GRPOTrainer):
    """GRPOTrainer with shared prompts. `shared_prompt=False` is TRL's trainer, except for the order of prompts.

    If `refill_rounds` is an integer, zero-variance groups are replaced by groups of other prompts, up to so many times,
    and the remaining ones are dropped. None keeps them, as TRL does. A process then needs whole groups.

    If `constrained`, rollouts can name only what the `database` of their row has. Log-probabilities, ratios, entropies
    and KL are those of the constrained policy: `_masks` has the masks of the present rollouts by prompt and completion.
    Raises InputError if our sampler cannot draw the rollouts of this model.
    """

    def __init__(
        self,
        *args: Any,
        shared_prompt: bool = True,
        refill_rounds: int | None = None,
        constrained: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.chat = Chat(self.processing_class)
        self.refill_rounds, self._round = refill_rounds, 0
        self.rollout_model: Any = None
        self.unshared_reason = self._why_not_shared() if shared_prompt else "grpo.shared_prompt is false"
        if self.unshared_reason:
            costs = "each prompt is computed %d times, and a resumed run draws other rollouts, by TRL's own code"
            log.warning(f"{costs}: %s", self.num_generations, self.unshared_reason)
        self.unsampled_reason = "grpo.use_vllm" if self.args.use_vllm else self.unshared_reason
        if not self.unshared_reason and (reason := self.unsampled_reason):
            log.warning("TRL draws the rollouts, without a seed per rollout: %s; a resumed run draws others", reason)
        if constrained and (reason := self.unsampled_reason):
            raise InputError(
                f"config key grpo.constrained: our sampler does not draw the rollouts ({reason}); set it to false"
            )
        self.grammars = Grammars(self.processing_class, self.model, self.eos_token_ids) if constrained else None
        self._databases: list[Path] = []  # of the rows to be drawn
        self._masks: dict[tuple[tuple[int, ...], tuple[int, ...]], torch.Tensor] = {}  # (T, W) each
        if self.unshared_reason:
            return
        for wrapped in filter(None, (self.model, self.ref_model)):
            model = self.accelerator.unwrap_model(wrapped)  # DeepSpeed may have wrapped the reference model
            add_packed_forward(model.get_base_model() if is_peft_model(model) else model, self.temperature)

    def _tokenize_prompts(self, prompts: list[list[dict[str, str]]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The prompts as in every other stage; TRL would apply the chat template as it is."""
        return [self.chat.prompt_ids(prompt) for prompt in prompts], None, {}

    def _why_not_shared(self) -> str:
        model = self.model.get_base_model() if is_peft_model(self.model) else self.model
        if DistributedBackend(self.accelerator).is_zero3:
            return "ZeRO stage 3 wants as many passes of each process, and packed ones differ in number"
        return why_not_shared(model)

    def _get_train_sampler(self, dataset: Any = None) -> ByEpoch:
        """TRL's order of prompts, shuffled by seed and epoch alone; in epoch 0 it is exactly TRL's.

        TRL uses one generator for all epochs, which a resumed run would start again from the first epoch.
        """
        sampler = super()._get_train_sampler(dataset)

        def order(epoch: int) -> Iterable[int]:
            sampler.generator = torch.Generator().manual_seed(sampler.seed + 1_000_003 * epoch)
            return sampler

        return ByEpoch(self, len(sampler), order)

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, *a: Any, **k: Any
    ) -> tuple[list[list[int]], Any]:
        """Completions of `prompt_ids`, in which each prompt occurs `num_generations` times."""
        if self.unsampled_reason:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, *a, **k)
        first = self.accelerator.process_index * len(prompt_ids)
        groups = _rows_by_prompt(prompt_ids)
        seed_of = functools.partial(row_seed, self.args.seed, self._step, self._round)
        seeds = [[seed_of(first + row) for row in rows] for rows in groups.values()]
        sampling = Sampling(self.max_completion_length, self.temperature, self.top_p, self.top_k)
        policy = rollout_policy(self.accelerator.unwrap_model(self.model), self)
        databases = [self._databases[rows[0]] for rows in groups.values()] if self.grammars else []
        constraint = self.grammars.over(databases, seeds) if self.grammars else None
        drawn = sample(policy, list(groups), seeds, sampling, self.eos_token_ids, constraint)
        completions: list[list[int]] = [[] for _ in prompt_ids]
        used = iter(constraint.used if constraint else [])
        for (prompt, rows), group in zip(groups.items(), drawn, strict=True):
            for row, tokens in zip(rows, group, strict=True):
                completions[row] = tokens
                if constraint:
                    self._masks[prompt, tuple(tokens)] = torch.from_numpy(np.stack(next(used)))
        return completions, None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probabilities and entropies (B, T) of the completions; 0 in the padding, as in TRL."""
        if self.unshared_reason:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **more
            )
        present = attention_mask[:, -logits_to_keep:].bool()
        log_probs = torch.zeros(present.shape, dtype=torch.float32, device=input_ids.device)
        entropies = torch.zeros_like(log_probs)
        ids, mask = input_ids.cpu(), attention_mask.bool().cpu()
        prompts = [row[:-logits_to_keep][m[:-logits_to_keep]].tolist() for row, m in zip(ids, mask, strict=True)]
        completions = [
            tuple(row[-logits_to_keep:][m[-logits_to_keep:]].tolist()) for row, m in zip(ids, mask, strict=True)
        ]
        groups = list(_rows_by_prompt(prompts).items())
        # Dropped groups are not computed. If all are dropped, the first prompt is, because the loss needs a graph.
        groups = [(prompt, rows) for prompt, rows in groups if present[rows].any()] or groups[:1]
        most = batch_size or len(input_ids)
        while groups:
            chunk = [groups.pop(0)]
            while groups and sum(len(rows) for _, rows in [*chunk, groups[0]]) <= most:
                chunk.append(groups.pop(0))
            rows = [row for _, group in chunk for row in group]
            # Equal completions of a prompt are computed once, and their gradients add up.
            distinct = [list(dict.fromkeys(completions[row] for row in group)) for _, group in chunk]
            packed = pack_groups([prompt for prompt, _ in chunk], distinct)
            starts, end = {}, 0  # of each distinct completion in `values`
            for (prompt, _), group in zip(chunk, distinct, strict=True):
                for completion in group:
                    starts[prompt, completion], end = end, end + len(completion)
            if self.grammars and end:
                packed.allowed = torch.cat([self._masks[pair] for pair in starts if pair[1]])
            with self.accelerator.autocast():
                values, entropy = model(packed=packed.to(input_ids.device))
            index, columns = present[rows].nonzero().T
            first = [starts[prompt, completions[row]] for prompt, group in chunk for row in group]
            # The tokens of a completion have no gaps, so a column is a place within it.
            source = torch.tensor(first, device=index.device)[index] + columns
            values, entropy = values[source], entropy[source]
            places = (torch.tensor(rows, device=index.device)[index], columns)
            log_probs = log_probs.index_put(places, values)
            entropies = entropies.index_put(places, entropy.detach() if not self._entropy_bonus_enabled else entropy)
        return log_probs, entropies if compute_entropy else None, None

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        """TRL's rewards (B, F) of F parts, over all processes. Their weighted sums are kept for dynamic sampling.

        A sum is NaN if the gold could not be run.
        """
        parts = super()._calculate_rewards(*args)
        sums = (parts * self.reward_weights.to(parts.device)).nansum(1)
        self._rewards = sums.masked_fill(parts.isnan().all(1), torch.nan)
        return parts

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """TRL's batch with the `rewards` (B,) of this process's rows.

        Logs the share of zero-variance groups of all processes as `with_variance` sees it: TRL's own test of their
        standard deviation fails by rounding, and if golds fail. Logs the share of completions or tokens that the
        correction of vLLM's probabilities masks or truncates.
        """
        self._databases = [Path(row["database"]) for row in inputs] if self.grammars else []
        batch = super()._generate_and_score_completions(inputs)
        if self.model.training:
            live = with_variance(self._rewards, self.num_generations).float().mean().item()
            self._metrics["train"]["frac_reward_zero_std"][-1] = 1 - live
        if (ratio := batch.get("importance_sampling_ratio")) is not None:
            limited = share_limited(ratio, batch["completion_mask"], self.vllm_importance_sampling_clip_max)
            key, mode = "sampling/importance_sampling_ratio/limited", "train" if self.model.training else "eval"
            self._metrics[mode][key].append(self.accelerator.gather(limited).mean().item())
        first = self.accelerator.process_index * len(inputs)
        return {**batch, "rewards": self._rewards[first : first + len(inputs)]}

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As in TRL, but zero-variance groups are refilled and dropped, and a batch of rollouts is shuffled by group.

        A shuffle by group lets the completions of a micro-batch share their prompt. It has a seed of its own, because
        after a resume the state of the global generator differs.
        """
        per_generation = self.args.steps_per_generation
        fresh = self._buffered_inputs is None or self._step % (per_generation * self.num_iterations) == 0
        as_in_trl = self.unshared_reason and self.refill_rounds is None
        if as_in_trl or not self.model.training or not fresh:
            return super()._prepare_inputs(generation_batch)
        self._masks.clear()
        batch = self._refilled(self._generate_and_score_completions(generation_batch))
        rewards = batch.pop("rewards")
        if self.refill_rounds is not None:
            kept = with_variance(rewards, self.num_generations).repeat_interleave(self.num_generations)
            dropped_share = self.accelerator.gather((~kept).float()).mean().item()
            self._metrics["train"]["dynamic_sampling/live_groups"].append(1 - dropped_share)
            batch["completion_mask"] = batch["completion_mask"] * kept[:, None]
            batch["num_items_in_batch"] = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        generator = torch.Generator().manual_seed(row_seed(self.args.seed, self._step))
        groups = torch.arange(len(batch["advantages"])).split(self.num_generations)
        order = torch.cat([groups[i] for i in torch.randperm(len(groups), generator=generator)])
        batch = {k: v[order] if isinstance(v, torch.Tensor) and v.dim() else v for k, v in batch.items()}
        self._buffered_inputs = split_tensor_dict(batch, per_generation)
        return self._buffered_inputs[self._step % per_generation]

    def _refilled(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`batch` with zero-variance groups replaced by groups of other prompts that have variance.

        All processes draw as many groups as the one that needs most, because they sample and gather together.
        """
        size = self.num_generations
        for number_of_round in range(1, (self.refill_rounds or 0) + 1):
            self._round = number_of_round
            unwanted = (~with_variance(batch["rewards"], size)).nonzero().flatten()
            number = int(self.accelerator.gather(unwanted.new_tensor([len(unwanted)])).max())
            if not number:
                break
            seed = row_seed(self.args.seed, self._step, self._round, "refill", self.accelerator.process_index)
            rng = random.Random(seed)
            prompts = [rng.randrange(len(self.train_dataset)) for _ in range(number)]
            fresh = self._scored_aside([self.train_dataset[index] for index in prompts for _ in range(size)])
            useful = with_variance(fresh["rewards"], size).nonzero().flatten()
            places = dict(zip(unwanted.tolist(), useful.tolist(), strict=False))
            batch = replace_groups(batch, fresh, places, size, self.processing_class.pad_token_id)
        self._round = 0
        return batch

    def _scored_aside(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rollouts without their metrics: in a logged mean one group would weigh as much as the whole batch."""
        metrics = deepcopy(self._metrics["train"])
        fresh = self._generate_and_score_completions(rows)
        self._metrics["train"] = metrics
        return fresh

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Train; a resumed run continues the checkpoint's count of passes, on which the rollouts' seeds depend."""
        if resume_from_checkpoint:
            step = int(Path(resume_from_checkpoint).name.rpartition("-")[2])
            self._step = step * self.args.gradient_accumulation_steps
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)


def _rows_by_prompt(prompts: list[list[int]]) -> dict[tuple[int, ...], list[int]]:
    """Row numbers by prompt; prompts in the order of their first row."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, ids in enumerate(prompts):
        groups.setdefault(tuple(ids), []).append(row)
    return groups


def share_limited(ratio: torch.Tensor, completion_mask: torch.Tensor, highest: float | None) -> torch.Tensor:
    """The share of TRL's importance ratios that are masked (0) or truncated (`highest`).

    `ratio` is (B, 1), one per completion, or (B, T), of which the tokens of `completion_mask` (B, T) count.
    """
    counted = ratio if ratio.shape[1] == 1 else ratio[completion_mask.bool()]
    limited = counted == 0 if highest is None else (counted == 0) | (counted >= highest)
    return limited.float().sum() / max(1, limited.numel())


def with_variance(rewards: torch.Tensor, size: int) -> torch.Tensor:
    """Whether the rewards (B,) of each group of `size` rows differ: (B / size,) bool. NaN (no verdict) is ignored.

    The advantages do not show it: the mean of equal rewards has a rounding error, which is divided by an equally small
    standard deviation.
    """
    grouped, unjudged = rewards.view(-1, size), rewards.view(-1, size).isnan()
    highest = grouped.masked_fill(unjudged, -torch.inf).amax(1)
    spread = highest - grouped.masked_fill(unjudged, torch.inf).amin(1)
    return spread > _ROUNDING * (1 + highest.abs())  # equal sums of different parts differ by rounding


def replace_groups(
    batch: Mapping[str, Any], fresh: Mapping[str, Any], places: Mapping[int, int], size: int, pad_token_id: int
) -> dict[str, Any]:
    """`batch` with some groups replaced by groups of `fresh`: `places` maps numbers in `batch` to numbers in `fresh`.

    Both are GRPOTrainer's batches of rollouts. Rows are padded to the longer of the two.
    """
    rows = torch.arange(len(batch["advantages"]))  # of `batch` and, after them, of `fresh`
    for old, new in places.items():
        rows[old * size : (old + 1) * size] = len(rows) + torch.arange(new * size, (new + 1) * size)
    merged = dict(batch)
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.dim() == 1:
            merged[name] = torch.cat([value, fresh[name]])[rows]
        elif isinstance(value, torch.Tensor) and value.dim() > 1:
            padding = pad_token_id if name in ("prompt_ids", "completion_ids") else 0
            side = "left" if name in ("prompt_ids", "prompt_mask") else "right"
            merged[name] = pad([*value, *fresh[name]], padding, side)[rows]
    return merged
