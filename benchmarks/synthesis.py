"""Speed and memory of synthesis over Spider's training databases, filtering included.

    SQLR1_DATA=data python benchmarks/synthesis.py --sizes 10000 30000 100000 --workers 2

Prints, for each size, rows generated, executed and validated a second, rows kept by the filter a second, and the peak
memory of all processes together; the last line is JSON.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import psutil

from sqlgen import GenerationRequest, folder_sources, generate
from sqlr1.config import FilterRules, Synthesize
from sqlr1.cpus import usable_cpus
from sqlr1.data.filtering import Benchmark, filter_rows
from sqlr1.data.readers import read_questions
from sqlr1.records import Question, RecordFile, write_jsonl
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


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--workers", type=int, default=usable_cpus())
    args = parser.parse_args()
    spider = Path(os.environ.get("SQLR1_DATA", "data")) / "spider"
    results = []
    for size in args.sizes:
        results.append(measure(spider, size, args.workers))
        print("  ".join(f"{name} {value}" for name, value in results[-1].items()), flush=True)
    print(json.dumps({"benchmark": "synthesis", "workers": args.workers, "results": results}))


if __name__ == "__main__":
    main()
