"""Cold start and GRPO: trainer configurations from the config's sections, trainers, exact resume."""
