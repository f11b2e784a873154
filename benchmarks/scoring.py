"""How fast and how lean the scorer is: `python benchmarks/scoring.py [DATA_ROOT]`. The last line is JSON.

The yardstick is own code, written from the documented algorithm of Spider's test-suite evaluator (`--etype exec`,
default flags): one process; gold and prediction both executed for each question, each on a new sqlite3 connection and
in an event loop of its own; DISTINCT removed by way of sqlparse; all column permutations tried.
"""

import asyncio
import itertools
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlparse  # what the official evaluator uses; in the extra dev

from sqlr1.sandbox import Executor, Limits, Pair, Query, is_ordered, mend
from sqlr1.sandbox.compare import spider_exec_equal

DATA = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SQLR1_DATA", "data"))
WORKERS = 2
# Six singers: nine of these tables would be joined in a tenth of a second, twenty of them in a year.
ENDLESS = "SELECT count(*) FROM " + ", ".join(f"singer s{i}" for i in range(20))


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


async def naive_run(database: Path, sql: str) -> list[tuple] | None:
    """A connection of its own for the query."""
    connection = sqlite3.connect(database)
    connection.text_factory = lambda text: text.decode(errors="ignore")
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.Error:
        return None
    finally:
        connection.close()


def naive_remove_distinct(sql: str) -> str:
    """By way of a list of all tokens."""
    tokens = [token.value for token in sqlparse.parse(sql)[0].flatten()]
    return "".join(token for token in tokens if token.lower() != "distinct")


def naive_equal(gold: list[tuple], predicted: list[tuple], ordered: bool) -> bool:
    """Try every permutation of the columns."""
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    for order in itertools.permutations(range(len(gold[0]))):
        permuted = [tuple(row[i] for i in order) for row in predicted]
        if permuted == gold or (not ordered and Counter(permuted) == Counter(gold)):
            return True
    return False


def naive_loop(pairs: list[Pair]) -> int:
    """The number of matches, question by question."""
    matches = 0
    for pair in pairs:
        gold_sql, predicted_sql = (naive_remove_distinct(mend(sql)) for sql in (pair.gold, pair.predicted))
        gold, predicted = (
            asyncio.run(asyncio.wait_for(naive_run(pair.database, sql), 60)) for sql in (gold_sql, predicted_sql)
        )
        matches += predicted is not None and naive_equal(gold, predicted, is_ordered(gold_sql))
    return matches


def spider_pairs(name: str) -> list[Pair]:
    """Spider dev's golds and a system's predictions."""
    rows = [json.loads(line) for line in (DATA / f"predictions/{name}.jsonl").read_text().splitlines()]
    folder = DATA / "spider/database"
    return [Pair(folder / r["db_id"] / f"{r['db_id']}.sqlite", r["gold"], r["predicted"]) for r in rows]


def spider_dev() -> dict[str, float]:
    """1,034 predictions: the naive loop, cold (with the start of the workers), warm in memory, warm from disk."""
    pairs = spider_pairs("spider_dev.pred_sqls_codes_7b_spider")
    figures = {"naive_s": min(seconds(lambda: naive_loop(pairs)) for _ in range(2))}
    with tempfile.TemporaryDirectory() as folder:

        def cold_then_warm() -> float:
            with Executor(WORKERS) as executor:
                executor.judge(pairs)
                return seconds(lambda: executor.judge(pairs))

        def with_cache() -> None:
            with Executor(WORKERS, cache=Path(folder)) as executor:
                executor.judge(pairs)

        def without_cache() -> None:
            with Executor(WORKERS) as executor:
                executor.judge(pairs)

        figures["cold_s"] = min(seconds(without_cache) for _ in range(3))
        figures["warm_s"] = min(cold_then_warm() for _ in range(3))
        with_cache()
        figures["cache_on_disk_s"] = min(seconds(with_cache) for _ in range(3))
    figures["cold_times_faster"] = figures["naive_s"] / figures["cold_s"]
    figures["warm_times_faster"] = figures["naive_s"] / figures["warm_s"]
    return figures


def whole_command() -> dict[str, float]:
    """`sqlr1 score` on 1,034 predictions as a user runs it, imports included, without and with `--cache`, beside the
    naive loop: medians of nine runs in turn. Every command reports four metrics, by difficulty, with intervals.
    """
    pairs = spider_pairs("spider_dev.pred_sqls_codes_7b_spider")
    command = [sys.executable, "-m", "sqlr1.cli", "score", "--benchmark", "spider", "--workers", str(WORKERS)]
    command += ["--questions", str(DATA / "spider/dev.json"), "--databases", str(DATA / "spider/database")]
    command += ["--predictions", str(DATA / "predictions/spider_dev.pred_sqls_codes_7b_spider.jsonl"), "--json"]
    with tempfile.TemporaryDirectory() as folder:
        # As installed: the modules are compiled once, not in each run.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

        def score(*options: str) -> None:
            subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, env=environment)

        score("--cache", folder)
        turns = [
            (
                seconds(lambda: naive_loop(pairs)),
                seconds(score),
                seconds(lambda: score("--cache", folder)),
            )
            for _ in range(9)
        ]
    naive, cold, warm = (statistics.median(times) for times in zip(*turns, strict=True))
    return {
        "loop_s": naive,
        "command_cold_s": cold,
        "command_warm_s": warm,
        "command_cold_times_faster": statistics.median(a / b for a, b, _ in turns),
        "command_warm_times_faster": statistics.median(a / b for a, _, b in turns),
    }


