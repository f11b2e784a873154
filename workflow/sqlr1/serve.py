"""The trained policy as an MLflow model: MLflow runs a copy of this file when it loads the model (models from code).

An answer is a record as of `sqlr1 ask --json`: reasoning, SQL, the first rows, or an error. The weights stay in the
results folder. A database's schema is read once.
"""

import threading
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel

from sqlr1.ask import Answering, Policy
from sqlr1.model.base import model_folder
from sqlr1.records import InputError, sha256
from sqlr1.sandbox import Executor


class Request(BaseModel):
    """A question over a database, a path on the machine that serves. MLflow makes the model's signature of it."""

    question: str
    database: str
    evidence: str | None = None


class ServedPolicy(PythonModel):
    """Answers questions as `sqlr1 ask` does, greedily and with its defaults."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the policy. Raises InputError if its files are not those that were registered."""
        manifest = Path(context.model_config["manifest"])
        if not manifest.is_file() or sha256(manifest) != context.model_config["sha256"]:
            raise InputError(f"{manifest}: missing, or of another policy than the registered one; run snakemake again")
        self._policy = Policy(model_folder(manifest), Answering())
        self._lock = threading.Lock()  # the server answers each request in a thread of its own

    # MLflow makes a schema of each type hint, and cannot make one of an answer's.
    def predict(self, context: PythonModelContext, model_input: list[Request], params: dict[str, Any] | None = None):
        """The answers in the order of the questions. What is wrong with a question is the `error` of its answer."""
        with self._lock, Executor(1) as executor:
            return [self._answer(asked, executor) for asked in model_input]

    def _answer(self, asked: Request, executor: Executor) -> dict[str, Any]:
        try:
            return self._policy.answer(asked.question, Path(asked.database), executor, asked.evidence or "")
        except (InputError, OSError) as error:  # a name too long, a folder that may not be entered
            nothing = dict.fromkeys(("columns", "rows", "total_rows"))
            answer = {"question": asked.question, "reasoning": "", "sql": "", "status": "failed", "error": str(error)}
            return answer | nothing


mlflow.models.set_model(ServedPolicy())
