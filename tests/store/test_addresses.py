"""Addresses of stores: which URLs can be one, which packages, keys and settings they need."""

from __future__ import annotations

import os
import pickle
import sys
import tomllib
from pathlib import Path

import pytest

from taba_core.errors import UsageError
from taba_core.store import object_client
from taba_core.store.address import place_of
from taba_core.store.local_place import LocalPlace


@pytest.fixture
def no_aws_settings(monkeypatch, tmp_path):
    """Neither variables nor files of AWS, and no machine role to ask for."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    object_client._bucket.cache_clear(), object_client._aws_session.cache_clear()
    yield tmp_path
    object_client._bucket.cache_clear(), object_client._aws_session.cache_clear()


@pytest.mark.follows(
    "credentials or options; set the storage's usual variables (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)."
)
@pytest.mark.follows(". Use a directory, s3://BUCKET/PREFIX, ", ": the URL names no place; give ")
def test_urls_that_cannot_be_stores_are_refused_and_those_the_refusals_name_are_taken(
    no_aws_settings, monkeypatch, tmp_path
):
    with pytest.raises(UsageError, match="holds no credentials") as e:
        place_of("s3://key:secret@host/bucket")
    assert "secret" not in str(e.value)
    with pytest.raises(UsageError, match="holds no credentials or options"):
        place_of("https://host/x?X-Amz-Signature=1")
    with pytest.raises(UsageError, match="the URL names no place; give memory://BUCKET/PREFIX"):
        place_of("memory://")
    for url in ("nothing://x/y", "ftp://host/x", "https://host/x"):
        kind = url.partition("://")[0]
        with pytest.raises(
            UsageError,
            match=rf"^--store {url}: a store cannot be on {kind}://\. Use a directory, s3://BUCKET",
        ):
            place_of(url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    for scheme in ("s3", "gs", "az", "memory"):
        assert place_of(f"{scheme}://bucket/prefix").name == "prefix"
    assert place_of(tmp_path).exists()


@pytest.mark.follows("Install them: pip install 'taba[remote]'.")
def test_a_missing_package_names_the_extra_that_holds_it(no_aws_settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)  # importing it raises ImportError
    object_client._bucket.cache_clear()
    with pytest.raises(
        UsageError, match=r"s3:// needs packages .*boto3.*\. Install them: pip install 'taba\[remote\]'"
    ):
        place_of("s3://bucket/x")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {name.partition(">")[0] for name in project["optional-dependencies"]["remote"]} == {
        "boto3",
        "obstore",
    }
    monkeypatch.delitem(sys.modules, "boto3")  # it is installed
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert place_of("s3://bucket/x").name == "x"


@pytest.mark.follows("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ")
def test_a_bucket_without_credentials_is_refused_before_any_request(no_aws_settings, monkeypatch):
    with pytest.raises(
        UsageError, match=r"^--store s3://bucket: there are no credentials for it\. Set AWS_AC"
    ):
        place_of("s3://bucket/x")
    (no_aws_settings / "AWS_SHARED_CREDENTIALS_FILE").write_text(
        "[site]\naws_access_key_id = key\naws_secret_access_key = word\n"
    )
    for settings in (
        {"AWS_SKIP_SIGNATURE": "true"},
        {"AWS_PROFILE": "site"},
        {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "word"},
    ):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            assert place_of("s3://bucket/x").name == "x"
        object_client._bucket.cache_clear()


def test_endpoint_region_and_key_come_from_the_profile(no_aws_settings, monkeypatch):
    (no_aws_settings / "AWS_CONFIG_FILE").write_text(
        "[profile site]\nregion = eu-north-1\nendpoint_url = http://127.0.0.1:9\n"
    )
    (no_aws_settings / "AWS_SHARED_CREDENTIALS_FILE").write_text(
        "[site]\naws_access_key_id = key\naws_secret_access_key = word\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "site")
    client = object_client.bucket_of("s3://bucket/x")
    sent = pickle.dumps(place_of("s3://bucket/x").zarr_store())  # as Dask sends it to its workers
    assert b"word" not in sent and pickle.loads(sent).path == "x"
    assert (client.config["endpoint"], client.config["region"]) == ("http://127.0.0.1:9", "eu-north-1")
    assert client.credential_provider()["access_key_id"] == "key"


@pytest.mark.follows(". See to its settings: ")
def test_a_bucket_on_azure_without_its_account_says_which_variable(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UsageError, match=r"--store az://box/x: .*ccount.*AZURE_STORAGE_ACCOUNT_NAME"):
        place_of("az://box/x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert place_of("az://box/x").name == "x"


def test_a_file_url_is_a_directory(tmp_path):
    assert place_of(tmp_path.as_uri()) == LocalPlace(tmp_path)
    assert Path(place_of(tmp_path)) == tmp_path and os.fspath(place_of(tmp_path)) == str(tmp_path)
