"""Which Ray cluster is meant: the address as given or as the environment says, and what is wrong with its form."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cluster.executor import ClusterError

VARIABLE = "RAY_ADDRESS"
_CLIENT = "ray://"
_FORMS = "'local', 'auto', HOST:PORT (usually port 6379) or ray://HOST:PORT (usually port 10001)"


class BadAddress(ClusterError):
    """The text is no address of a Ray cluster. It says where it comes from and what to give."""


@dataclass(frozen=True)
class RayAddress:
    """An address of a well-formed kind.

    Attributes:
      text: "local", "auto", "HOST:PORT" or "ray://HOST:PORT".
      from_environment: whether RAY_ADDRESS says so, and not the caller.
      host, port: of the last two kinds; "" and 0 of the words.
    """

    text: str
    from_environment: bool = False
    host: str = ""
    port: int = 0

    @property
    def is_client(self) -> bool:
        """Whether it goes through a Ray Client."""
        return self.text.startswith(_CLIENT)

    @property
    def named(self) -> str:
        """The address, with the variable it comes from."""
        return f"{self.text} (the value of the variable {VARIABLE})" if self.from_environment else self.text

    @property
    def way_out(self) -> str:
        """How to run on this machine instead."""
        own = f"unset {VARIABLE}, or " if self.from_environment else ""
        return f"{own}use the address 'local' to run on this machine only"


def ray_address(given: str | None = None) -> RayAddress:
    """The address that is meant.

    Args:
      given: as the user says it; None or "" = the value of RAY_ADDRESS (set inside a Ray job), else "local". Ray itself
        lets RAY_ADDRESS, where it is set, decide what "auto" is.
    Raises:
      BadAddress: it has no form that Ray knows, or is that of a dashboard.
    """
    said, variable = (given or "").strip(), os.environ.get(VARIABLE, "").strip()
    if said in ("", "auto") and variable not in ("", said):
        return _parsed(variable, from_environment=True)
    return _parsed(said or "local", from_environment=False)


def _parsed(text: str, *, from_environment: bool) -> RayAddress:
    if text in ("local", "auto"):
        return RayAddress(text, from_environment)
    host, colon, port = text.removeprefix(_CLIENT).rpartition(":")
    if text.startswith(_CLIENT) and port and not colon and "/" not in port:
        return RayAddress(text, from_environment, port, 10001)
    if host and "/" not in host and port.isdigit() and 0 < int(port) < 65536:
        return RayAddress(text, from_environment, host.strip("[]"), int(port))
    source = f"the variable {VARIABLE} is '{text}'" if from_environment else f"the address '{text}'"
    if text.startswith(("http://", "https://")):
        what = (
            f"{source}: this is the web address of a Ray dashboard, which takes jobs (`ray job submit` reads it from "
            "RAY_API_SERVER_ADDRESS) but cannot be joined"
        )
    else:
        what = f"{source}: this is no address of a Ray cluster"
    way_out = RayAddress(text, from_environment).way_out
    raise BadAddress(f"{what}. Give {_FORMS}; or {way_out}.")
