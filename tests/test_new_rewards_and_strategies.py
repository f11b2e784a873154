"""A new reward is an edit of rewards.py alone, and a new cold-start strategy an edit of strategies.py alone."""

import json
import os
import subprocess
import sys

import pytest
from conftest import copy_checkout, snakemake

FUNCTION = '''
def brevity_reward(outcome: Outcome, most: int = 300) -> float:
    """1 for SQL of at most `most` characters."""
    return float(outcome.sql_length <= most)


# The parts'''
EDITS = {
    "rewards.py": {
        "\n# The parts": FUNCTION,
        '    "graded": graded_reward,\n': '    "graded": graded_reward,\n    "brevity": brevity_reward,\n',
        "\n}\n\nReward =": '\n    "brief": RewardVariant(("result", "brevity"), "GRPO (brief)", True),\n}\n\nReward =',
    },
    "strategies.py": {
        "\nSTRATEGIES = {\n": "\nSTRATEGIES = {\n"
        '    "repeat": Strategy("cold start (repeat)", lambda q: format_response(q.question, q.sql)),\n',
    },
}
OVERLAY = """
experiment: new
cold_start: {strategy: repeat}
reward: {variants: [brief], brevity: {most: 120}}
"""
# What a stage, the schema and the report make of them.
PROBE = """
import json
from schemas.generate import schema
from sqlr1.config_files import load_sections
from sqlr1.outcomes import Outcome
from sqlr1.strategies import STRATEGIES
from sqlr1.records import Question
from sqlr1.report.policies import policy_label
from sqlr1.rewards import reward_functions

weights = load_sections({"reward": {"brevity": {"most": 120}}})["reward"]
long = Outcome(True, True, True, think_length=0, answer_length=140, sql_length=121)
keys = schema()["$defs"]
print(json.dumps({
    "rewards": {name: part(long) for name, part in reward_functions(weights, "brief").items()},
    "response": STRATEGIES["repeat"].response(Question("q", "d", "How many?", "SELECT 1")),
    "label": policy_label("repeat", "brief"),
    "variants": keys["Reward"]["properties"]["variants"]["items"]["enum"],
    "most": keys["BrevityPart"]["properties"]["most"],
    "strategies": keys["ColdStart"]["properties"]["strategy"]["enum"],
}))
"""


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """A copy of the checkout with a new reward and a new strategy, each added in one module."""
    folder = copy_checkout(tmp_path_factory.mktemp("edited"))
    for name, changes in EDITS.items():
        path = folder / "workflow/sqlr1" / name
        text = path.read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path.write_text(text)
    (folder / "new.yaml").write_text(OVERLAY)
    return folder


def test_the_workflow_plans_them_as_targets_and_in_the_ablations(edited):
    done = snakemake(edited, "-n", "-p", "all", "ablation_reward", "ablation_cold_start", "--configfile", "new.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = done.stdout + done.stderr
    assert "--reward-variant brief" in plan
    assert '"brevity": {"most": 120}' in plan
    assert "results/new/grpo/repeat/brief/seed-0" in plan
    assert "--strategy repeat" in plan
    ablations = [line for line in plan.splitlines() if "sqlr1.stages.ablation" in line]
    assert len(ablations) == 2
    assert any("repeat/brief/seed-0" in line for line in ablations)
    assert any("repeat/no_rl/seed-0" in line and "reasoning/no_rl/seed-0" in line for line in ablations)


def test_schema_stages_and_report_know_them(edited):
    call = [sys.executable, "-c", PROBE]
    environment = os.environ | {"PYTHONPATH": str(edited / "workflow")}
    done = subprocess.run(call, cwd=edited, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rewards"] == {"result": 3, "brevity": 0}
    assert found["response"] == "<think>How many?</think><answer>```sql\nSELECT 1\n```</answer>"
    assert found["label"] == "cold start (repeat) + GRPO (brief)"
    assert "brief" in found["variants"]
    assert found["most"]["default"] == 300
    assert found["most"]["exclusiveMinimum"] == 0
    assert "repeat" in found["strategies"]


def test_a_misspelt_weight_is_named(edited):
    (edited / "wrong.yaml").write_text(OVERLAY.replace("most", "mosst"))
    done = snakemake(edited, "-n", "--configfile", "wrong.yaml")
    assert done.returncode == 1
    assert "config key reward.brevity.mosst: unknown; did you mean 'most'?" in done.stdout + done.stderr
