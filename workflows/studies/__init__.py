"""One file a study, in the paper's order; `workflows.study` finds them."""
