"""The kinds of artifacts, a module each: spec, variables, what a unit reads, what it costs. `kinds()` finds them."""
