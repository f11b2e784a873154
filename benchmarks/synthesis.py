"""Speed and memory of synthesis over Spider's training databases, filtering included.

    SQLR1_DATA=data python benchmarks/synthesis.py --sizes 10000 30000 100000 --workers 2

Prints, for each size, rows generated, executed and validated a second, rows kept by the filter a second, and the peak
memory of all processes together; the last line is JSON.

    SQLR1_DATA=data python benchmarks/synthesis.py --mix 2500000 --kept 400000 --folder /tmp/synsql

Instead writes a file of that many rows in SynSQL's layout, questions and SQL from Spider and reasoning from SynSQL's
sample, and 16,583 databases, small ones of Spider under other names (9 GB; kept in the folder for the next time).
Prints the rows drawn a CPU second, the drawn rows prepared a second, with their own reasoning and, in a second round
of at most 20,000, restyled because they have none, and the peak memory.
"""

import argparse
import itertools
import json
import os
import random
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil

from sqlgen import GenerationRequest, folder_sources, generate
from sqlr1.config import FilterRules, Synthesize
from sqlr1.cpus import usable_cpus
from sqlr1.data.filtering import Benchmark, filter_rows
from sqlr1.data.mix import prepare
from sqlr1.data.processes import by_database
from sqlr1.data.readers import draw, locate, read_questions
from sqlr1.database.files import database_files
from sqlr1.records import SQL_CLASSES, Question, RecordFile, atomic_write, read_json, read_jsonl, write_jsonl
from sqlr1.sandbox import Limits

CLASSES = {"Simple": 0.4, "Moderate": 0.35, "Complex": 0.17, "Highly Complex": 0.08}


class PeakMemory:
    """Samples the unique memory of this process and its children every half second; `peak` is in MiB."""

    def __enter__(self) -> "PeakMemory":
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().uss
                except psutil.Error:  # it ended between being listed and being asked
                    continue
            self.peak = max(self.peak, total / 2**20)


def measure(spider: Path, size: int, workers: int) -> dict[str, float]:
    """Generate `size` rows, then filter them against Spider dev."""
    sources = folder_sources(spider / "database", spider / "train_spider.json", spider / "tables.json")
    benchmark = Benchmark.of(read_questions("spider", spider / "dev.json"))
    request = GenerationRequest(size, CLASSES, Synthesize().styles, seed=0)
    with tempfile.TemporaryDirectory() as work, PeakMemory() as memory:
        start = time.perf_counter()
        questions = Path(work) / "questions.jsonl"
        write_jsonl(questions, generate(sources, request, Limits(), workers, Path(work)))
        generated = time.perf_counter() - start
        start = time.perf_counter()
        rows = RecordFile(questions, Question)
        paths = {s.db_id: s.path for s in sources}
        kept = filter_rows(rows, paths, benchmark, FilterRules(), Limits(), workers).count(None)
        filtered = time.perf_counter() - start
    return {
        "ordered": size,
        "rows": len(rows),
        "seconds": round(generated, 1),
        "rows_per_second": round(len(rows) / generated, 1),
        "kept": kept,
        "filter_seconds": round(filtered, 1),
        "peak_mib": round(memory.peak),
    }


def write_synsql(root: Path, folder: Path, rows: int) -> None:
    """Write `databases/` and `<rows>.json`, if they are not there."""
    train = read_json(root / "spider/train_spider.json")
    files = {row["db_id"]: root / "spider/database" / row["db_id"] / f"{row['db_id']}.sqlite" for row in train}
    small = sorted(db_id for db_id, file in files.items() if file.is_file() and file.stat().st_size < 80_000)
    asked = {db_id: [row for row in train if row["db_id"] == db_id] for db_id in small}
    names = [(f"{db_id}_{number:05d}", db_id) for number, db_id in zip(range(16_583), itertools.cycle(small))]
    for number, (name, db_id) in enumerate(names):
        target = folder / "databases" / name / f"{name}.sqlite"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            content = files[db_id].read_bytes()  # each with another application id in its header
            target.write_bytes(content[:68] + number.to_bytes(4, "big") + content[72:])
    if (folder / f"{rows}.json").exists():
        return
    sample = [row for _, row in read_jsonl(root / "synsql/synsql_complex_500.jsonl")]
    for row in sample:
        del row["schema"]
    rng = random.Random(0)
    with atomic_write(folder / f"{rows}.json") as file:
        file.write("[\n")
        for number in range(rows):
            name, db_id = rng.choice(names)
            pair = rng.choice(asked[db_id])
            row = sample[number % len(sample)] | {"db_id": name, "sql_complexity": SQL_CLASSES[number % 4]}
            row |= {"question": pair["question"], "sql": pair["query"]}
            file.write((",\n" if number else "") + json.dumps(row))
        file.write("\n]\n")


def measure_mix(root: Path, folder: Path, rows: int, kept: int, workers: int) -> dict[str, float]:
    """Draw `kept` of `rows` rows and prepare them."""
    write_synsql(root, folder, rows)
    paths = database_files(folder / "databases")
    with tempfile.TemporaryDirectory(dir=folder) as scratch, PeakMemory() as memory:
        start = time.process_time()
        read = locate(read_questions("synsql", folder / f"{rows}.json"), paths, None)
        drawn = draw(read, dict.fromkeys(SQL_CLASSES, kept // 4), 0, Path(scratch) / "drawn.jsonl")
        seconds = time.process_time() - start
        found = {"rows": rows, "kept": len(drawn), "drawn_per_cpu_second": round(rows / seconds)}
        found["drawing_peak_mib"] = round(memory.peak)
        bare = [replace(row, reasoning="") for row in itertools.islice(drawn, 20_000)]
        for name, given in (("prepared_per_second", drawn), ("restyled_per_second", bare)):
            start = time.perf_counter()
            tasks = [(numbers, paths[db_id]) for db_id, numbers in by_database(given).items()]
            prepare(given, tasks, "short", Limits(), workers, Path(scratch) / "prepared.jsonl")
            found[name] = round(len(given) / (time.perf_counter() - start))
    return found | {"peak_mib": round(memory.peak)}


def main() -> None:
    """Measure each size, or the drawing of existing questions."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--workers", type=int, default=usable_cpus())
    parser.add_argument("--mix", type=int, help="rows of a file in SynSQL's layout to draw from")
    parser.add_argument("--kept", type=int, default=400_000, help="rows to draw")
    parser.add_argument("--folder", type=Path, default=Path("synsql-benchmark"), help="where that file is kept")
    args = parser.parse_args()
    root = Path(os.environ.get("SQLR1_DATA", "data"))
    if args.mix:
        found = measure_mix(root, args.folder, args.mix, args.kept, args.workers)
        print(json.dumps({"benchmark": "synsql", "workers": args.workers} | found))
        return
    spider = root / "spider"
    results = []
    for size in args.sizes:
        results.append(measure(spider, size, args.workers))
        print("  ".join(f"{name} {value}" for name, value in results[-1].items()), flush=True)
    print(json.dumps({"benchmark": "synthesis", "workers": args.workers, "results": results}))


if __name__ == "__main__":
    main()
