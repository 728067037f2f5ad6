"""The inversion methods, a file a family; a file is found by being here."""
