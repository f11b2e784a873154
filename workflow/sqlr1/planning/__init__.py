"""What an experiment will cost, before anything runs: the command `sqlr1 plan`."""
