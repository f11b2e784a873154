"""Questions as token ids: the one prompt of `sqlr1.prompt` through the tokenizer's chat template."""

import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlr1.config import Prompt
from sqlr1.database import Schema, read_schema, schema_text
from sqlr1.database.linking import Linker, Place, first_tables
from sqlr1.database.retrieval import ValueIndex
from sqlr1.model.chat import Chat
from sqlr1.prompt import prompt_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class Asked(Protocol):
    """What a prompt needs of a question. `records.Question` and the benchmarks' questions have it."""

    db_id: str
    question: str
    evidence: str


@dataclass
class Prompts:
    """Builds prompts; reads each database once. `settings` is the config section `prompt`.

    Values and linked schemas depend on the question. The values come after the schema, so that prompts over one
    database still share their beginning, which `prefix_cache` computes once. Linked schemas keep the schema's order:
    questions about the same tables share theirs.
    """

    tokenizer: "PreTrainedTokenizerBase"
    settings: Prompt
    _databases: dict[Path, "_Database"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chat = Chat(self.tokenizer)

    def token_ids(self, asked: Asked, database: Path) -> list[int] | None:
        """The prompt as token ids, up to the response's first token; None if it has more than `max_length` tokens."""
        return self.prompt(asked, database)[1]

    def prompt(self, asked: Asked, database: Path) -> tuple[list[dict[str, str]], list[int] | None]:
        """The chat messages for a question over the SQLite file `database`, and their `token_ids`."""
        if database not in self._databases:
            self._databases[database] = _Database(read_schema(database), self.settings)
        known, linking = self._databases[database], self.settings.linking
        text = f"{asked.question}\n{asked.evidence}"
        count = self.settings.retrieved_values
        mentions = known.values.mentioned(text, count) if count else []

        def written(shown: str) -> tuple[list[dict[str, str]], list[int] | None]:
            messages = prompt_messages(shown, asked.question, asked.evidence, list(map(str, mentions)))
            ids = self.chat.prompt_ids(messages)
            return messages, ids if len(ids) <= self.settings.max_length else None

        places = known.linker.ranked(text, mentions) if linking else []
        if isinstance(linking, int):
            places = first_tables(places, linking)
        first = written(known.cut_text(places) if isinstance(linking, int) else known.text)
        if first[1] or not linking:
            return first
        # The more columns, the longer: as many as fit, at least one.
        counts = range(len(places), 0, -1)
        fitting = bisect_left(counts, True, key=lambda n: bool(written(known.cut_text(places[:n]))[1]))
        return written(known.cut_text(places[: counts[min(fitting, len(counts) - 1)]]))

    def response_ids(self, response: str) -> list[int]:
        """A response as token ids, with the end token."""
        return self.chat.response_ids(response)


@dataclass
class _Database:
    """What prompts need of a database, made when it is first needed."""

    schema: Schema
    settings: Prompt

    @cached_property
    def text(self) -> str:
        return self.cut_text(None)

    @cached_property
    def values(self) -> ValueIndex:
        return ValueIndex(self.schema)

    @cached_property
    def linker(self) -> Linker:
        return Linker(self.schema)

    def cut_text(self, places: Sequence[Place] | None) -> str:
        """The schema cut to `places`."""
        shown = self.schema if places is None else self.linker.cut(places)
        return schema_text(shown, self.settings.schema_format, self.settings.example_values, self.schema)