def runaway_joins() -> dict[str, float]:
    """Twenty predictions without end among 1,014 quick ones, half a second each."""
    pairs = spider_pairs("spider_dev.pred_sqls_codes_7b_spider")
    database = pairs[0].database
    for i in range(20):
        pairs[50 * i] = Pair(database, "SELECT count(*) FROM singer", f"{ENDLESS} WHERE s0.singer_id > {-i}")
    with Executor(WORKERS, Limits(seconds=0.5)) as executor:
        executor.judge(pairs[1:50])
        return {"runaway_s": seconds(lambda: executor.judge(pairs)), "runaway_bound_s": 20 * 0.5 / WORKERS}


def grpo_batch() -> dict[str, float]:
    """64 completions, 8 for each of 8 questions: real predictions and variations of them, all different and quick."""
    pairs = spider_pairs("spider_dev.pred_sqls_codes_7b_spider")
    with Executor(WORKERS, Limits(seconds=0.5)) as executor:
        executor.judge(pairs)
        timings = []
        for step in range(20):
            batch = [
                Pair(pair.database, pair.gold, f"{pair.predicted} LIMIT {100 * step + i + 1}")
                for pair in pairs[8 * step : 8 * step + 8]
                for i in range(8)
            ]
            timings.append(seconds(lambda batch=batch: executor.judge(batch)))
        slow = [Pair(pairs[0].database, pairs[0].gold, f"{ENDLESS} WHERE s0.singer_id > {-i}") for i in range(8)]
        stuck = seconds(lambda: executor.judge([*batch[:56], *slow]))
    timings.sort()
    return {"batch_median_ms": 1e3 * timings[10], "batch_worst_ms": 1e3 * timings[-1], "batch_8_endless_s": stuck}


def memory() -> dict[str, float]:
    """Resident memory of the parent and of the workers, after 10,000 and after 110,000 different queries."""

    def resident(pids: list[int]) -> float:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    database = DATA / "spider/database/concert_singer/concert_singer.sqlite"
    measured = []
    with Executor(WORKERS) as executor:
        for block in range(11):
            for start in range(10_000 * block, 10_000 * (block + 1), 2_000):
                executor.execute([Query(database, f"SELECT *, {i} FROM singer") for i in range(start, start + 2_000)])
            measured.append((resident([os.getpid()]), resident(executor.worker_pids())))
    (parent, workers), (parent_end, workers_end) = measured[0], measured[-1]
    return {"parent_mb": parent, "parent_growth_mb": parent_end - parent,
            "workers_mb": workers, "workers_growth_mb": workers_end - workers}  # fmt: skip


def wide_tables() -> dict[str, float]:
    """Columns of one domain: 20 over 10,000 rows, right and nearly right; 60 that all look alike; 8 over 30 rows
    against the search over all permutations.
    """
    draw = random.Random(0)

    def shuffled(table: list[tuple]) -> list[tuple]:
        order = draw.sample(range(len(table[0])), len(table[0]))
        return draw.sample([tuple(row[i] for i in order) for row in table], len(table))

    large = [tuple(draw.randrange(10) for _ in range(20)) for _ in range(10_000)]
    small = [tuple(draw.randrange(3) for _ in range(8)) for _ in range(30)]
    other, other_small = shuffled(large), [*shuffled(small)[1:], (9,) * 8]
    i = next(i for i, row in enumerate(other) if row[0] != other[0][0])
    # Two cells of a column exchanged: every column still has the gold's values.
    near = [(other[i][0], *other[0][1:]), *other[1:i], (other[0][0], *other[i][1:]), *other[i + 1 :]]
    cycle = [tuple(int(j in (i, (i + 1) % 60)) for j in range(60)) for i in range(60)]
    turned = shuffled(cycle)
    return {
        "wide_20x10000_ms": 1e3 * min(seconds(lambda: spider_exec_equal(other, large, False)) for _ in range(3)),
        "near_20x10000_ms": 1e3 * min(seconds(lambda: spider_exec_equal(near, large, False)) for _ in range(3)),
        "symmetric_60x60_ms": 1e3 * min(seconds(lambda: spider_exec_equal(turned, cycle, False)) for _ in range(3)),
        "naive_8x30_ms": 1e3 * seconds(lambda: naive_equal(small, other_small, False)),
        "wide_8x30_ms": 1e3 * seconds(lambda: spider_exec_equal(other_small, small, False)),
    }


def main() -> None:
    """Measure everything; one line a figure, then all of them as one JSON object."""
    figures: dict[str, float] = {}
    for measure in (spider_dev, whole_command, runaway_joins, grpo_batch, wide_tables, memory):
        print(f"# {(measure.__doc__ or '').strip()}")
        for name, value in measure().items():
            figures[name] = round(value, 3)
            print(f"{name:>26} {value:10.3f}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
