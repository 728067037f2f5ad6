"""Reductions of stored arrays to results: what a study is, how it reads its artifacts, and what it may present."""
