"""Tables and figures about the data: what the filter dropped, which RL questions were selected, what was scored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from pandas import DataFrame

from sqlr1.evaluate.evaluator import in_order
from sqlr1.records import SQL_CLASSES
from sqlr1.report.figures import bars
from sqlr1.report.tables import markdown_table

Rates = Mapping[str, Sequence[Mapping[str, Any]]]  # run -> the rows of its pass_rates.jsonl


def _readable(subset: str) -> str:
    return "RL" if subset == "rl" else subset.replace("_", " ")


def funnel_counts(funnel: Mapping[str, Any]) -> dict[str, int]:
    """The steps of the funnel: all rows, each reason that dropped some (the greatest first), each subset."""
    reasons = sorted(funnel["dropped"].items(), key=lambda item: -item[1])
    dropped = {f"dropped: {reason.replace('_', ' ')}": n for reason, n in reasons if n}
    again = {"in RL: answers marked wrong": funnel["asked_again"]} if funnel["asked_again"] else {}
    subsets = {_readable(name): n for name, n in funnel["subsets"].items()}
    return {"synthesized": funnel["input"], **dropped, **subsets, **again}


def funnel_figure(funnel: Mapping[str, Any]) -> Figure:
    """Bars of the funnel; what was dropped has the second colour."""
    counts = funnel_counts(funnel)
    return bars(counts, highlight=[name for name in counts if not name.startswith("dropped")])


def subsets_figure(counts: Mapping[str, Mapping[str, int]], title: str) -> Figure:
    """Grouped bars of the rows in each subset (the keys of `counts`) by class or style."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    DataFrame(counts).fillna(0).sort_index().plot.bar(ax=figure.subplots(), title=title, ylabel="rows", rot=30)
    return figure


def funnel_markdown(funnel: Mapping[str, Any]) -> str:
    """The same counts as a table, and the subsets by class and by style of question."""
    tables = [markdown_table(["step", "questions"], [[name, f"{n:,}"] for name, n in funnel_counts(funnel).items()])]
    for title, counts in (("class", funnel["classes"]), ("style", funnel["styles"])):
        names = in_order({name for by_name in counts.values() for name in by_name}, SQL_CLASSES)
        lines = [[_readable(subset), *(by_name.get(name, 0) for name in names)] for subset, by_name in counts.items()]
        tables.append(markdown_table([f"subset by {title}", *(name or "(none)" for name in names)], lines))
    return "\n\n".join(tables)


def selection_rows(rates: Rates) -> list[list[Any]]:
    """One row per run: name, questions asked, mean pass rate in %, never and always solved, selected."""
    lines = []
    for name, rows in rates.items():
        solved = [r["matches"] / r["samples"] for r in rows]
        if rows:
            mean = f"{100 * sum(solved) / len(rows):.1f}"
            lines.append([name, len(rows), mean, solved.count(0), solved.count(1), sum(r["selected"] for r in rows)])
    return lines


def linking_sentences(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One per run with `prompt.linking`: for how many RL questions it cut the schema, and the recall of their golds."""
    sentences = []
    for name, n in counts.items():
        if n:
            kept = [
                f"{100 * n[f'{kind} kept'] / n[kind]:.1f} % of their golds' {kind}"
                for kind in ("tables", "columns")
                if n.get(kind)
            ]
            cut = f"{n.get('questions', 0)} of {n['asked']} RL questions"
            sentences.append(
                f"{name}: linking cut the schema of {cut}" + (f" and kept {' and '.join(kept)}." if kept else ".")
            )
    return sentences


def selection_figure(rates: Rates) -> Figure:
    """Questions by the number of right samples, over all runs; what was selected beside what was not."""
    counts = Counter((r["matches"], r["samples"], r["selected"]) for rows in rates.values() for r in rows)
    names = {key: f"{key[0]} of {key[1]} right" + (", selected" if key[2] else "") for key in sorted(counts)}
    return bars({name: counts[key] for key, name in names.items()}, [n for k, n in names.items() if k[2]])


def coverage_rows(summaries: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """One row per benchmark: name, questions scored, how many of them got no answer at all (of the policy with most),
    missing databases, questions excluded, golds that fail. But for the answers, all policies' summaries agree.
    """
    rows = []
    for name, summary in sorted({s["benchmark"]: s for s in reversed(summaries)}.items()):
        missing = ", ".join(f"{db} ({n})" for db, n in sorted(summary["missing_databases"].items())) or "none"
        failed = ", ".join(map(str, summary["gold_failed"])) or "none"
        unanswered = max(s["unanswered"] for s in summaries if s["benchmark"] == name)
        rows.append([name, summary["questions"], unanswered, missing, summary["excluded"], failed])
    return rows
