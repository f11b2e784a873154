"""Fixtures shared by the tests: the real data beside the project, and runs of the real workflow."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sqlr1 import tracking  # importing sqlr1 before trl says that no run is reported

ROOT = Path(__file__).parent.parent
BESIDE = next((place for place in (ROOT / "data", ROOT.parent / "shared/data") if place.is_dir()), ROOT / "data")
DATA = Path(os.environ.get("SQLR1_DATA", BESIDE))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that at the end neither of two processes waits for the other."""
    longest = ("test_workflow.py", "test_training_resume.py", "test_training_selection.py")
    places = {name: place for place, name in enumerate(longest)}
    items.sort(key=lambda item: places.get(item.path.name, len(longest)))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Spider, BIRD and the predictions with official verdicts. Without them the tests that need them are skipped."""
    if not (DATA / "spider/dev.json").is_file():
        pytest.skip(f"no benchmark data under {DATA}: download Spider and BIRD there, or set SQLR1_DATA")
    return DATA


@pytest.fixture(autouse=True, scope="session")
def _tables_of_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow needs two seconds for the tables of a new store: stages within the tests get a copy of an empty one."""
    empty, opened = tmp_path_factory.mktemp("mlflow") / "empty.db", tracking._open

    def with_tables(*arguments: Any) -> tracking.Run:
        if not os.environ.get("MLFLOW_TRACKING_URI") and not tracking.DEFAULT_STORE.exists():
            if not empty.exists():
                import mlflow

                mlflow.MlflowClient(f"sqlite:///{empty}").search_experiments()
            tracking.DEFAULT_STORE.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(empty, tracking.DEFAULT_STORE)
        return opened(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_open", with_tables)
        yield


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the real workflow in `folder` (a copy of the checkout) and capture what it prints."""
    command = [sys.executable, "-m", "snakemake", "--nocolor", *arguments]
    # The caller's store would keep the runs out of the copy's own, its PYTHONPATH would hide the copy's code.
    aside = ("MLFLOW_TRACKING_URI", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in aside}
    return subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=1200, check=False
    )


def copy_checkout(folder: Path) -> Path:
    """A copy of the workflow's files, so that a test can edit them and has results of its own."""
    for name in ("Snakefile", "config.yaml", "constraints.txt", "workflow", "profiles", "envs"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    return folder
