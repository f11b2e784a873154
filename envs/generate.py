"""Write envs/sqlr1.yaml, the conda environment, from the one list of dependencies in pyproject.toml."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
HEADER = "# Generated from pyproject.toml by `make lock`: do not edit.\n"


def environment() -> str:
    """The conda environment as YAML text. The package itself is found through PYTHONPATH, which the Snakefile sets."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    value = {
        "name": "sqlr1",
        "channels": ["conda-forge", "nodefaults"],
        "dependencies": ["python =3.11", "pip", {"pip": project["dependencies"]}],
    }
    return HEADER + yaml.safe_dump(value, sort_keys=False, width=120)


if __name__ == "__main__":
    (ROOT / "envs/sqlr1.yaml").write_text(environment(), encoding="utf-8")
