"""One MLflow trace per answered question: gold as expectation; verdict, score and kind of error as feedback.

They are what `mlflow.genai.evaluate` writes for answers that exist already. It makes several calls per question, and
took 161 s for 100 questions from its ten threads, which wait for SQLite's lock, 36 s from one; this took 7 s.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mlflow import MlflowClient, entities
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import AssessmentMetadataKey, SpanAttributeKey, TraceMetadataKey, TraceTagKey


@dataclass(frozen=True)
class Answer:
    """An answered question. `inputs` are equal in all runs: MLflow pairs the runs' answers by them."""

    name: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    gold: str
    feedback: Mapping[str, Any]

    @classmethod
    def of(cls, row: Mapping[str, Any], measure: str, name: str = "") -> Self:
        """The greedy answer of an evaluator's row, judged by `measure` (spider_exec or bird_ex)."""
        greedy = row["greedy"]
        feedback = {"verdict": greedy["verdict"], "error_kind": (greedy["kinds"] or ["none"])[0]}
        judged = {"right": greedy[measure]}
        outputs = {"sql": greedy["sql"], "reasoning": greedy["reasoning"]}
        if row["samples"]["n"] > 1:
            judged["right_by_vote"], outputs["vote"] = row["vote"][measure], row["vote"]["sql"]
        feedback = {name: bool(value) for name, value in judged.items() if value is not None} | feedback
        inputs = {"question": row["question"], "database": row["db_id"]}
        return cls(name or f"{row['db_id']} {row['index']}", inputs, outputs, row["gold"], feedback)


def log_traces(
    client: MlflowClient, experiment_id: str, run_id: str, model_id: str, answers: Sequence[Answer]
) -> list[str]:
    """Write a trace of one span per answer; returns their ids. `model_id` may be empty."""
    tracing = TracingClient(client.tracking_uri)
    metadata = {TraceMetadataKey.SOURCE_RUN: run_id} | ({TraceMetadataKey.MODEL_ID: model_id} if model_id else {})
    spans = [_span(answer) for answer in answers]
    for span, answer in zip(spans, answers, strict=True):
        tracing.start_trace(_info(span, answer, experiment_id, metadata))
    tracing.log_spans(experiment_id, spans)
    return [span.trace_id for span in spans]


def _span(answer: Answer) -> entities.Span:
    number, now = uuid.uuid4().hex, time.time_ns()
    attributes = {
        SpanAttributeKey.REQUEST_ID: f"tr-{number}",
        SpanAttributeKey.SPAN_TYPE: "CHAIN",
        SpanAttributeKey.INPUTS: answer.inputs,
        SpanAttributeKey.OUTPUTS: answer.outputs,
    }
    span = {"trace_id": f"tr-{number}", "span_id": number[:16], "parent_span_id": None, "name": answer.name}
    span |= {"start_time_unix_nano": now, "end_time_unix_nano": now, "status": {"code": "STATUS_CODE_OK"}}
    span |= {"attributes": {key: json.dumps(value, ensure_ascii=False) for key, value in attributes.items()}}
    return entities.Span.from_dict(span | {"events": []})


def _info(span: entities.Span, answer: Answer, experiment_id: str, metadata: Mapping[str, str]) -> entities.TraceInfo:
    source = entities.AssessmentSource(entities.AssessmentSourceType.CODE, "sqlr1")
    run = {AssessmentMetadataKey.SOURCE_RUN_ID: metadata[TraceMetadataKey.SOURCE_RUN]}
    where = {"source": source, "trace_id": span.trace_id, "metadata": run, "span_id": span.span_id}
    assessments = [entities.Feedback(name=name, value=value, **where) for name, value in answer.feedback.items()]
    inputs, outputs = (json.dumps(value, ensure_ascii=False) for value in (answer.inputs, answer.outputs))
    return entities.TraceInfo(
        trace_id=span.trace_id,
        trace_location=entities.TraceLocation.from_experiment_id(experiment_id),
        request_time=span.start_time_ns // 1_000_000,
        execution_duration=0,
        state=entities.TraceState.OK,
        request_preview=answer.inputs["question"],
        response_preview=answer.outputs["sql"],
        trace_metadata={**metadata, TraceMetadataKey.INPUTS: inputs, TraceMetadataKey.OUTPUTS: outputs},
        tags={TraceTagKey.TRACE_NAME: answer.name},
        assessments=[entities.Expectation(name="gold", value=answer.gold, **where), *assessments],
    )
