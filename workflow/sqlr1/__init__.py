"""SQL-R1: text-to-SQL reasoning models trained by reinforcement learning on execution results."""

import os

# TRL's trainers report each run to the hub unless this is set before huggingface_hub is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
