"""The editors, one a module."""
