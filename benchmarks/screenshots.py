"""Pictures of MLflow's UI for docs/, by a headless Chromium (`apt-get install chromium`), after a run of an experiment.

    python benchmarks/screenshots.py smoke

They show the views whose links `sqlr1 ui` prints, and two policies' answers question by question.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
PICTURES = {"training curves": "charts", "policies, ranked": "models"}


def chromium(url: str, *options: str, width: int = 1700, offline: bool = False) -> subprocess.CompletedProcess:
    """Load a page until it rests. stdout has what `--dump-dom` prints, stderr the console's messages."""
    lost = ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]
    with TemporaryDirectory() as profile:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={profile}"]
        command += [f"--window-size={width},900", "--virtual-time-budget=60000", *options]
        command += [*(lost if offline else ["--no-proxy-server"]), url]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)


@contextlib.contextmanager
def served(folder: Path, seconds: float = 180) -> Iterator[dict[str, str]]:
    """Run `sqlr1 ui` in a folder with results; what it links to -> link."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sqlr1.cli", "ui", "--port", str(port)]
    with (folder / "ui.log").open("w+") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + seconds
            while not _healthy(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((folder / "ui.log").read_text())
                time.sleep(0.5)
            lines = (folder / "ui.log").read_text().splitlines()
            yield dict(line.split(": ", 1) for line in lines if ": http://127.0.0.1" in line and "#" in line)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _healthy(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
        return True
    return False


def comparison(link: str, store: Path) -> str:
    """From the link to an experiment's evaluation runs, the one that puts two of them side by side."""
    import mlflow

    base, experiment = link.split("/evaluation-runs")[0], link.split("/experiments/")[1].split("/")[0]
    client = mlflow.MlflowClient(f"sqlite:///{store.resolve()}")
    last, *others = client.search_runs([experiment], "tags.stage = 'score'", order_by=["start_time DESC"])
    before = next(run for run in others if run.data.tags["benchmark"] == last.data.tags["benchmark"])
    runs = f"selectedRunUuid={last.info.run_id}&compareToRunUuid={before.info.run_id}"
    return f"{base}/evaluation-runs?workflowType=genai&{runs}"


def main(experiment: str) -> None:
    with served(Path()) as links:
        pictures = {name: links[f"{experiment}, {what}"] for what, name in PICTURES.items()}
        pictures["answers"] = comparison(links[f"{experiment}, answers by question"], Path("results/mlflow.db"))
        for name, link in pictures.items():
            chromium(link, f"--screenshot=docs/mlflow-{name}.png", width=2200)


if __name__ == "__main__":
    if not CHROMIUM:
        sys.exit("chromium is not installed: apt-get install chromium")
    main(sys.argv[1])
