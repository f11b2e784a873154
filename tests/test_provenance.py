"""Which modules a stage depends on: an edit must re-run exactly the stages that can execute it."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml
from conftest import copy_checkout, snakemake

from sqlr1 import provenance


def forget():
    """As a new process, which knows only what the cache holds."""
    provenance._known_names.cache_clear()
    provenance._imports.cache_clear()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "NAMES", tmp_path / "cache/names.json")
    forget()
    yield
    forget()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package with a stage, a room, a lazily imported module and an unrelated one."""
    root = tmp_path / "sqlr1"
    files = {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/one.py": "from sqlr1.room import thing\nimport json\n",
        "stages/two.py": "def main():\n    from sqlr1 import lazy\n    return lazy\n",
        "room/__init__.py": "",
        "room/thing.py": "'''Speaks of sqlr1.unrelated.'''\nSTART = 'from sqlr1.worker import main; main()'\n",
        "room/words/nouns.yaml": "[]",
        "lazy.py": "import sqlr1.room\n",
        "worker.py": "",
        "unrelated.py": "",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return root


def test_closure_follows_imports_names_in_strings_and_data_files(package):
    assert provenance.sources("sqlr1.stages.one") == [
        "sqlr1/__init__.py",
        "sqlr1/room/__init__.py",
        "sqlr1/room/thing.py",
        "sqlr1/room/words/nouns.yaml",
        "sqlr1/stages/__init__.py",
        "sqlr1/stages/one.py",
        "sqlr1/worker.py",
    ]


def test_a_closure_is_the_same_when_asked_for_again(package):
    assert provenance.sources("sqlr1.stages.two") == provenance.sources("sqlr1.stages.two") != []


def test_a_later_process_parses_only_the_modules_that_were_edited(package, monkeypatch):
    parsed = []
    names = provenance._names
    monkeypatch.setattr(provenance, "_names", lambda tree: parsed.append(tree) or names(tree))

    def later():
        parsed.clear()
        forget()
        return provenance.sources("sqlr1.stages.one"), len(parsed)

    first, _ = later()
    assert later() == (first, 0)
    (package / "worker.py").write_text("from sqlr1 import lazy\n")
    more = sorted([*first, "sqlr1/lazy.py"])
    assert later() == (more, 2)
    (package / "lazy.py").unlink()  # of a module that is not edited itself
    assert later() == (first, 0)
    monkeypatch.setattr(provenance, "_READER", b"another version")
    assert later() == (first, 6)
    for damaged in (b"{", b'{"sqlr1/worker.py": [1]}', b'{"a": 1}'):
        provenance.NAMES.write_bytes(damaged)
        assert later() == (first, 6)


def test_a_cache_that_cannot_be_written_is_told_once(package, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(provenance, "NAMES", tmp_path / "file/names.json")
    for stage in ("one", "two"):
        forget()
        assert provenance.sources(f"sqlr1.stages.{stage}")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "names.json: not written" in caplog.text


def test_an_import_inside_a_function_counts(package):
    assert "sqlr1/lazy.py" in provenance.sources("sqlr1.stages.two")
    assert "sqlr1/room/thing.py" not in provenance.sources("sqlr1.stages.two")


def test_an_unknown_module_is_an_error(package):
    with pytest.raises(FileNotFoundError, match=r"stages/three\.py"):
        provenance.sources("sqlr1.stages.three")


def test_every_stage_of_the_real_package_has_a_closure_without_other_stages():
    stages = Path(provenance.__file__).parent / "stages"
    for path in stages.glob("*.py"):
        if path.stem in ("__init__", "common"):
            continue
        others = {Path(s).stem for s in provenance.sources(f"sqlr1.stages.{path.stem}") if "/stages/" in s}
        assert {path.stem} <= others <= {path.stem, "__init__", "common"}


def test_a_stage_that_runs_sql_depends_on_the_whole_sandbox():
    """The sandbox imports some of its modules on first use."""
    room = {f"sandbox/{path.name}" for path in (Path(provenance.__file__).parent / "sandbox").glob("*.py")}
    for stage in ("filter", "select", "grpo", "score"):
        assert room <= {"/".join(Path(s).parts[-2:]) for s in provenance.sources(f"sqlr1.stages.{stage}")}


def test_settings_keep_swapped_values_apart():
    one = provenance.settings({"a": {"x": 1, "y": 2}}, "a")
    two = provenance.settings({"a": {"x": 2, "y": 1}}, "a")
    assert one != two
    assert provenance.settings({"b": 0, "a": {"y": 2, "x": 1}}, "a") == one


def test_an_edit_of_the_declared_settings_is_no_edit_of_a_stage(package):
    """Their values reach a stage through its params; config.py names the rewards, which synthesis never executes."""
    (package / "config.py").write_text("import sqlr1.unrelated\n")
    (package / "stages/three.py").write_text("from sqlr1.config import Section\n")
    assert provenance.sources("sqlr1.stages.three") == [
        "sqlr1/__init__.py",
        "sqlr1/stages/__init__.py",
        "sqlr1/stages/three.py",
    ]


def test_the_generator_counts_for_who_imports_it(package, tmp_path):
    (tmp_path / "sqlgen").mkdir()
    (tmp_path / "sqlgen/words.py").write_text("import sqlr1.lazy\n")
    (package / "stages/three.py").write_text("import sqlgen.words\n")
    assert {"sqlgen/words.py", "sqlr1/lazy.py"} <= set(provenance.sources("sqlr1.stages.three"))


@pytest.mark.parametrize(
    ("template", "stages"),
    [("report.md.j2", {"report", "ablation", "paper_tables"}), ("card.md.j2", {"filter"})],
)
def test_only_what_fills_in_a_template_depends_on_it(template, stages):
    users = {
        path.stem
        for path in (Path(provenance.__file__).parent / "stages").glob("*.py")
        if any(source.endswith(f"/{template}") for source in provenance.sources(f"sqlr1.stages.{path.stem}"))
    }
    assert users == stages


def test_a_file_is_hashed_again_only_if_its_size_or_times_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text("one")
    first = provenance.file_hashes(paths)
    read = []
    monkeypatch.setattr(provenance, "sha256", lambda path: read.append(path) or "new")
    assert provenance.file_hashes(paths) == first
    assert read == []
    os.utime(paths[0])
    assert provenance.file_hashes(paths) == {paths[0]: "new", paths[1]: first[paths[1]]}
    assert read == [paths[0]]
    for damaged in (b"{", b"[]", b"null", b'{"a": 1}', b"\xff"):  # files are read instead
        provenance.HASHES.write_bytes(damaged)
        assert set(provenance.file_hashes(paths).values()) == {"new"}


def test_a_fingerprint_depends_on_content_and_names_but_not_on_times_or_the_place_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def of(folder):
        return provenance.fingerprint(folder.iterdir(), folder)

    (tmp_path / "x").mkdir()
    (tmp_path / "x/a").write_text("one")
    first = of(tmp_path / "x")
    os.utime(tmp_path / "x/a", (0, 0))
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    assert of(tmp_path / "x") == of(tmp_path / "y") == first
    (tmp_path / "y/a").write_text("two")
    (tmp_path / "x/a").rename(tmp_path / "x/b")
    assert len({first, of(tmp_path / "x"), of(tmp_path / "y")}) == 3


def test_an_edited_database_reruns_synthesis_and_a_touched_one_does_not(tmp_path):
    """Takes the time of one synthesis and four dry runs of the real workflow."""
    copy_checkout(tmp_path)
    for number in range(30):
        path = tmp_path / f"dbs/pets{number}/pets{number}.sqlite"
        path.parent.mkdir(parents=True)
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE pet AS SELECT 1 AS pet_id, 'Rex' AS name")
        connection.close()
    (tmp_path / "mine.csv").write_text("question,sql,db_id\nHow many?,SELECT COUNT(*) FROM pet,pets3\n")
    mix = [{"layout": "pairs", "questions": "mine.csv", "databases": "dbs"}]
    few = {"domains": [], "questions": 0, "benchmark_questions": 4, "held_out_domains": ["zoo"], "mix": mix}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"experiment": "mine", "synthesize": few}))
    target = ("results/mine/synthesize/questions.jsonl", "--configfile", "mine.yaml")
    run = snakemake(tmp_path, *target, "-p", "--cores", "1", SQLR1_DATA="none")
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    assert "pets7" not in said  # no command and no reason lists databases
    kept = "".join(path.read_text() for path in (tmp_path / ".snakemake/metadata").iterdir())
    assert "pets7" not in kept

    def planned():
        run = snakemake(tmp_path, *target, "-n", SQLR1_DATA="none")
        assert run.returncode == 0, run.stdout + run.stderr
        return "Job 0: synthesize" in run.stdout + run.stderr

    assert not planned()
    os.utime(tmp_path / "dbs/pets7/pets7.sqlite")
    assert not planned()
    with sqlite3.connect(tmp_path / "dbs/pets7/pets7.sqlite") as connection:
        connection.execute("UPDATE pet SET name = 'Tom'")
    connection.close()
    assert planned()
