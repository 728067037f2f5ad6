"""The pages of a report: an overview, a page for every study and model, all tables and figures, the paper beside."""
