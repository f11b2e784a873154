"""Where this package's scores differ from the official evaluators', and BIRD's efficiency score.

Sources: Spider's test-suite evaluator (`--etype exec`); BIRD's `evaluation.py`, `evaluation_f1.py` and
`evaluation_ves.py`. The comparisons themselves run in the workers (`sandbox.compare`, `sandbox.judging`).

Deliberate differences, safer or clearer than the official behaviour:

- text with several statements is refused (Spider's evaluator runs the first). Under Spider's rule, semicolons and a
  code fence after the statement's own semicolon are no statement; BIRD's evaluator fails on them, and so does ours;
- text without a statement fails (BIRD's takes it for an empty result);
- if a database has several instances, BIRD's metrics must hold on all of them too (its scripts know one file);
- undecodable bytes are dropped in BIRD's semantics too (its evaluator fails on them);
- only reading is allowed: PRAGMA is refused, and so are virtual tables except those of full-text search and R-tree; a
  gold that reads another is gold_failed;
- statements and results are bounded (see `sandbox.Limits`): rows, bytes, length and depth of the SQL, memory. A right
  answer beyond a limit is too_large or refused, a gold beyond it gold_failed. No gold of Spider dev is.

Bugs of Spider's evaluator that are not repeated, because they call right predictions wrong (none of them decides one
of the official verdicts that the tests compare with):

- before comparing it sorts the cells of each row by their text, so that equal numbers may end up in different columns:
  the row (2, 25) does not match (2.0, 25), though (2,) matches (2.0,);
- `YEAR(CURDATE())` becomes 2020 together with the blanks after it: `YEAR(CURDATE()) AND` is the broken `2020AND`;
- in a prediction the word ` value ` between two blanks becomes ` 1 `, even if it is a column's name;
- a line of a predictions file is cut at its first tab, even inside SQL;
- the DISTINCT of the operator `IS [NOT] DISTINCT FROM` is dropped like the keyword, and what is left is broken SQL.
"""

import math
from collections.abc import Sequence

# R-VES: the least ratio of gold time to predicted time for each reward, best first.
_REWARDS = ((2.0, 1.25), (1.0, 1.0), (0.5, 0.75), (0.25, 0.5))
_LEAST_REWARD = 0.25


def highest(measure: str) -> float:
    """The highest score that a question can have by a measure of the evaluator."""
    return math.sqrt(_REWARDS[0][1]) if measure == "r_ves" else 1.0


def r_ves(ratios: Sequence[float]) -> float:
    """One question's part of BIRD's R-VES, sqrt(reward), 0..1.118: the score is 100 times the mean over questions.

    `ratios` are gold time / predicted time of repeated runs of a matching prediction; empty for a wrong one. Ratios
    beyond three standard deviations are dropped.

    >>> r_ves([1.2, 1.1, 1.3]), r_ves([])
    (1.0, 0.0)
    """
    import statistics  # takes longer to import than most files take to score

    if not ratios:
        return 0.0
    centre, spread = statistics.fmean(ratios), statistics.pstdev(ratios)
    kept = [ratio for ratio in ratios if abs(ratio - centre) <= 3 * spread]
    mean = statistics.fmean(kept)
    return math.sqrt(next((reward for least, reward in _REWARDS if mean >= least), _LEAST_REWARD))
