"""A function for each kind of artifact: from what a batch reads to the arrays that are stored. Found by being here."""
