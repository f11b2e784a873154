"""Metrics of a batch of completions, and signs that a policy collapses: more reward without better answers.

A weak policy learns that `SELECT count(*) FROM t` executes, though it is rarely right: the executable share rises, the
match share does not, and completions become short and alike. The mean reward hides this, the fixed validation set
shows it. Two more signs count even if the match share rises: SQL without joins and groups, which fails less often but
answers only simple questions, and samples that repeat each other, which form zero-variance groups.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

from sqlr1.outcomes import Outcome

MATCH = "validation/match"  # the share of the validation questions that the greedy answer gets right
COLLAPSE = "validation/collapse"  # key of the warning in a validation's log line
EXECUTABLE_GAIN = 0.10
MATCH_GAIN = 0.02
FEW = 2  # a change by so many questions may be chance
SHRINKAGE = 0.75
DISTINCT_SHARE = 0.5
JOINS_OR_GROUPS_SHARE = 0.5
DISTINCT_ROLLOUTS = 0.5
STALLED_STEPS = 10


def summary(judged: Sequence[Outcome], texts: Sequence[str]) -> dict[str, float]:
    """Metrics of a batch of completions.

    Shares of well-formed, executable and matching completions, and of SQL that joins or groups, among the completions
    whose gold can be run; the share of distinct texts and their mean length in characters, among all.
    """
    counted = [outcome for outcome in judged if outcome.judged]
    number = max(1, len(counted))
    return {
        "format": sum(o.well_formed for o in counted) / number,
        "executable": sum(o.executes for o in counted) / number,
        "match": sum(o.matches for o in counted) / number,
        "distinct": len(set(texts)) / len(texts),
        "characters": sum(map(len, texts)) / len(texts),
        "joins_or_groups": sum(o.joins_or_groups for o in counted) / number,
    }


def best_step(history: Sequence[Mapping[str, float]]) -> int:
    """The step whose validation has the highest share of right answers, the earliest of equals; 0 if there is none.

    The validation before the first step does not count: its policy is the stage's input.
    """
    validated = [(-line[MATCH], line["step"]) for line in history if MATCH in line and line["step"]]
    return min(validated)[1] if validated else 0


# A step in which nothing is learnt, by the keys of TRL's and the Trainer's log lines.
_NOTHING_LEARNT = {
    "all completions of every group have the same reward": ("frac_reward_zero_std", 1.0),
    "every completion is cut at max_completion_length": ("completions/clipped_ratio", 1.0),
    "the gradient is zero": ("grad_norm", 0.0),
}


def stalls(history: Sequence[Mapping[str, float]]) -> list[str]:
    """What was wrong in 10 steps in a row, or in all steps of a shorter training, in words. `history`: its log lines.

    A line stands for the steps since the line before it with the same key.

    >>> stalls([{"step": step, "grad_norm": 0.0} for step in range(1, 13)])
    ['steps 1 to 12: the gradient is zero']
    """
    found = []
    for words, (key, bad) in _NOTHING_LEARNT.items():
        lines = [line for line in history if key in line]
        before = [0, *(line["step"] for line in lines)]
        for stuck, group in groupby(
            zip(before, lines, strict=False), lambda pair, key=key, bad=bad: pair[1][key] == bad
        ):
            pairs = list(group)
            first, last = pairs[0][0] + 1, pairs[-1][1]["step"]
            if stuck and last - first + 1 >= min(STALLED_STEPS, before[-1]):
                found.append(f"steps {first} to {last}: {words}")
    return found


def collapse_signs(first: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """The signs of a collapse between two validations of the same `questions`, in words.

    A validation has the shares of `summary`, the mean `reward` and, after the first step,
    `rollouts_distinct`: the share of distinct texts among the last rollouts.

    >>> start = {"executable": 0.4, "match": 0.1, "characters": 90, "distinct": 1.0, "joins_or_groups": 0.3}
    >>> start |= {"reward": -0.5, "questions": 100}
    >>> collapse_signs(start, start | {"executable": 0.8, "characters": 30, "reward": 0.1})[0]
    'executable share 40 % -> 80 %, match share only 10 % -> 10 %'
    >>> collapse_signs(start, start | {"executable": 0.8, "match": 0.3, "reward": 2.0})
    []
    >>> collapse_signs(start, start | {"executable": 0.8, "match": 0.3, "reward": 2.0, "joins_or_groups": 0.0})
    ['SQL that joins or groups 30 % -> 0 %']
    """
    gained = round((now["match"] - first["match"]) * now["questions"])
    enough = max(FEW, MATCH_GAIN * now["questions"])

    def course(share: str) -> str:
        return f"{100 * first[share]:.0f} % -> {100 * now[share]:.0f} %"

    signs = []
    fewer = (first["joins_or_groups"] - now["joins_or_groups"]) * now["questions"]
    if fewer > enough and now["joins_or_groups"] < JOINS_OR_GROUPS_SHARE * first["joins_or_groups"]:
        signs.append(f"SQL that joins or groups {course('joins_or_groups')}")
    if (distinct := now.get("rollouts_distinct", 1.0)) < DISTINCT_ROLLOUTS:
        signs.append(f"only {100 * distinct:.0f} % of the rollouts differ from one another")
    if gained > enough:
        return signs
    match = course("match")
    if now["executable"] - first["executable"] > EXECUTABLE_GAIN:
        signs.append(f"executable share {course('executable')}, match share only {match}")
    if now["characters"] < SHRINKAGE * first["characters"]:
        signs.append(f"completions shrank from {first['characters']:.0f} to {now['characters']:.0f} characters")
    if now["distinct"] < DISTINCT_SHARE * first["distinct"]:
        signs.append(f"distinct answers {course('distinct')}")
    if gained < -enough and now["reward"] > first["reward"]:
        signs.append(f"match share fell, {match}")
    if signs and now["reward"] > first["reward"]:
        signs.append(f"mean reward {first['reward']:.2f} -> {now['reward']:.2f} all the same")
    return signs
