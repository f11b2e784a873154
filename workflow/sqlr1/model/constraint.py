"""The tokens that a database's grammar allows at each step, for the shared-prompt sampler.

Shapes: R rows (completions) that have not ended, V tokens of the vocabulary; a mask has one bit per token, W = V / 32
integers.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import torch

from sqlr1.database.schema import read_schema
from sqlr1.model.grammar import response_grammar
from sqlr1.records import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# llguidance's default of 50,000 items per mask is too low where an alias may follow and the schema has 40 scopes. By
# its documentation ten million items take half a second.
_LIMITS = llguidance.LLParserLimits(
    step_max_items=10_000_000, max_items_in_row=1_000_000, step_lexer_fuel=10_000_000, initial_lexer_fuel=100_000_000
)
# Masks kept per database, first come first kept: at its start, where parsing takes longest, all completions are alike.
_KEPT = 512
Tokens = tuple[int, ...]


@dataclass
class _Database:
    """A parser before its first token, and masks by the tokens before them."""

    path: Path
    start: llguidance.LLMatcher
    masks: dict[Tokens, np.ndarray] = field(default_factory=dict)


class Grammars:
    """The grammars of databases over the vocabulary of a model, each made once, when it is first needed."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel", eos_token_ids: Sequence[int]
    ) -> None:
        self._tokenizer, self._eos_token_ids = tokenizer, list(eos_token_ids)
        self._vocabulary = model.get_output_embeddings().out_features
        self._databases: dict[Path, _Database] = {}

    def over(self, databases: Sequence[Path], seeds: Sequence[Sequence[object]]) -> "Constraint":
        """The constraint on new completions of prompts: one per seed, in order. `databases` has one per prompt.

        Raises InputError for a schema that llguidance refuses.
        """
        for path in dict.fromkeys(databases):
            if path not in self._databases:
                grammar = response_grammar(read_schema(path))
                matcher = llguidance.LLMatcher(self._llguidance_tokenizer, grammar, log_level=0, limits=_LIMITS)
                if reason := _error(matcher):
                    refused = f"llguidance refuses the grammar of this schema ({reason})"
                    raise InputError(f"{path}: {refused}; set constrained to false, or ask with --no-constrained")
                self._databases[path] = _Database(path, matcher)
        rows = [self._databases[path] for path, group in zip(databases, seeds, strict=True) for _ in group]
        return Constraint(rows, self._vocabulary, self._eos_token_ids)

    @cached_property
    def _llguidance_tokenizer(self) -> llguidance.LLTokenizer:
        return llguidance.hf.from_tokenizer(self._tokenizer, self._vocabulary, self._eos_token_ids)


class Constraint:
    """Masks for a batch of completions, as they grow. `used[r]` are the masks of row r so far, (W,) each."""

    def __init__(self, databases: Sequence[_Database], vocabulary: int, eos_token_ids: Sequence[int]) -> None:
        self._databases = databases
        self._matchers = [database.start.deep_copy() for database in databases]
        self._tokens: list[Tokens] = [()] * len(databases)
        self._width = -(-vocabulary // 32)
        ends = np.isin(np.arange(32 * self._width), eos_token_ids)
        self._end = np.packbits(ends, bitorder="little").view(np.int32)
        self.used: list[list[np.ndarray]] = [[] for _ in databases]

    def masked(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The logits (R, V) of `rows` (R,) with -inf for the tokens that may not be next."""
        numbers = rows.tolist()
        for row in numbers:
            self.used[row].append(self._mask(row))
        masks = torch.from_numpy(np.stack([self.used[row][-1] for row in numbers])).to(logits.device)
        return logits.masked_fill(~unpacked(masks, logits.shape[1]), -torch.inf)

    def take(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Append `tokens` (R,) to `rows` (R,)."""
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            self._matchers[row].consume_token(token)
            self._tokens[row] += (token,)

    def _mask(self, row: int) -> np.ndarray:
        database, tokens = self._databases[row], self._tokens[row]
        if tokens in database.masks:
            return database.masks[tokens]
        mask = np.zeros((1, self._width), np.int32)
        llguidance.numpy.fill_next_token_bitmask(self._matchers[row], mask)
        if reason := _error(self._matchers[row]):
            log.warning("%s: an answer has to end, because llguidance gave up: %s", database.path, reason)
            return self._end
        if len(database.masks) < _KEPT:
            database.masks[tokens] = mask[0]
        return mask[0]


def unpacked(masks: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Masks (N, W) as booleans (N, V)."""
    bits = torch.arange(8, dtype=torch.uint8, device=masks.device)
    return (masks.view(torch.uint8)[..., None] >> bits & 1).flatten(1)[:, :vocabulary].bool()


def _error(matcher: llguidance.LLMatcher) -> str:
    return matcher.get_error().splitlines()[0] if matcher.is_error() else ""
