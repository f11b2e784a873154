"""How the policy that RL starts from answered the RL questions, and which of them were selected."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sqlr1.report.figures import bars
from sqlr1.report.tables import markdown_table

Rates = Sequence[Mapping[str, Any]]


def selection_markdown(rates: Mapping[str, Rates], figure: Path) -> str:
    """The figure, and one line a run: questions asked, mean pass rate, never and always solved, selected."""
    if not any(rates.values()):
        return "All RL questions were kept (`select.n: 0`)."
    lines = []
    for name, rows in rates.items():
        mean = sum(r["matches"] / r["samples"] for r in rows) / len(rows)
        never, always = (sum(r["matches"] == end(r) for r in rows) for end in (lambda r: 0, lambda r: r["samples"]))
        lines.append([name, len(rows), f"{100 * mean:.1f}", never, always, sum(r["selected"] for r in rows)])
    table = markdown_table(["run", "asked", "mean pass rate, %", "never solved", "always solved", "selected"], lines)
    what = "RL questions, answered by the policy that GRPO starts from:"
    return f"{what}\n\n![Selection]({figure})\n\n{table}"


def selection_figure(rates: Mapping[str, Rates]) -> Figure:
    """Questions by the number of right samples, over all runs; what was selected beside what was not."""
    counts: Counter[tuple[int, int, bool]] = Counter()
    for rows in rates.values():
        counts.update((r["matches"], r["samples"], r["selected"]) for r in rows)
    names = {key: f"{key[0]} of {key[1]} right" + (", selected" if key[2] else "") for key in sorted(counts)}
    return bars({name: counts[key] for key, name in names.items()}, [n for k, n in names.items() if k[2]])
