"""A trained policy as a folder that is ready for the Hugging Face Hub.

It has the weights, a model card, the settings, the experiment's report, and the predictions in Spider's and BIRD's
formats. The weights are a hard link where the file system allows one; all other files are copies.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sqlr1.ask import RESULTS, newest_policy
from sqlr1.config import Config
from sqlr1.evaluate.formats import BenchmarkQuestion, write_bird_json, write_spider_text
from sqlr1.evaluate.vote import methods
from sqlr1.model.base import model_folder
from sqlr1.records import InputError, atomic_write, read_json, read_jsonl, sha256
from sqlr1.tracking import WEIGHTS

Manifest = Mapping[str, Any]
_UNKNOWN = "unknown"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("export", help="a policy for the Hub", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what to write; must not exist, or be empty")
    which = parser.add_mutually_exclusive_group()
    made = "a model folder in results/ (default: the newest trained policy)"
    which.add_argument("--model", type=Path, metavar="FOLDER", help=made)
    which.add_argument("--experiment", metavar="NAME", help="the newest policy of this experiment")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the folder.

    Raises InputError for a policy without a manifest, and for a target that holds something or is in the results.
    """
    out = args.folder.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{args.folder}: exists and is not empty; choose another folder, or delete this one")
    model = args.model or newest_policy(args.experiment)
    manifest = model.resolve().parent / "manifest.json"
    if not manifest.is_file():
        raise InputError(f"{model}: no manifest.json beside it; name a model folder in results/, which a stage made")
    # As it was named first: `results` may be a link to a folder of another name.
    above, stage = (*model.absolute().parents, *manifest.parents), read_json(manifest).get("stage")
    results = next((path.parents[1] for path in above if path.match(f"{RESULTS}/*/{stage}")), None)
    if results and out.is_relative_to(results.resolve()):
        raise InputError(f"{args.folder}: is in {results}, which is for results alone; choose a folder elsewhere")
    try:
        # Manifests name files from the folder that `results` is in.
        with _whole_folder(out) as folder, contextlib.chdir(results.parent if results else "."):
            what = _export(manifest, folder)
    except OSError as error:
        raise InputError(f"{error.filename or out}: {error.strerror or error}") from error
    print(f"{model} with {what}\nTo upload it: hf upload USER/NAME {shlex.quote(str(args.folder))}")


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder that gets the name `out` only if the block ends without an error."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _export(manifest: Path, out: Path) -> str:
    """Write all about the policy of `manifest` to the folder `out`; returns what there is beside the model, in words.

    Scores and report count only if they are of this very policy: by hash, not by name.
    """
    from sqlr1.report.model_card import model_card
    from sqlr1.report.policies import WITHOUT_RL, load_runs

    model = model_folder(manifest)
    before = _manifests(manifest)
    made = before[manifest]
    root = next((folder.parent for folder in manifest.parents if folder.name == made["stage"]), manifest.parent)
    scored = {score: policy for score in sorted(root.glob("score/**/manifest.json")) if (policy := _scored(score))}
    scored = {score: policy for score, policy in scored.items() if policy in before}
    own = [score.parent for score, policy in scored.items() if policy == manifest]
    report = root / "report/manifest.json"
    reported = report.is_file() and any(score.parent in own for score in _makers(read_json(report)))

    for name in (name for name in made["outputs"] if name.startswith("model/")):
        _place(model.parent / name, out / Path(name).name, link=name == WEIGHTS)
    _place(manifest, out / manifest.name)
    for folder in own:
        write_predictions(folder, out / "predictions" / folder.name)
    for name in read_json(report)["outputs"] if reported else ():
        _place(report.parent / name, Path(os.path.normpath(out / "report" / name)))

    policy = _policy(manifest, before)
    stages = [*before.values(), *(m for score in scored for m in _manifests(score).values())]
    settings = _settings([read_json(report), *stages] if reported else stages)
    settings |= {"experiment": root.name, "seeds": [made["seed"]]}
    absent = [name for name in Config.model_fields if name not in settings]
    settings.setdefault("cold_start", {}).update({} if policy[0] == _UNKNOWN else {"strategy": policy[0]})
    if policy[1] != WITHOUT_RL:
        settings["reward"] |= {"variants": [policy[1]]}
    runs = load_runs(*([score.with_name(name) for score in scored] for name in ("summary.json", "questions.jsonl")))
    facts = _facts(root.name, made, (root / "report.md").read_text(encoding="utf-8") if reported else "")
    facts |= {"not in settings.yaml": ", ".join(absent)}
    with atomic_write(out / "README.md") as file:
        file.write(model_card(out, settings, policy, runs, facts, reported) + "\n")
    with atomic_write(out / "settings.yaml") as file:
        yaml.safe_dump(settings, file, sort_keys=False, allow_unicode=True, width=110)
    names = ", ".join(folder.name for folder in own)
    return f"{f'predictions on {names}' if own else 'no predictions'} and {'the' if reported else 'no'} report"


