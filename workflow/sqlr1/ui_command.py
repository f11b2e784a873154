"""`sqlr1 ui`: MLflow's UI over the runs, and links to each experiment's views in it."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from sqlr1.records import InputError
from sqlr1.tracking import experiments, store_uri


def add_parser(commands: Any) -> None:
    """Add the sub-command `ui`."""
    parser = commands.add_parser("ui", help="browse the runs in MLflow; prints links to each experiment's views")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.set_defaults(run=serve_ui)


def serve_ui(args: argparse.Namespace) -> None:
    """Serve MLflow's UI until interrupted. Raises InputError if nothing has been tracked yet."""
    uri = store_uri()
    store = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not store.exists():
        raise InputError(f"{store}: no runs yet; run `snakemake --cores all` first")
    # The UI itself opens on a list of experiments.
    views = {
        "training curves": "runs?workflowType=machine_learning&compareRunsMode=CHART",
        "policies, ranked": "models?workflowType=machine_learning",
        "answers by question": "evaluation-runs?workflowType=genai",
    }
    for name, experiment_id in experiments(uri).items():
        for what, view in views.items():
            print(f"{name}, {what}: http://{args.host}:{args.port}/#/experiments/{experiment_id}/{view}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    # One process serves one person; more take seconds to start, and their parent kills those that are slow to answer.
    command += ["--host", args.host, "--port", str(args.port), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.execve(sys.executable, command, os.environ | quiet)
