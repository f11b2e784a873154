"""Compare two files of `sqlr1 score --kinds --out`: questions that B won and lost against A, by kind of error.

The questions are those that both files have; the test is the exact McNemar test on the greedy answers' verdicts.
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlr1.records import InputError, read_jsonl
from sqlr1.statistics import Bootstrap, mcnemar_exact

_SHOWN = 10  # indices named per kind


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("compare", help="compare two scored files", description=__doc__, allow_abbrev=False)
    parser.add_argument("a", type=Path, metavar="A.jsonl", help="of `sqlr1 score --kinds --out`, or a questions.jsonl")
    parser.add_argument("b", type=Path, metavar="B.jsonl", help="the same, of the other policy")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the comparison. Raises InputError for another kind of file, two benchmarks, and no question in both."""
    (a, a_databases), (b, b_databases) = _read(args.a), _read(args.b)
    if not (shared := [index for index in a if index in b]):
        raise InputError(f"{args.b}: has no question (index) of {args.a}")
    if other := [index for index in shared if a_databases[index] != b_databases[index]]:
        names = f"{b_databases[other[0]]!r}, in {args.a} of {a_databases[other[0]]!r}"
        raise InputError(f"{args.b}: question {other[0]} is of database {names}; compare scores of one benchmark")
    differences = [float(not b[index]) - float(not a[index]) for index in shared]
    change = Bootstrap().difference(differences)
    print(f"{len(shared)} questions in both; B - A: {change.points()} points, p = {mcnemar_exact(differences):.3g}")
    for name, wrong, right in (("won", a, b), ("lost", b, a)):
        by_kind: dict[str, list[int]] = {}
        for index in shared:
            if wrong[index] and not right[index]:
                by_kind.setdefault(wrong[index], []).append(index)
        print(f"{name}: {sum(map(len, by_kind.values()))}")
        for kind, indices in sorted(by_kind.items(), key=lambda item: -len(item[1])):
            named = ", ".join(map(str, indices[:_SHOWN])) + (", ..." if len(indices) > _SHOWN else "")
            print(f"{len(indices):5}  {kind.replace('_', ' ')} ({named})")
    kept = Counter((a[i], b[i]) for i in shared if a[i] and b[i])
    print(f"wrong in both: {kept.total()}, {sum(n for (x, y), n in kept.items() if x != y)} of them of another kind")


def _read(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Index -> primary kind of error of the greedy answer, "" if it is right, and -> database. No gold faults."""
    found, databases = {}, {}
    for place, row in read_jsonl(path):
        answer: Mapping[str, Any] = row.get("greedy", row)
        if not {"index", "db_id"} <= row.keys() or not {"verdict", "kinds"} <= answer.keys():
            lacks = "no index, db_id, verdict and kinds; make it anew with `sqlr1 score --kinds --out`"
            raise InputError(f"{path}:{place}: {lacks}")
        if answer["verdict"] == "match" or answer["kinds"]:
            found[row["index"]], databases[row["index"]] = (answer["kinds"] or [""])[0], row["db_id"]
    return found, databases
