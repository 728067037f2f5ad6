"""One driver per store: the lease that names it, and how another process can tell that it is gone."""
