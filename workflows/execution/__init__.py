"""A run on one store: lease, signals, units to workers, reductions, the record of what happened."""
