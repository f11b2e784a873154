"""What several instances of a database buy: wrong queries that one instance accepts, and that k instances accept.

    SQLR1_DATA=data python benchmarks/instances.py --questions 400 --instances 8

Golds of Spider's training set are mutated one change at a time. A mutant is wrong if it differs from its gold on the
original database or on one of `--reference` instances made with another seed, none of which is among the k. Counted
under Spider's execution match with DISTINCT kept, and under BIRD's, the default of `reward.semantics`. The last line is
JSON: the former's counts, and all of them by metric.
"""

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import sqlglot
from mutants import mutants

from sqlr1.data.readers import locate, read_questions
from sqlr1.database.instances import write_instances
from sqlr1.database.sql import to_sql
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Limits, Pair

METRICS = ("spider_exec_keep_distinct", "bird_ex")


def accepted(pairs: list[tuple[Path, str, str]], executor: Executor, label: str) -> dict[str, list[bool]]:
    """For each metric and (database, gold, mutant): whether all files of the database's folder agree."""
    judgements = executor.judge([Pair(*pair) for pair in pairs], "spider", metrics=METRICS, progress=label)
    return {metric: [j.metrics.get(metric) == 1.0 for j in judgements] for metric in METRICS}


def changed(questions: list[Question], most: int, rng: random.Random) -> list[tuple[Question, str, str]]:
    """(question, kind of change, mutant's SQL), at most `most` a question."""
    found = []
    for question in questions:
        expression = sqlglot.parse_one(question.sql, read="sqlite")
        options = [(kind, to_sql(mutant)) for kind, mutant in mutants(expression)]
        found += [(question, *option) for option in rng.sample(options, min(most, len(options)))]
    return found


def folders(db_ids: list[str], databases: Path, root: Path, count: int, seed: int) -> dict[str, Path]:
    """Instances of each database under `root`: the path of its first file, which stands for all."""
    return {
        db_id: write_instances(databases / db_id / f"{db_id}.sqlite", root / db_id, count, seed)[0] for db_id in db_ids
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--reference", type=int, default=12)
    args = parser.parse_args()
    spider = Path(os.environ.get("SQLR1_DATA", "data")) / "spider"
    paths = {p.stem: p for p in (spider / "database").glob("*/*.sqlite")}
    rng = random.Random(0)
    questions = list(locate(read_questions("spider", spider / "train_spider.json"), paths, Counter()))
    questions = rng.sample(questions, args.questions)
    made = changed(questions, 6, rng)
    db_ids = sorted({q.db_id for q in questions})
    with tempfile.TemporaryDirectory() as folder, Executor(limits=Limits()) as executor:
        results = {}
        for name, count, seed in (("one", 0, 0), ("k", args.instances, 0), ("reference", args.reference, 1)):
            where = folders(db_ids, spider / "database", Path(folder) / name, count, seed)
            results[name] = accepted([(where[q.db_id], q.sql, sql) for q, _, sql in made], executor, name)
            golds = accepted([(where[q.db_id], q.sql, q.sql) for q in questions], executor, f"{name}: golds")
            for metric, kept in golds.items():
                print(f"{name}: {sum(kept)} of {len(kept)} golds accept themselves by {metric}")
    kinds = [kind for _, kind, _ in made]
    counts = {metric: report(metric, kinds, {n: found[metric] for n, found in results.items()}) for metric in METRICS}
    print(json.dumps({"benchmark": "instances", **counts[METRICS[0]], "metrics": counts}))


def report(metric: str, kinds: list[str], results: dict[str, list[bool]]) -> dict[str, float]:
    """Print the counts by kind of change; returns those of all, and by what factor k instances accept fewer."""
    rows: dict[str, Counter[str]] = {}
    for kind, one, k, reference in zip(kinds, results["one"], results["k"], results["reference"], strict=True):
        wrong = not (one and reference)
        for name in (kind, "all"):
            rows.setdefault(name, Counter()).update(wrong=wrong, one=wrong and one, k=wrong and k)
    for name, row in rows.items():
        print(f"{metric}  {name:20} wrong {row['wrong']:5}  accepted by one {row['one']:5}  by all {row['k']:5}")
    return {**rows["all"], "factor": rows["all"]["one"] / max(1, rows["all"]["k"])}


if __name__ == "__main__":
    main()
