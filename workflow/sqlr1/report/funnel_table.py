"""The data funnel: what the filter dropped, by reason, and what it kept for what."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from sqlr1.records import SQL_CLASSES
from sqlr1.report.figures import bars
from sqlr1.report.tables import markdown_table

Funnel = Mapping[str, Any]


def funnel_counts(funnel: Funnel) -> dict[str, int]:
    """The steps of the funnel: all rows, each reason that dropped some (the greatest first), each subset."""
    reasons = sorted(funnel["dropped"].items(), key=lambda item: -item[1])
    dropped = {f"dropped: {reason.replace('_', ' ')}": n for reason, n in reasons if n}
    kept = {_readable(name): n for name, n in funnel["subsets"].items()}
    return {"synthesized": funnel["input"], **dropped, **kept}


def funnel_figure(funnel: Funnel) -> Figure:
    """Bars of the funnel; what was dropped has the second colour."""
    counts = funnel_counts(funnel)
    return bars(counts, highlight=[name for name in counts if not name.startswith("dropped")])


def funnel_markdown(funnel: Funnel) -> str:
    """The same counts as a table, and the subsets by class and by style of question."""
    steps = markdown_table(["step", "questions"], [[name, f"{n:,}"] for name, n in funnel_counts(funnel).items()])
    tables = [_by_subset(title, funnel[key]) for title, key in (("class", "classes"), ("style", "styles"))]
    return "\n\n".join([steps, *tables])


def _by_subset(title: str, counts: Mapping[str, Mapping[str, int]]) -> str:
    found = {name for by_name in counts.values() for name in by_name}
    names = [name for name in SQL_CLASSES if name in found] + sorted(found - set(SQL_CLASSES))
    lines = [[_readable(subset), *(by_name.get(name, 0) for name in names)] for subset, by_name in counts.items()]
    return markdown_table([f"subset by {title}", *(name or "(none)" for name in names)], lines)


def _readable(subset: str) -> str:
    return "RL" if subset == "rl" else subset.replace("_", " ")
