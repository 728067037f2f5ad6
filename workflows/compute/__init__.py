"""The work of one unit: the only room where tensors become stored arrays."""
