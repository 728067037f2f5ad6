"""From a study's objects to files: tables, figures, claims and the HTML page."""
