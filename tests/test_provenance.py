"""Which modules a stage depends on: an edit must re-run exactly the stages that can execute it."""

from pathlib import Path

import pytest

from sqlr1 import provenance


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


@pytest.mark.parametrize(("template", "stages"), [("report.md.j2", {"report", "ablation"}), ("card.md.j2", {"filter"})])
def test_only_what_fills_in_a_template_depends_on_it(template, stages):
    users = {
        path.stem
        for path in (Path(provenance.__file__).parent / "stages").glob("*.py")
        if any(source.endswith(f"/{template}") for source in provenance.sources(f"sqlr1.stages.{path.stem}"))
    }
    assert users == stages
