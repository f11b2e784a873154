"""Write the conda environments from the dependencies in pyproject.toml: sqlr1.yaml, and gpu.yaml with that extra."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
HEADER = "# Generated from pyproject.toml by `make lock`: do not edit.\n"


def environment(extra: str = "") -> str:
    """A conda environment as YAML text. The package itself is found through PYTHONPATH, which the Snakefile sets."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    value = {
        "name": f"sqlr1-{extra}" if extra else "sqlr1",
        "channels": ["conda-forge", "nodefaults"],
        "dependencies": ["python =3.11", "pip", {"pip": wanted}],
    }
    return HEADER + yaml.safe_dump(value, sort_keys=False, width=120)


if __name__ == "__main__":
    (ROOT / "envs/sqlr1.yaml").write_text(environment(), encoding="utf-8")
    (ROOT / "envs/gpu.yaml").write_text(environment("gpu"), encoding="utf-8")
