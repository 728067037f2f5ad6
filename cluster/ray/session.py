"""Connecting to Ray: a private one-machine cluster that leaves nothing behind, or one that already runs."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.pool.executor import ClusterError, ClusterLost
from cluster.ray.address import VARIABLE, RayAddress, ray_address
from cluster.ray.logs import copy_logs
from cluster.ray.processes import Process, children_named, has_ended
from cluster.ray.scratch import PrivateDirectory

OBJECT_STORE_BYTES = 200_000_000  # results are receipts and partial sums; arrays go straight to storage
_CONNECT_S = 5.0
_VITAL = {"raylet", "gcs_server"}
# Set here, or by Ray itself when it is imported: not what a user has changed.
_OWN_SETTINGS = {"RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_CLIENT_MODE"}
_PERMANENT = (ValueError, TypeError, ImportError, AttributeError)
_token = ""  # one per process: Ray keeps the first token it has read


class ClusterUnreachable(ClusterError):
    """There is no Ray cluster at the address, it does not let us in, or none can be started with these settings."""


class RaySession:
    """An open connection to Ray. `local` says that it is a private cluster of this process; `dashboard` is "HOST:PORT"
    of the cluster's dashboard, "" if it has none or is local.

    Args:
      address: None = the value of RAY_ADDRESS (set inside a Ray job), else "local"; "local" = start a cluster
        on this machine; "auto" = RAY_ADDRESS if it is set, else the one running on this machine; "HOST:PORT" = head
        node of a cluster this machine has joined; "ray://HOST:PORT" = through a Ray Client. A connection this
        process already has is used as it is, whatever the address.
      num_cpus: logical cores of a local cluster; None = all cores.
      num_gpus: devices of a local cluster, which are only counted; None = those Ray finds.

    Raises:
      BadAddress: the address has a form that Ray does not know.
      ClusterUnreachable: nothing listens at the address, the connection was refused, or Ray refuses a setting.
      ClusterLost: Ray did not start on this machine; another try may succeed.
    """

    def __init__(
        self, address: str | None = None, num_cpus: int | None = None, num_gpus: int | None = None
    ) -> None:
        self.local, self.dashboard = False, ""
        wanted = ray_address(address)
        self.address = wanted.text
        self._saved: dict[str, str | None] = {}
        self._directory: PrivateDirectory | None = None
        self._vital: tuple[Process, ...] = ()  # processes that a local cluster cannot live without
        self._owned = True
        if _is_connected():
            self.address, self._owned = "the open connection", False
            return
        _check_settings()
        # Under `uv run` Ray would otherwise send the current directory to the workers, first on their search path; with
        # the mode of a Ray Client set from outside, it would take every local call for a remote one.
        own = dict.fromkeys(
            ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_CLIENT_MODE"), "0"
        )
        self._set_environment(own)
        self._saved["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE")  # Ray itself may set it
        if self.address == "local":
            self.local = True
            self._start(num_cpus, num_gpus)
        else:
            self._connect(wanted)
        atexit.register(self.close)

    def check(self) -> None:
        """Notice within moments, not Ray's tens of seconds, that a local cluster has died.

        Raises:
          ClusterLost: a process it cannot live without has ended.
        """
        dead = {process.name for process in self._vital if has_ended(process)}
        if dead:
            raise ClusterLost(f"Ray on this machine has died ({' and '.join(sorted(dead))} ended).")

    def keep_logs(self, directory: str | os.PathLike[str]) -> None:
        """Copy the logs of a local cluster, which `close` removes; each from its end, of bounded size."""
        if self._directory is not None:
            copy_logs(Path(self._directory.ray) / "session_latest" / "logs", Path(directory))

    def close(self) -> None:
        """Disconnect; a local cluster is stopped and its files are removed. Calling it twice does no harm."""
        if self._owned:
            self._owned = False
            import ray

            ray.shutdown()
            self._clean()
            atexit.unregister(self.close)

    def _start(self, num_cpus: int | None, num_gpus: int | None) -> None:
        self._directory = PrivateDirectory()
        self._set_environment(_authentication(self._directory))
        try:
            _quiet_ray().init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=OBJECT_STORE_BYTES,
                job_config=_job_without_directory(),
                _node_ip_address="127.0.0.1",  # else Ray asks public name servers for its own address
                _temp_dir=self._directory.ray,
            )
        except Exception as error:  # one of its processes died while it started, say
            self._clean_up_start()
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            # A value that Ray cannot read stays what it is; anything else may pass.
            kind = ClusterUnreachable if isinstance(error, _PERMANENT) else ClusterLost
            raise kind(
                f"Ray could not be started on this machine: {reason.rstrip('.')}.{_settings_of_ray()}"
            ) from error
        except BaseException:
            self._clean_up_start()
            raise
        self._vital = children_named(_VITAL)

    def _clean_up_start(self) -> None:
        """End what a start that failed left running."""
        import ray

        with contextlib.suppress(Exception):
            ray.shutdown()
        self._clean()

    def _connect(self, wanted: RayAddress) -> None:
        try:
            if wanted.host:
                knock(wanted.host, wanted.port)
            ray = _quiet_ray()
            # A Ray Client sends its configuration to the head as it is, and no directory with it.
            job = None if wanted.is_client else _job_without_directory()
            context = ray.init(
                address=wanted.text, job_config=job, log_to_driver=False, configure_logging=False
            )
            self.dashboard = context.dashboard_url or ""
        except Exception as error:
            self._clean()
            settings = _settings_of_ray(without=(VARIABLE,))
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ClusterUnreachable(
                f"no Ray cluster answers at {wanted.named}: {reason}\n"
                f"Start one (`ray start --head`) and join it from this machine, or {wanted.way_out}. A cluster with a "
                f"token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here too.{settings}"
            ) from error

    def _set_environment(self, variables: dict[str, str]) -> None:
        for name, value in variables.items():
            self._saved.setdefault(name, os.environ.get(name))
            os.environ[name] = value

    def _clean(self) -> None:
        for name, value in self._saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._saved.clear()
        if self._directory is not None:
            self._directory.remove()
            self._directory = None


def _settings_of_ray(without: tuple[str, ...] = ()) -> str:
    """A sentence that names the variables by which the user has changed Ray; "" if there are none.

    Ray reads more than a hundred and says of a wrong value what was expected, but not where it stands. Secrets stay
    unsaid.
    """
    hidden = {"RAY_AUTH_TOKEN"}
    shown = [
        name if name in hidden else f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("RAY_") and name not in without and name not in _OWN_SETTINGS
    ]
    if not shown:
        return ""
    return (
        f" The environment changes Ray's settings: {', '.join(shown)}; if you did not mean that, unset them."
    )


def _check_settings() -> None:
    """Refuse settings that end the process: Ray's own code, once imported, crashes on a number that it cannot read.

    Its settings of that kind have names in small letters. They are tried in another process.
    """
    if "ray" in sys.modules or not any(re.match("RAY_[a-z]", name) for name in os.environ):
        return
    tried = subprocess.run([sys.executable, "-P", "-c", "import ray"], capture_output=True, check=False)
    if tried.returncode < 0:
        raise ClusterUnreachable(f"Ray ends at once when it reads its settings.{_settings_of_ray()}")


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _quiet_ray() -> ModuleType:
    """Import Ray with its own messages turned down; what matters is said by the executor."""
    # Errors too: Ray writes a traceback there of what it also raises.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # Ray prints the last lines of a dead raylet's log on the driver, whatever the levels; `keep_logs` has them.
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda *arguments, **options: None
    return ray


def _job_without_directory() -> Any:
    """Settings of a job whose workers do not find modules in the current directory of the driver.

    Ray puts that directory, and the folder of the script, before everything else on the workers' search path, unless
    the job brings a directory of its own. Workers take the driver's search path over instead (`cluster.ray.code`); what
    they import before that must not come from a folder that happens to be there.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return Job()


