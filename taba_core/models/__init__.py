"""Models: cards of the zoo, and the denoisers that run without weights."""
