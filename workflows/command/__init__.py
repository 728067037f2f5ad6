"""The commands of the terminal: each reads its options, calls the rooms below and prints."""
