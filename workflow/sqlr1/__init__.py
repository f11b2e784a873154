"""SQL-R1: text-to-SQL reasoning models trained by reinforcement learning on execution results."""
