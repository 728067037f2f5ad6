"""Who else could use a Ray cluster of the user's: tokens, and clusters that ask for none.

Ray runs any code it is sent. Login nodes and a cluster's network are shared, so a cluster that wants no token runs
anybody's code as the user who started it.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cluster.ray.inspection import ask_without_token
from workflows.doctor.finding import Finding, Subject, check, fail, ok, skipped, warn
from workflows.doctor.nodes import inspection

SECTION = "Ray access"
_LOCK = (
    "stop it (`ray stop` on its nodes) and start it with a token: slurm/cluster.sh, or RAY_AUTH_MODE=token"
)
_DEFAULT_DASHBOARD = "127.0.0.1:8265"
_TIMEOUT_S = 5.0


@check(SECTION, "token mode")
def token_mode(subject: Subject) -> Finding:
    """RAY_AUTH_MODE: without it `ray start` runs open unless a token happens to lie in the home directory."""
    mode = subject.environ.get("RAY_AUTH_MODE", "")
    if mode == "token":
        return ok("RAY_AUTH_MODE=token")
    if mode:
        return fail(
            f"RAY_AUTH_MODE={mode}: every cluster started from here is open",
            "export RAY_AUTH_MODE=token, also in your shell's start files",
        )
    found = "RAY_AUTH_MODE is not set"
    if subject.cluster is not None:
        return warn(
            f"{found}; `ray` commands may go without a token", 'export RAY_AUTH_MODE=token, or eval "$(taba cluster '
            'env JOBID)" for a cluster of slurm/cluster.sh'
        )  # fmt: skip
    return ok(f"{found}; taba locks its own clusters, `ray start` by hand may not")


@check(SECTION, "token file")
def token_file(subject: Subject) -> Finding:
    """Whether only the user can read the token, or put another in its place."""
    files = [path for path in _token_files(subject) if path.is_file()]
    named = subject.environ.get("RAY_AUTH_TOKEN_PATH")
    if named and not Path(named).is_file():
        return fail(
            f"RAY_AUTH_TOKEN_PATH={named}: no such file",
            "set it to the token file of your cluster, or unset it",
        )
    open_ones = [(path, problem) for path in files if (problem := _exposed(path))]
    if open_ones:
        paths = " ".join(str(path) for path, _ in open_ones)
        folders = " ".join(dict.fromkeys(str(path.parent) for path, _ in open_ones))
        return fail(
            "; ".join(f"{path} {problem}" for path, problem in open_ones),
            f"chmod 700 {folders} && chmod 600 {paths}; if others could read it, make a new token and restart Ray",
        )
    if files:
        return ok(", ".join(f"{path} is yours alone" for path in files))
    if subject.environ.get("RAY_AUTH_TOKEN"):
        return ok(
            "in RAY_AUTH_TOKEN; a file by RAY_AUTH_TOKEN_PATH stays out of the environment of every program"
        )
    return ok("none; taba makes one for each cluster it starts")


def _token_files(subject: Subject) -> Iterator[Path]:
    """Where Ray looks for a token."""
    if named := subject.environ.get("RAY_AUTH_TOKEN_PATH"):
        yield Path(named)
    yield Path(subject.environ.get("HOME") or Path.home()) / ".ray" / "auth_token"


def _exposed(path: Path) -> str:
    """How others get at a file that should be 0600 in a directory of 0700; "" if they do not."""
    held, folder = path.stat(), path.parent.stat()
    if held.st_uid != os.getuid():
        return "belongs to another user"
    if stat.S_IMODE(held.st_mode) & 0o077:
        return f"has mode {stat.S_IMODE(held.st_mode):04o}: others can read it"
    if stat.S_IMODE(folder.st_mode) & 0o077:
        return f"lies in a directory of mode {stat.S_IMODE(folder.st_mode):04o}: others can enter it"
    return ""


@check(SECTION, "cluster locked")
def cluster_locked(subject: Subject) -> Finding:
    """Ask the cluster for its status without a token, as a stranger would."""
    address = _head(subject)
    if address is None:
        return skipped("no Ray cluster is named (--address HOST:PORT, RAY_ADDRESS) or found here")
    answer, reason = ask_without_token(address)
    if answer == "open":
        return fail(
            f"{address} answers without a token: anybody who reaches the port can run code as {_user(subject)}",
            _LOCK,
        )
    if answer == "unclear":
        return warn(
            f"it is not known whether {address} wants a token: {reason}",
            f"look at what `RAY_AUTH_MODE=disabled ray status --address {address}` prints: it must be an "
            "AuthenticationError",
        )
    if answer == "nothing":
        named = subject.cluster not in (None, "auto")
        return skipped(f"nothing answers at {address}" + (f": {reason}" if named else ""))
    return ok(f"{address} refuses who shows no token")


def _user(subject: Subject) -> str:
    return subject.environ.get("USER") or "its owner"


def _head(subject: Subject) -> str | None:
    """The head to ask: the named one, the one its nodes name, else the one last started on this machine."""
    if subject.cluster is not None:
        named = subject.cluster != "auto" and not subject.cluster.startswith("ray://")
        return subject.cluster if named else inspection(subject).get("gcs") or None
    base = subject.environ.get("RAY_TMPDIR") or subject.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        return (Path(base) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


@check(SECTION, "dashboard locked")
def dashboard_locked(subject: Subject) -> Finding:
    """Ask the dashboard for its list of jobs without a token; who gets it can also submit one."""
    places = dict.fromkeys(_dashboards(subject))
    answers = {place: _jobs_status(place) for place in places}
    if bad := [place for place, status in answers.items() if status == 200]:
        return fail(f"{', '.join(bad)} lists and takes jobs without a token", _LOCK)
    if good := [place for place, status in answers.items() if status in (401, 403)]:
        return ok(f"{', '.join(good)} refuses who shows no token")
    return skipped(f"none answers at {', '.join(places)}")


def _dashboards(subject: Subject) -> Iterator[str]:
    named = [subject.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")]
    found = [text for text in (*named, subject.address or "") if text.startswith("http")]
    if subject.cluster is not None and (there := inspection(subject).get("dashboard")):
        found.append(f"http://{there}")
    yield from (text.rstrip("/") for text in found or [f"http://{_DEFAULT_DASHBOARD}"])


def _jobs_status(place: str) -> int:
    """HTTP status of the Jobs API; 0 if nothing, or something else, answers."""
    # A site's http_proxy is for the web, not for a compute node.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{place}/api/jobs/", timeout=_TIMEOUT_S) as answer:
            return answer.status if isinstance(json.load(answer), list) else 0
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0
