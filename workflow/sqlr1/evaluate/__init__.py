"""Evaluation: the official metrics over predictions or candidates, votes, estimates and tests."""
