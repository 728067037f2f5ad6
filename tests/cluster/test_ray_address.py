"""The address of a cluster: which one is meant, where a wrong one comes from, and what to do about it."""

import pytest

from cluster import ClusterUnreachable
from cluster.ray.address import BadAddress, ray_address
from cluster.ray.session import RaySession, _settings_of_ray

FORMS = "Give 'local', 'auto', HOST:PORT (usually port 6379) or ray://HOST:PORT (usually port 10001); or "
LOCAL = "use the address 'local' to run on this machine only."


@pytest.mark.parametrize(
    ("given", "variable", "text", "from_environment"),
    [
        (None, None, "local", False),
        (None, "", "local", False),
        (None, "  ", "local", False),
        ("", "auto", "auto", True),
        ("auto", "h:1", "h:1", True),  # as Ray reads it
        ("auto", "auto", "auto", False),
        ("local", "h:1", "local", False),
        ("h:6379", "http://x:8265", "h:6379", False),
        (" ray://h ", None, "ray://h", False),
        (None, "[::1]:6379", "[::1]:6379", True),
    ],
)
def test_the_address_given_goes_before_the_variable(given, variable, text, from_environment, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    found = ray_address(given)
    assert (found.text, found.from_environment) == (text, from_environment)


@pytest.mark.parametrize(
    "text", ["host", "host:", ":6379", "host:port", "host:0", "host:70000", "tcp://h:1", "ray://h/"]
)
@pytest.mark.follows(". Give ", "use the address 'local' to run on this machine only", "unset ")
def test_what_is_no_address_is_refused_with_the_forms_there_are(text, monkeypatch):
    with pytest.raises(BadAddress) as caught:
        ray_address(text)
    assert str(caught.value) == f"the address '{text}': this is no address of a Ray cluster. {FORMS}{LOCAL}"
    monkeypatch.setenv("RAY_ADDRESS", text)
    with pytest.raises(BadAddress) as caught:
        RaySession()
    assert str(caught.value) == (
        f"the variable RAY_ADDRESS is '{text}': this is no address of a Ray cluster. "
        f"{FORMS}unset RAY_ADDRESS, or {LOCAL}"
    )
    # The forms it names are taken, and win over the variable; without the variable the machine itself is meant.
    for form, port in [("local", 0), ("auto", 0), ("node1:6379", 6379), ("ray://node1:10001", 10001)]:
        monkeypatch.setenv("RAY_ADDRESS", form)
        assert (ray_address().text, ray_address().port) == (form, port)
    monkeypatch.setenv("RAY_ADDRESS", text)
    assert ray_address("local").text == "local"
    monkeypatch.delenv("RAY_ADDRESS")
    assert ray_address().text == "local"


def test_the_address_of_a_dashboard_is_told_apart(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(BadAddress) as caught:
        ray_address()
    assert str(caught.value) == (
        "the variable RAY_ADDRESS is 'http://127.0.0.1:8265': this is the web address of a Ray dashboard, which takes "
        "jobs (`ray job submit` reads it from RAY_API_SERVER_ADDRESS) but cannot be joined. "
        f"{FORMS}unset RAY_ADDRESS, or {LOCAL}"
    )


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_a_dead_cluster_that_the_variable_names_is_said_to_come_from_there(prefix, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"{prefix}127.0.0.1:9")
    monkeypatch.setattr("cluster.ray.session._is_connected", lambda: False)
    with pytest.raises(ClusterUnreachable) as caught:
        RaySession()
    said = str(caught.value)
    assert said.startswith(
        f"no Ray cluster answers at {prefix}127.0.0.1:9 (the value of the variable RAY_ADDRESS): "
    )
    assert "or unset RAY_ADDRESS, or use the address 'local'" in said


def test_the_variables_that_change_ray_are_named_and_secrets_are_not_said(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    assert _settings_of_ray() == ""
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", "no json")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert _settings_of_ray() == (
        " The environment changes Ray's settings: RAY_AUTH_TOKEN, RAY_OVERRIDE_RESOURCES=no json; if you did not mean "
        "that, unset them."
    )