def _authentication(directory: PrivateDirectory) -> dict[str, str]:
    """Settings that lock a local cluster with a private token, without touching the home directory.

    A mode the user has set is left alone.
    """
    global _token
    _token = _token or secrets.token_hex(32)
    settings = {"RAY_AUTH_TOKEN_PATH": directory.write_secret("token", _token)}
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # Ray reads the mode when it is imported. If that has happened, its default for new clusters, which is
        # to turn authentication on, must be left to act.
        settings["RAY_AUTH_MODE"] = "token"
    return settings


def knock(host: str, port: int) -> None:
    """Raise OSError at once where nothing, or something that is not Ray, listens; Ray would try for minutes.

    Ray speaks gRPC, hence HTTP/2, whose server answers the client's preface with a SETTINGS frame (RFC 9113,
    section 3.4): 9 bytes of header, the fourth of which is the type, 4.
    """
    empty_settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    with socket.create_connection((host, port), timeout=_CONNECT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        try:
            header = connection.recv(9)
        except TimeoutError:
            header = b""
        if header[3:4] != b"\x04":
            raise ConnectionError("something listens there, but it is not Ray")


def host_and_port(address: str) -> tuple[str, int]:
    """Split "HOST:PORT" or "ray://HOST:PORT"; the host is empty for a word such as "auto"."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        return host.strip("[]"), int(port)
    if address.startswith("ray://"):
        return port, 10001
    return "", 0
