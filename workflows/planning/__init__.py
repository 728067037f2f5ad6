"""From what a user asked for to a plan: artifacts, units, bytes, time, and what a budget allows. Runs nothing."""