def _policy(manifest: Path, before: Mapping[Path, Manifest]) -> tuple[str, str]:
    """Strategy and reward as the manifests say; if the cold start's is gone, the strategy that the folder names."""
    from sqlr1.report.policies import WITHOUT_RL

    chosen = {name: value for m in before.values() for name, value in m["arguments"].items()}
    placed = re.search(r"/grpo/([^/]+)/[^/]+/seed-\d+/manifest\.json$", manifest.as_posix())
    without = "none" if before[manifest]["stage"] == "base_model" else _UNKNOWN
    return chosen.get("strategy", placed[1] if placed else without), chosen.get("reward_variant", WITHOUT_RL)


def _manifests(manifest: Path) -> dict[Path, Manifest]:
    """The manifests of a stage and of all those whose outputs it was made from, these first."""
    made = read_json(manifest)
    found = {path: m for before in _makers(made) for path, m in _manifests(before).items()}
    return found | {manifest: made}


def _settings(stages: Iterable[Manifest]) -> dict[str, Any]:
    """The config sections that the stages read, but for the folder of this machine's data, in their usual order."""
    found = {name: section for made in stages for name, section in made["settings"].items()}
    return {name: found[name] for name in Config.model_fields if name in found and name != "data"}


def _makers(made: Manifest) -> Iterator[Path]:
    """The manifests of the stages that made the inputs of `made`, if their outputs are still the same."""
    for name, digest in made["inputs"].items():
        path = Path(name).resolve()
        manifest = path.with_name("manifest.json")
        if manifest.is_file():
            now = sha256(manifest) if path == manifest else read_json(manifest).get("outputs", {}).get(path.name)
            if now == digest:
                yield manifest


def _scored(score: Path) -> Path | None:
    """The manifest of the policy that the score stage of manifest `score` scored, if it is still the same."""
    answered = (m for m in map(read_json, _makers(read_json(score))) if m["stage"] == "candidates")
    policies = (policy for m in answered for policy in _makers(m) if WEIGHTS in read_json(policy)["outputs"])
    return next(policies, None)


def _place(source: Path, target: Path, link: bool = False) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        with contextlib.suppress(OSError):  # another file system, or one without hard links
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def write_predictions(score: Path, out: Path) -> None:
    """Write the answers of the score stage's folder `score` to the questions that it scored, and their golds.

    Spider's script pairs lines, so `gold.txt` has the same questions. BIRD's file names them as the one that the stage
    wrote, which has its rows in their order, does: by the `question_id` of the benchmark's file, if there is one.
    """
    summary = read_json(score / "summary.json")
    keys = map(int, read_json(score / "predict_dev.json"))
    rows = [(row, key) for (_, row), key in zip(read_jsonl(score / "questions.jsonl"), keys, strict=True)]
    rows = [(row, key) for row, key in rows if row["greedy"][summary["metric"]] is not None]
    questions = [
        BenchmarkQuestion(row["index"], row["db_id"], row["question"], "", row["gold"], row["difficulty"], key)
        for row, key in rows
    ]
    write_spider_text(out / "gold.txt", questions, {q.index: q.gold for q in questions})
    for method in methods(summary["n_samples"]):
        answers = {row["index"]: row[method]["sql"] for row, _ in rows}
        write_spider_text(out / f"{method}.txt", questions, answers)
        write_bird_json(out / f"{method}.json", questions, answers)


def _facts(experiment: str, made: Manifest, report: str) -> dict[str, Any]:
    """How the policy was made, for the card. Commit and machine are those that the report names."""
    facts = {"experiment": experiment, "stage": made["stage"], "seed": made["seed"]}
    facts |= dict(re.findall(r"^\| (commit|machine) +\| (.*?) +\|$", report, re.MULTILINE))
    named = ("native_precision", "kept_step")
    return facts | {name.replace("_", " "): made[name] for name in named if name in made} | made["versions"]
