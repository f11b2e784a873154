"""Which modules a stage depends on: an edit must re-run exactly the stages that can execute it."""

from pathlib import Path

import pytest

from sqlr1 import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package with a stage, a room, a lazily imported module and an unrelated one."""
    root = tmp_path / "pkg"
    files = {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/one.py": "from pkg.room import thing\nimport json\n",
        "stages/two.py": "def main():\n    from pkg import lazy\n    return lazy\n",
        "room/__init__.py": "",
        "room/thing.py": "'''Speaks of pkg.unrelated.'''\nSTART = 'from pkg.worker import main; main()'\n",
        "room/words/nouns.yaml": "[]",
        "lazy.py": "import pkg.room\n",
        "worker.py": "",
        "unrelated.py": "",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(provenance, "PACKAGE", root)
    monkeypatch.chdir(tmp_path)
    return root


def test_closure_follows_imports_names_in_strings_and_data_files(package):
    assert provenance.sources("stages.one") == [
        "pkg/__init__.py",
        "pkg/room/__init__.py",
        "pkg/room/thing.py",
        "pkg/room/words/nouns.yaml",
        "pkg/stages/__init__.py",
        "pkg/stages/one.py",
        "pkg/worker.py",
    ]


def test_a_closure_is_the_same_when_asked_for_again(package):
    assert provenance.sources("stages.two") == provenance.sources("stages.two") != []


def test_an_import_inside_a_function_counts(package):
    assert "pkg/lazy.py" in provenance.sources("stages.two")
    assert "pkg/room/thing.py" not in provenance.sources("stages.two")


def test_an_unknown_module_is_an_error(package):
    with pytest.raises(FileNotFoundError, match=r"stages/three\.py"):
        provenance.sources("stages.three")


def test_every_stage_of_the_real_package_has_a_closure_without_other_stages():
    stages = Path(provenance.__file__).parent / "stages"
    for path in stages.glob("*.py"):
        if path.stem in ("__init__", "common"):
            continue
        others = {Path(s).stem for s in provenance.sources(f"stages.{path.stem}") if "/stages/" in s}
        assert {path.stem} <= others <= {path.stem, "__init__", "common"}


def test_settings_keep_swapped_values_apart():
    one = provenance.settings({"a": {"x": 1, "y": 2}}, "a")
    two = provenance.settings({"a": {"x": 2, "y": 1}}, "a")
    assert one != two
    assert provenance.settings({"b": 0, "a": {"y": 2, "x": 1}}, "a") == one
