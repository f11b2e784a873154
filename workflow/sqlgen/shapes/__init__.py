"""Shapes: each draws a plan of one kind over a database. `catalogue` lists them with their weights."""
