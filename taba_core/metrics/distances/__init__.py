"""Image distances, one module each. To add one, add a module here and its test."""
