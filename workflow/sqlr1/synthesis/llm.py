"""A client for any OpenAI-compatible endpoint: concurrent, with retries, a budget, and a cache that survives a stop."""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tqdm import tqdm

from sqlr1.records import InputError, read_jsonl


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. `api_key_env` names the environment variable with the key; `budget` is in tokens."""

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 5
    timeout: float = 120.0
    budget: int = 10_000_000


@dataclass(frozen=True)
class Prompt:
    """One request for one answer; `sample` tells repeated requests with the same messages apart, and seeds them."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int = 256
    temperature: float = 0.8
    sample: int = 0


class Client:
    """Answers prompts. Every answer is appended to `cache` at once, and none is asked for twice."""

    def __init__(self, endpoint: Endpoint, cache: Path) -> None:
        from openai import OpenAI

        self._endpoint = endpoint
        self._api = OpenAI(
            base_url=endpoint.base_url,
            api_key=os.environ.get(endpoint.api_key_env, "none"),
            max_retries=endpoint.retries,
            timeout=endpoint.timeout,
        )
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.touch()
        self._answers = {row["key"]: row["answer"] for _, row in read_jsonl(cache)}
        self._cache = open(cache, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self._lock = threading.Lock()
        self.tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._cache.close()
        self._api.close()

    def ask(self, prompts: Sequence[Prompt], progress: str) -> list[str | None]:
        """The answers, in order; None for prompts that the token budget no longer allowed.

        Raises InputError when the endpoint cannot be reached or refuses, after all retries.
        """
        from openai import OpenAIError

        try:
            with ThreadPoolExecutor(self._endpoint.concurrency) as pool:
                answers = pool.map(self._answer, prompts)
                return list(tqdm(answers, total=len(prompts), desc=progress, unit="answer", disable=None))
        except OpenAIError as error:
            raise InputError(f"synthesize.llm: {self._endpoint.base_url}: {error}") from error

    def _answer(self, prompt: Prompt) -> str | None:
        text = json.dumps([self._endpoint.model, asdict(prompt)], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        if key in self._answers:
            return self._answers[key]
        if self.tokens >= self._endpoint.budget:
            return None
        reply = self._api.chat.completions.create(
            model=self._endpoint.model,
            messages=[{"role": role, "content": content} for role, content in prompt.messages],
            max_tokens=prompt.max_tokens,
            temperature=prompt.temperature,
            seed=prompt.sample,
        )
        answer = reply.choices[0].message.content or ""
        with self._lock:
            self.tokens += reply.usage.total_tokens if reply.usage else 0
            self._answers[key] = answer
            self._cache.write(json.dumps({"key": key, "answer": answer}) + "\n")
            self._cache.flush()
        return answer
