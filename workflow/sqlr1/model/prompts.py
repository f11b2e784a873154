"""Questions as token ids: the one prompt of `sqlr1.prompt` through the tokenizer's chat template."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlr1.config import Prompt
from sqlr1.database.linking import Linker, Place, first_tables
from sqlr1.database.retrieval import ValueIndex
from sqlr1.database.schema import Schema, read_schema
from sqlr1.database.text import schema_text
from sqlr1.model.chat import Chat
from sqlr1.prompt import prompt_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    room: int | None = None
    """Tokens that a prompt may have, if not `max_length`: answers may use the model's whole context. Linking cuts to
    `max_length` all the same, as in training."""
    _databases: dict[Path, "_Database"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chat = Chat(self.tokenizer)

    def token_ids(self, asked: Asked, database: Path) -> list[int] | None:
        """The prompt as token ids, up to the response's first token; None if it is too long."""
        return self.prompt(asked, database)[1]

    def prompt(self, asked: Asked, database: Path) -> tuple[list[dict[str, str]], list[int] | None]:
        """The chat messages for a question over the SQLite file `database`, and their `token_ids`."""
        return self._fitted(asked, database)[1:]

    def schemas(self, asked: Asked, database: Path) -> tuple[Schema, Schema]:
        """The schema of the SQLite file `database`, and what its prompt for the question shows of it."""
        places, *_ = self._fitted(asked, database)
        known = self._databases[database]
        return known.schema, known.schema if places is None else known.linker.cut(places)

    def _fitted(
        self, asked: Asked, database: Path
    ) -> tuple[Sequence[Place] | None, list[dict[str, str]], list[int] | None]:
        """The columns that are shown (None: all), and the prompt."""
        if database not in self._databases:
            self._databases[database] = _Database(read_schema(database), self.settings)
        known, linking = self._databases[database], self.settings.linking
        text = f"{asked.question}\n{asked.evidence}"
        count = self.settings.retrieved_values
        mentions = known.values.mentioned(text, count) if count else []

        def written(places: Sequence[Place] | None) -> tuple[list[dict[str, str]], list[int]]:
            """The prompt with the schema cut to `places`, and the values of these alone."""
            values = [str(m) for m in mentions if places is None or (m.table, m.column) in places]
            messages = prompt_messages(known.cut_text(places), asked.question, asked.evidence, values)
            return messages, self.chat.prompt_ids(messages)

        places = known.linker.ranked(text, mentions) if linking else []
        if isinstance(linking, int):
            places = first_tables(places, linking)
        shown = places if isinstance(linking, int) else None
        messages, ids = written(shown)
        limit = self.settings.max_length if self.room is None else self.room
        cut_to = min(limit, self.settings.max_length)
        if linking and len(ids) > cut_to:
            # The more columns, the longer: as many as fit, at least one.
            counts = range(len(places), 0, -1)
            fitting = bisect_left(counts, True, key=lambda n: len(written(places[:n])[1]) <= cut_to)
            shown = places[: counts[min(fitting, len(counts) - 1)]]
            messages, ids = written(shown)
        return shown, messages, ids if len(ids) <= limit else None


@dataclass
class _Database:
    """What prompts need of a database, made when it is first needed."""

    schema: Schema
    settings: Prompt

    @cached_property
    def values(self) -> ValueIndex:
        return ValueIndex(self.schema)

    @cached_property
    def linker(self) -> Linker:
        return Linker(self.schema)

    @cached_property
    def text(self) -> str:
        return schema_text(self.schema, self.settings.schema_format, self.settings.example_values)

    def cut_text(self, places: Sequence[Place] | None) -> str:
        """The schema cut to `places`; all of it if None."""
        if places is None:
            return self.text
        shown, settings = self.linker.cut(places), self.settings
        return schema_text(shown, settings.schema_format, settings.example_values, self.schema)
