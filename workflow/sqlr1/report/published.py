"""The paper's numbers: SQL-R1, arXiv 2504.08600, version 5.

Execution accuracy in percent by the vote of 8 samples. Those of single rewards and cold starts, on BIRD dev, are in
`REWARDS` and `STRATEGIES`.
"""

import re
from dataclasses import dataclass

from sqlr1.report.policies import WITHOUT_RL, Policy
from sqlr1.strategies import STRATEGIES

FULL = "full"  # the paper's reward
ABLATED_ON = "bird_dev"  # where the paper ablates
_TARGET = "snakemake paper_tables --workflow-profile profiles/8gpu"
_OMNISQL = (
    "workflow/config/paper-7b.yaml --config experiment=paper-omnisql-7b "
    "'base_model={name: seeklhy/OmniSQL-7B}' 'cold_start={strategy: none}'"
)
_RL_ALONE = "workflow/config/paper-7b.yaml --config experiment=paper-7b-rl 'cold_start={strategy: none}'"


@dataclass(frozen=True)
class Published:
    """A row of the paper's main results: on Spider dev, Spider test and BIRD dev.

    `model` is in the name of the base model that it belongs to, in lower case; "" belongs to Qwen2.5-Coder-7B and
    stands beside any model without rows of its own. `policy` is the one of ours that was trained so; None is the
    experiment's main one.
    """

    label: str
    model: str
    policy: Policy | None
    numbers: tuple[float, float, float]
    overlay: str = "workflow/config/paper-7b.yaml"

    @property
    def command(self) -> str:
        """How to train it, and where its numbers are then."""
        experiment = re.search(r"experiment=(\S+)|config/([^/]+)\.yaml$", self.overlay)
        page = f"results/{experiment[1] or experiment[2]}/paper/tables.md"
        return f"`{_TARGET} --configfile workflow/config/paper.yaml {self.overlay}`; ours is then in `{page}`"


MAIN_BENCHMARKS = ("spider_dev", "spider_test", ABLATED_ON)
_BASE, _SFT = STRATEGIES["none"].published, STRATEGIES["reasoning"].published
MAIN_RESULTS = (
    Published("SQL-R1 3B", "qwen2.5-coder-3b", None, (78.1, 78.9, 54.6), "workflow/config/paper-3b.yaml"),
    Published("SQL-R1 14B", "qwen2.5-coder-14b", None, (86.7, 88.1, 67.1), "workflow/config/paper-14b.yaml"),
    Published("OmniSQL-7B", "omnisql-7b", ("none", WITHOUT_RL), (85.5, 88.9, 66.1), _OMNISQL),
    Published("OmniSQL-7B + RL (SQL-R1 7B)", "omnisql-7b", ("none", FULL), (87.6, 88.7, 66.6), _OMNISQL),
    Published("Qwen2.5-Coder-7B", "", ("none", WITHOUT_RL), (77.4, 79.4, _BASE[0])),
    Published("Qwen2.5-Coder-7B + RL", "", ("none", FULL), (84.5, 86.1, _BASE[1]), _RL_ALONE),
    Published("Qwen2.5-Coder-7B + SFT-200K", "", ("reasoning", WITHOUT_RL), (82.7, 83.3, _SFT[0])),
    Published("Qwen2.5-Coder-7B + SFT-200K + RL", "", ("reasoning", FULL), (84.7, 86.4, _SFT[1])),
)
# SQL-R1 7B, from OmniSQL-7B.
SPIDER_VARIANTS = {"spider_dk": 78.1, "spider_syn": 76.7, "spider_realistic": 83.3}
BIRD_LEVELS = {"simple": 72.1, "moderate": 60.8, "challenging": 51.0}
VOTES = {"greedy": 63.7, "vote of 8": 66.6}
# Qwen2.5-Coder-7B + RL, without and with database values in the prompt of RL.
VALUES = {False: 61.9, True: 63.1}
