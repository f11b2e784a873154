"""`stage`: one writer per folder, and work that is kept until the manifest is written."""

import json
import threading

import pytest

from sqlr1.stages import common
from sqlr1.stages.common import stage, stage_parser


def start(tmp_path, *arguments):
    parser = stage_parser("A probe.")
    parser.add_argument("--kind", default="plain")
    return stage("report", parser, ["--settings", "{}", "--out", str(tmp_path / "out"), *arguments])


@pytest.fixture(autouse=True)
def away_from_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--settings", "[]"], "--settings: not a JSON object"),
        (["--tag", "strategy"], "--tag strategy: write NAME=VALUE"),
    ],
)
def test_arguments_of_another_shape_are_one_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit, match="1"), start(tmp_path, *arguments):
        pass
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_work_is_kept_until_the_manifest_is_written(tmp_path):
    def cut_short():
        with start(tmp_path) as job:
            jobs.append(job)
            job.work.mkdir()
            job.outputs("missing.txt")  # the manifest cannot be written

    jobs = []
    with pytest.raises(SystemExit):
        cut_short()
    [job] = jobs
    assert job.work.exists()
    with start(tmp_path) as again:
        assert again.work == job.work
    assert (tmp_path / "out/manifest.json").exists()
    assert not job.work.exists()


def test_only_the_same_code_and_arguments_resume_the_work(tmp_path, monkeypatch):
    with start(tmp_path) as job:
        first = job.work
    with start(tmp_path, "--kind", "other") as job:
        assert job.work != first
    assert json.loads((tmp_path / "out/manifest.json").read_text())["arguments"] == {"kind": "other"}
    edited = tmp_path / "edited.py"
    edited.write_text("REWARD = 2\n")
    monkeypatch.setattr(common, "sources", lambda module: [str(edited)])
    with start(tmp_path) as job:
        assert job.work != first
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for name, value in (("WORLD_SIZE", "2"), ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")):  # set by accelerate launch
        with monkeypatch.context() as launched:
            launched.setenv(name, value)
            with start(tmp_path) as job:
                assert job.work != first


def test_a_moved_folder_resumes_and_work_that_no_longer_fits_is_named(tmp_path, monkeypatch, capsys):
    """Relative to the folder that it is started in, as Snakemake does."""

    def killed(*arguments):
        with stage("report", stage_parser("A probe."), ["--settings", "{}", "--out", "out", *arguments]) as job:
            works.append((job.work, job.work.exists()))
            job.work.mkdir(parents=True, exist_ok=True)
            with (job.work / "checkpoint").open("w") as file:
                file.truncate(300_000_000)
            raise KeyboardInterrupt

    works = []
    (tmp_path / "old").mkdir()
    for folder, seed in (("old", "0"), ("new", "0"), ("new", "1")):
        if folder == "new" and not (tmp_path / "new").exists():
            (tmp_path / "old").rename(tmp_path / "new")
        monkeypatch.chdir(tmp_path / folder)
        with pytest.raises(KeyboardInterrupt):
            killed("--seed", seed)
    (first, _), again, (other, resumed) = works
    assert again == (first, True)
    assert not resumed
    [named] = (line for line in capsys.readouterr().err.splitlines() if "starts anew" in line)
    assert f"{first} (0.3 GB)" in named
    assert str(other) not in named


def test_only_unfinished_files_of_a_killed_writer_are_deleted(tmp_path):
    (tmp_path / "out/part").mkdir(parents=True)
    for name in ("part/.rows.jsonl.123.tmp", "part/rows.jsonl", "mine.tmp"):
        (tmp_path / "out" / name).touch()
    with start(tmp_path):
        left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"rows.jsonl", "mine.tmp"}


def test_other_processes_of_a_launcher_do_not_wait_for_the_first(tmp_path, monkeypatch):
    """Also on a second node, where the first process has the local rank 0."""
    with start(tmp_path) as first:
        monkeypatch.setenv("RANK", "4")
        monkeypatch.setenv("LOCAL_RANK", "0")
        with start(tmp_path) as other:
            assert other.work == first.work
        assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_a_process_of_the_same_rank_is_waited_for(tmp_path, rank):
    def successor():
        with common._sole_writer(tmp_path / "out", rank):
            started.set()

    started = threading.Event()
    with common._sole_writer(tmp_path / "out", "2"), common._sole_writer(tmp_path / "out", rank):
        thread = threading.Thread(target=successor)
        thread.start()
        assert not started.wait(0.5)
    assert started.wait(10)
    thread.join()
