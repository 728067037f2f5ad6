"""Workers the executor tests run; importable in Ray's worker processes too."""

import os
import signal
import threading
import time

from cluster import Finish, HopelessUnit, StopRun


class Echo:
    """Returns its payload and counts what it ran, to show that a worker stays warm."""

    def __init__(self):
        self.is_ready = False
        self.num_calls = 0

    def ready(self):
        self.is_ready = True

    def run(self, payload):
        assert self.is_ready
        self.num_calls += 1
        return payload


class Journal(Echo):
    """Payload (directory, name, seconds): leaves a start and an end mark, in order of a shared clock."""

    def run(self, payload):
        directory, name, seconds = payload
        begin = time.monotonic_ns()
        time.sleep(seconds)
        with open(os.path.join(directory, f"{name}.{begin}"), "x") as file:
            file.write(str(time.monotonic_ns()))
        return name


class Slow(Echo):
    """Takes long enough for all workers to be built meanwhile."""

    def run(self, payload):
        time.sleep(0.5)
        return payload


class EveryThirdFails(Echo):
    """The third call and every third after it raises, whatever the payload."""

    def run(self, payload):
        super().run(payload)
        if self.num_calls % 3 == 0:
            raise OSError(f"call {self.num_calls} failed")
        return payload * payload


class Poisoned(Echo):
    """Raises for the payload 'poison', asks to stop for 'stop', returns the others."""

    def run(self, payload):
        if payload == "poison":
            raise ValueError("this unit is poisoned")
        if payload == "stop":
            raise StopRun("no space left on /data; free some and run the same command again.")
        time.sleep(
            0.02
        )  # a unit takes time, else a second worker is through all of them before anyone can stop it
        return payload


class Hopeless(Echo):
    """Says of the payload 'hopeless' that it never can be, while it runs or while it finishes; returns the others."""

    def run(self, payload):
        if payload == "hopeless":
            raise HopelessUnit("weights.bin is damaged. Download it again.")
        if payload == "hopeless at its end":
            return Finish(lambda: self.run("hopeless"))
        return payload


class Exits(Echo):
    """Ends Python for the payload 'exit', returns the others."""

    def run(self, payload):
        if payload == "exit":
            raise SystemExit(3)
        return payload


class NeverBuilt:
    def __init__(self):
        raise RuntimeError("weights of adm-64 are missing")

    def run(self, payload):
        return payload


class StopsWhileBuilt:
    def __init__(self):
        raise StopRun("the store is of another version.")

    def run(self, payload):
        return payload


class Dies(Echo):
    """Payload (marker, how): the first attempt ends or hangs its process, later ones return its id."""

    def run(self, payload):
        marker, how = payload
        if how == "never" or os.path.exists(marker):
            return os.getpid()
        if how != "always":
            open(marker, "x").close()
        if how == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)


class AcceleratorError(RuntimeError):
    """Named like torch's error after which a device context is unusable."""


class Awkward(Echo):
    """Results and errors that do not survive pickling, and errors that spoil the process."""

    def run(self, payload):
        if payload == "result":
            return threading.Lock()
        if payload == "error":
            error = RuntimeError("carries a lock")
            error.lock = threading.Lock()
            raise error
        if payload == "device":
            self.num_calls += 1
            if self.num_calls > 1:
                return "used a spoiled process"
            raise AcceleratorError("CUDA error: an illegal memory access was encountered")
        return os.getpid(), os.environ.get("OMP_NUM_THREADS")


class WritesBeside(Echo):
    """Payload (directory, name, compute seconds, write seconds): notes when it computed and when it wrote."""

    def run(self, payload):
        directory, name, compute, write = payload
        begin = time.monotonic_ns()
        time.sleep(compute)
        computed = time.monotonic_ns()

        def finish():
            start = time.monotonic_ns()
            if name == "broken":
                raise OSError("the disk refuses")
            if name == "kills":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(write)
            with open(os.path.join(directory, name), "x") as file:
                file.write(f"{begin} {computed} {start} {time.monotonic_ns()}")
            return name.upper()

        return Finish(finish)


def process_and(value):
    """A call: the process it is made in, and its argument."""
    time.sleep(0.02)
    return os.getpid(), value


def refuses(value):
    """A call that raises the error whose name it is given."""
    raise {"KeyError": KeyError, "OSError": OSError}[value](f"no {value} here")


def dies_once(marker):
    """A call that ends its process the first time, and returns its id the second."""
    if not os.path.exists(marker):
        open(marker, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()
