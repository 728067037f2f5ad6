"""Nodes and workers that exist only in a clock, under the real pool and loop."""
