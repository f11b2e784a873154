"""Scoring: the official metrics over a predictions file, votes among candidates, estimators and tests."""
