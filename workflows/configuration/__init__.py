"""The settings of a run, and one model under them: where a card, conventions and settings become artifact specs."""
