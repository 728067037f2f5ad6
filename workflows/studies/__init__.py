"""One file a study, in the paper's order; `workflows.analysis.study` finds them."""
