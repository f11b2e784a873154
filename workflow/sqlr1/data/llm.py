"""A client for any OpenAI-compatible endpoint: concurrent, with retries, a budget, and a cache on disk."""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from sqlr1.config import LanguageModel
from sqlr1.records import InputError, read_jsonl

log = logging.getLogger(__name__)
_PROMPT_REFUSED = (400, 413, 422)  # other errors (no access, no such model, overload) would hit every prompt


@dataclass(frozen=True)
class Prompt:
    """One request for one answer. `sample` numbers requests with the same messages, and is the seed."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int = 256
    temperature: float = 0.8
    sample: int = 0


class Client(ExitStack):
    """Answers prompts. Each answer is appended to `cache` with its tokens as soon as it arrives, and reused later.

    `tokens` is the sum over the cache: the budget is for all runs that share it. `failed` counts the prompts that the
    endpoint refused (for example as too long) or answered with nothing.
    """

    def __init__(self, settings: LanguageModel, cache: Path) -> None:
        from openai import OpenAI

        super().__init__()
        self._settings = settings
        key = os.environ.get(settings.api_key_env, "none")  # local servers need no key
        where = {"base_url": settings.base_url, "api_key": key}
        self._api = self.enter_context(OpenAI(**where, max_retries=settings.retries, timeout=settings.timeout))
        # Runs that share the cache take turns: otherwise their lines would mix, and both would spend the same budget.
        cache.parent.mkdir(parents=True, exist_ok=True)
        self.enter_context(FileLock(cache.with_suffix(".lock")))
        cache.touch()
        os.truncate(cache, cache.read_bytes().rfind(b"\n") + 1)  # a stopped run may have left half a line
        rows = [row for _, row in read_jsonl(cache)]
        self._answers = {row["key"]: row["answer"] for row in rows if row["answer"] is not None}
        self.tokens = sum(row.get("tokens", 0) for row in rows)
        self._reserved = 0  # the most tokens that unanswered requests can use
        self.failed = 0
        self._cache = self.enter_context(open(cache, "a", encoding="utf-8"))  # noqa: SIM115 (closed on exit)
        self._changed = threading.Condition()

    def ask(self, prompts: Sequence[Prompt], progress: str) -> list[str | None]:
        """The answers, in order; None for a prompt that failed, or that the token budget no longer allowed.

        Raises InputError if the endpoint cannot be reached, fails after all retries, or refuses every prompt.
        """
        from openai import OpenAIError

        failed = self.failed
        try:
            with ThreadPoolExecutor(self._settings.concurrency) as pool:
                answers = pool.map(self._answer, prompts)
                found = list(tqdm(answers, total=len(prompts), desc=progress, unit="answer", disable=None))
        except OpenAIError as error:
            raise InputError(f"synthesize.llm: {self._settings.base_url}: {error}") from error
        if prompts and self.failed - failed == len(prompts):
            raise InputError(f"synthesize.llm: {self._settings.base_url}: no prompt was answered; see the log")
        return found

    def _answer(self, prompt: Prompt) -> str | None:
        key = hashlib.sha256(json.dumps([self._settings.model, asdict(prompt)], sort_keys=True).encode()).hexdigest()
        if key in self._answers:
            return self._answers[key]
        # A token has at least one byte. What the endpoint writes around messages is not counted.
        most = prompt.max_tokens + sum(len(content.encode()) for _, content in prompt.messages)
        with self._changed:  # wait for other requests if these may leave enough of the budget
            self._changed.wait_for(lambda: self._fits(most) or not self._reserved)
            if not self._fits(most):
                return None
            self._reserved += most
        answer, tokens = None, 0
        try:
            answer, tokens = self._request(prompt, most)
        finally:
            with self._changed:
                self._reserved -= most
                self.tokens += tokens
                self.failed += answer is None
                self._changed.notify_all()
                if answer is not None:
                    self._answers[key] = answer
                if answer is not None or tokens:  # an empty answer has its price too
                    self._cache.write(json.dumps({"key": key, "answer": answer, "tokens": tokens}) + "\n")
                    self._cache.flush()
        return answer

    def _fits(self, most: int) -> bool:
        return self.tokens + self._reserved + most <= self._settings.budget

    def _request(self, prompt: Prompt, most: int) -> tuple[str | None, int]:
        """(answer, tokens). No answer if the endpoint refuses; `most` tokens if it does not report them."""
        from openai import APIStatusError

        messages = [{"role": role, "content": content} for role, content in prompt.messages]
        how = {"max_tokens": prompt.max_tokens, "temperature": prompt.temperature, "seed": prompt.sample}
        try:
            reply = self._api.chat.completions.create(model=self._settings.model, messages=messages, **how)
        except APIStatusError as error:
            if error.status_code not in _PROMPT_REFUSED:
                raise
            log.warning("a prompt is skipped: %s", error)
            return None, 0
        tokens = reply.usage.total_tokens if reply.usage else most
        if answer := reply.choices[0].message.content if reply.choices else None:
            return answer, tokens
        log.warning("a prompt is skipped: the endpoint answered with nothing")
        return None, tokens
