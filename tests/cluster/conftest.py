"""One private Ray cluster of two cores for all tests that only need some Ray."""

from __future__ import annotations

import pytest

from cluster.ray.session import RaySession


class SharedRay:
    """Opened by the first test that needs it, closed by those that must not find one."""

    def __init__(self):
        self.session = None

    def open(self):
        if self.session is None:
            self.session = RaySession("local", num_cpus=2, num_gpus=2)

    def close(self):
        if self.session is not None:
            self.session.close()
            self.session = None


@pytest.fixture(scope="package")
def shared_ray():
    shared = SharedRay()
    yield shared
    shared.close()


@pytest.fixture
def ray_session(shared_ray):
    """Ray on this machine: 2 cores and 2 devices that are only counted."""
    shared_ray.open()


@pytest.fixture
def no_ray(shared_ray):
    """This process is connected to no Ray cluster."""
    shared_ray.close()
