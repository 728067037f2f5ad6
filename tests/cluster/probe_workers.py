"""A worker that says where it runs and what it would import; used by the tests of one code for driver and workers."""

from __future__ import annotations

import importlib.util
import sys


class Probe:
    """Answers with the origins of the modules asked for, and with its search path."""

    def run(self, payload):
        found = {}
        for name in payload:
            spec = importlib.util.find_spec(name)
            found[name] = None if spec is None else spec.origin
        return {"origins": found, "path": sys.path}
