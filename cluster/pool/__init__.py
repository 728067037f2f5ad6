"""Units, workers and the loop that joins them, whatever the workers live in."""
