"""report.md: what was run, on what data, how training went, what it scored.

Equal inputs, on one machine at one commit, give equal bytes: both are named in it.
"""

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sqlr1.config import Section, plain
from sqlr1.evaluate.estimates import Bootstrap, Estimate
from sqlr1.report.curves import validation_point
from sqlr1.report.tables import markdown_table

# The settings that decide a result; the rest stands in the config file and in each stage's manifest.
KEY_SECTIONS = (
    "seeds", "base_model", "prompt", "execution", "synthesize", "filter", "cold_start", "select", "reward", "grpo",
    "candidates", "benchmarks", "score",
)  # fmt: skip


def configuration_section(settings: Mapping[str, Any], commit: str, versions: Mapping[str, str]) -> str:
    """Experiment, commit, key settings, machine and library versions."""
    given = [name for name in KEY_SECTIONS if name in settings]
    key = {name: plain(settings[name]) if isinstance(settings[name], Section) else settings[name] for name in given}
    facts = [("experiment", settings["experiment"]), ("commit", commit), *machine().items(), *versions.items()]
    text = yaml.safe_dump(key, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True).strip()
    return f"## Configuration\n\n{markdown_table(['what', 'value'], facts)}\n\n```yaml\n{text}\n```"


def machine() -> dict[str, str]:
    """The machine this runs on: processor, cores, memory, Python."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def training_section(
    warnings: Mapping[str, Sequence[str]], validation: Mapping[str, Sequence[Mapping[str, Any]]], bootstrap: Bootstrap
) -> str:
    """The curves, validation before and after, and every warning by name of its run."""
    lines = []
    for name, rows in validation.items():
        for when, row in (("before", rows[0]), ("after", rows[-1])):
            point = validation_point(row, bootstrap)
            shown = point.percent() if isinstance(point, Estimate) else f"{100 * point:.1f}"
            lines.append([name, f"{when} (step {row['step']})", shown])
    table = markdown_table(["run", "GRPO", "greedy EX, %"], lines)
    found = [f"- **{name}**: {text}." for name, texts in warnings.items() for text in texts]
    notes = "\n".join(["**Warnings**", "", *found]) if found else "No sign of collapse in the curves."
    return f"## Training\n\n![Training curves](report/training.svg)\n\nOn the validation set:\n\n{table}\n\n{notes}"


def coverage_section(summaries: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]) -> str:
    """What was not scored (skipped benchmarks, absent databases, excluded questions, golds that fail), and how many
    questions got no answer at all, as where the prompt did not fit, from the policy with most of them.
    """
    lines = []
    for summary in _one_a_benchmark(summaries):
        missing = ", ".join(f"{db} ({n})" for db, n in sorted(summary["missing_databases"].items())) or "none"
        failed = ", ".join(map(str, summary["gold_failed"])) or "none"
        unanswered = max(s["unanswered"] for s in summaries if s["benchmark"] == summary["benchmark"])
        lines.append([summary["benchmark"], summary["questions"], unanswered, missing, summary["excluded"], failed])
    columns = ["benchmark", "scored", "of them without an answer", "absent databases (questions)"]
    columns += ["excluded questions", "golds that fail (index)"]
    names = [f"- **{name}** was skipped: {reason}" for name, reason in sorted(skipped.items())]
    return "\n\n".join(["### Coverage", markdown_table(columns, lines), *(["\n".join(names)] if names else [])])


def _one_a_benchmark(summaries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What is scored does not depend on the policy: the first summary of each benchmark stands for all."""
    first: dict[str, Mapping[str, Any]] = {}
    for summary in summaries:
        first.setdefault(summary["benchmark"], summary)
    return [first[name] for name in sorted(first)]


def databases_line(catalogue: Sequence[Any]) -> str:
    """One sentence on the databases of a catalogue, by source and split."""
    counts = Counter((d.source, d.split) for d in catalogue)
    parts = ", ".join(f"{n} {source} ({split})" for (source, split), n in sorted(counts.items()))
    return f"Databases: {parts}."
