"""Questions as token ids: the one prompt of `sqlr1.prompt` through the tokenizer's chat template."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlr1.config import Prompt
from sqlr1.database import read_schema, schema_text
from sqlr1.prompt import prompt_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class Asked(Protocol):
    """What a prompt is made of: `records.Question` and a benchmark's question both are."""

    db_id: str
    question: str
    evidence: str


@dataclass
class Prompts:
    """Builds prompts; reads each database's schema once.

    `settings` is the config section `prompt`: `schema` (compact or ddl), `example_values` a column, `max_length` in
    tokens (a longer prompt is None, for the caller to drop and count). Candidates set it to the model's context.
    """

    tokenizer: "PreTrainedTokenizerBase"
    settings: Prompt
    _schemas: dict[Path, str] = field(default_factory=dict)

    def messages(self, asked: Asked, database: Path) -> list[dict[str, str]]:
        """The chat messages for a question over the SQLite file `database`."""
        if database not in self._schemas:
            schema = read_schema(database)
            self._schemas[database] = schema_text(schema, self.settings.schema_format, self.settings.example_values)
        return prompt_messages(self._schemas[database], asked.question, asked.evidence)

    def token_ids(self, asked: Asked, database: Path) -> list[int] | None:
        """The prompt as token ids, ready for the response's first token; None when it is over `max_length`."""
        ids = self.tokenizer.apply_chat_template(
            self.messages(asked, database), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return ids if len(ids) <= self.settings.max_length else None

    def response_ids(self, response: str) -> list[int]:
        """A response as the model has to write it: its tokens and the end token."""
        return [*self.tokenizer(response, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
