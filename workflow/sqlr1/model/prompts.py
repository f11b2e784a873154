"""Questions as token ids: the one prompt of `sqlr1.prompt` through the tokenizer's chat template."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlr1.config import Prompt
from sqlr1.database import read_schema, schema_text
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
    """Builds prompts; reads each database's schema once. `settings` is the config section `prompt`."""

    tokenizer: "PreTrainedTokenizerBase"
    settings: Prompt
    _schemas: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chat = Chat(self.tokenizer)

    def messages(self, asked: Asked, database: Path) -> list[dict[str, str]]:
        """The chat messages for a question over the SQLite file `database`."""
        if database not in self._schemas:
            schema = read_schema(database)
            self._schemas[database] = schema_text(schema, self.settings.schema_format, self.settings.example_values)
        return prompt_messages(self._schemas[database], asked.question, asked.evidence)

    def token_ids(self, asked: Asked, database: Path) -> list[int] | None:
        """The prompt as token ids, up to the response's first token; None if it has more than `max_length` tokens."""
        ids = self.chat.prompt_ids(self.messages(asked, database))
        return ids if len(ids) <= self.settings.max_length else None

    def response_ids(self, response: str) -> list[int]:
        """A response as token ids, with the end token."""
        return self.chat.response_ids(response)
