"""A Ray cluster inside a Slurm allocation: what its launcher writes, and what the head node runs."""
