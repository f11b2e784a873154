"""Signs that a policy earns reward without answering better: the collapse that execution rewards invite.

On a weak start `SELECT count(*) FROM t` runs and is rarely right: the executable share rises, the match share does not,
completions shrink and grow alike. The fixed validation set shows it where the mean reward hides it. SQL that joins or
groups fails more often: a policy that gives it up may answer more questions, the simple ones, and is told of too. So is
one whose samples repeat one another: groups without variance teach nothing.
"""

from collections.abc import Mapping

COLLAPSE = "validation/collapse"  # under which a validation's line holds what the monitor says
EXECUTABLE_GAIN = 0.10
MATCH_GAIN = 0.02
FEW = 2  # questions: on a small set a share may move by so many and mean nothing
SHRINKAGE = 0.75
DISTINCT_SHARE = 0.5
JOINS_OR_GROUPS_SHARE = 0.5
DISTINCT_ROLLOUTS = 0.5


def collapse_signs(first: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """What speaks for a collapse between two validations of the same `questions`, in words: of `judge.summary`, the
    mean reward and, after the first step, `rollouts_distinct`: how many of the last rollouts' texts differ.

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
    signs = []
    fewer = (first["joins_or_groups"] - now["joins_or_groups"]) * now["questions"]
    if fewer > enough and now["joins_or_groups"] < JOINS_OR_GROUPS_SHARE * first["joins_or_groups"]:
        signs.append(f"SQL that joins or groups {_course('joins_or_groups', first, now)}")
    if (distinct := now.get("rollouts_distinct", 1.0)) < DISTINCT_ROLLOUTS:
        signs.append(f"only {100 * distinct:.0f} % of the rollouts differ from one another")
    if gained > enough:
        return signs
    match = _course("match", first, now)
    if now["executable"] - first["executable"] > EXECUTABLE_GAIN:
        signs.append(f"executable share {_course('executable', first, now)}, match share only {match}")
    if now["characters"] < SHRINKAGE * first["characters"]:
        signs.append(f"completions shrank from {first['characters']:.0f} to {now['characters']:.0f} characters")
    if now["distinct"] < DISTINCT_SHARE * first["distinct"]:
        signs.append(f"distinct answers {_course('distinct', first, now)}")
    if gained < -enough and now["reward"] > first["reward"]:
        signs.append(f"match share fell, {match}")
    if signs and now["reward"] > first["reward"]:
        signs.append(f"mean reward {first['reward']:.2f} -> {now['reward']:.2f} all the same")
    return signs


def _course(share: str, first: Mapping[str, float], now: Mapping[str, float]) -> str:
    return f"{100 * first[share]:.0f} % -> {100 * now[share]:.0f} %"
