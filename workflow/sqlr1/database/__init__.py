"""A SQLite database as the model sees it: schema, statistics, sample values, prompt text."""
