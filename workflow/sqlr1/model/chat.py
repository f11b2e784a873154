"""Chat messages and responses as token ids, for the chat templates that instruction models really have."""

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from sqlr1.records import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_DATE = "26 Jul 2024"  # the one that Llama 3's template has where it cannot ask for today's
# Hides the function of that name that transformers gives to templates.
_FIXED_DATE = "{% macro strftime_now(format) %}" + _DATE + "{% endmacro %}"
_OPENED = re.compile(r"<think>\s*(</think>\s*)?\Z")
Messages = Sequence[dict[str, str]]


class Chat:
    """A tokenizer with its chat template. Raises InputError for a template that cannot be used.

    - Control tokens inside values, questions or golds, such as `<|im_end|>`, stay text.
    - A template that refuses or forgets a system message (Gemma, Mistral) gets it at the start of the user message.
    - One that opens `<think>` for the model (DeepSeek-R1-Distill), or writes an empty block where thinking is off by
      default, ends before it: a response begins with the tag.
    - One that writes today's date (Llama 3) writes a fixed one, so that prompts are the same tomorrow.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        template = tokenizer.get_chat_template()  # of several with names, that named default
        self._template = _FIXED_DATE + template if "strftime_now" in template else template
        try:
            self._takes_system = "Be brief" in self._text([_message("system", "Be brief"), _message("user", "Hello")])
        except TemplateError:
            self._takes_system = False
        if not self._takes_system:
            log.info("the chat template takes no system message: the instruction is in the user's")
        try:
            plain = self._text([_message("user", "Hello")])
        except TemplateError as error:
            raise InputError(f"{tokenizer.name_or_path}: the chat template cannot be used: {error}") from error
        if _DATE in plain:
            log.info("the chat template writes a date: always %s", _DATE)
        opened = _OPENED.search(plain)
        self._opened = self._ids(opened[0]) if opened else []

    def prompt_ids(self, messages: Messages) -> list[int]:
        """The token ids of system and user message, up to the response's first token."""
        if not self._takes_system:
            system, user = messages
            messages = [_message("user", f"{system['content']}\n\n{user['content']}")]
        ids = self._apply(messages, tokenize=True, return_dict=False, sanitize_control_tokens=True)
        if not self._opened:
            return ids
        if ids[-len(self._opened) :] != self._opened:
            where = self._tokenizer.name_or_path
            raise InputError(
                f"{where}: the chat template opens <think> in a way that cannot be undone; take another model"
            )
        return ids[: -len(self._opened)]

    def response_ids(self, response: str) -> list[int]:
        """The token ids of a response, with the end token."""
        as_text = any(token in response for token in self._special)
        return [*self._ids(response, split_special_tokens=as_text), self._tokenizer.eos_token_id]

    def _text(self, messages: Messages) -> str:
        return self._apply(messages, tokenize=False)

    def _apply(self, messages: Messages, **options: bool) -> str | list[int]:
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=True, date_string=_DATE, **options
        )

    def _ids(self, text: str, **options: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, **options)["input_ids"])


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
