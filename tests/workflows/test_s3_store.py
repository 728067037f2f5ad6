"""A real S3 server in a process of its own: a run, a killed driver, unfinished uploads, two drivers.

Needs the packages of the extra `remote` and a server: pip install 'taba[remote]' 'moto[s3]' flask flask-cors.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, PreconditionError

from taba_core.store.address import place_of
from taba_core.store.holder import Holder
from taba_core.store.lease import StoreHeldError, acquire, holder_of
from taba_core.store.place import json_bytes

boto3 = pytest.importorskip("boto3", reason="the extra `remote` is not installed")
pytest.importorskip("moto", reason="no S3 server: pip install 'moto[s3]' flask flask-cors")
pytestmark = pytest.mark.slow

RUN = [
    "run", "correlation", "--model", "gaussian", "--executor", "local", "--workers", "2",
    "--set", "num_samples=32", "--set", "samples_per_shard=4", "--set", "num_inference_steps=5",
    "--set", "bootstrap_replicates=100",
]  # fmt: skip


def taba(*arguments):
    command = [sys.executable, "-m", "workflows", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def contents(place):
    names = [n for n in place.walk() if n.split("/")[0] not in ("_ledger", "report")]
    return place.read_existing(names)


@pytest.fixture(scope="module", autouse=True)
def server():
    """An S3 server, and the usual variables that lead every process there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(url, timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield url
    finally:
        os.environ.clear()
        os.environ.update(before)
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "store"
    done = taba(*RUN, "--no-report", "--store", path)
    assert done.returncode == 0, done.stderr
    return place_of(path)


def test_a_killed_driver_is_resumed_to_the_same_bytes(local):
    place = place_of("s3://bucket/killed/store")
    command = [sys.executable, "-m", "workflows", *RUN, "--store", place.url]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while not any(name.endswith(".line") for name in (place / "_ledger").walk()):
        assert driver.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(contents(place)) < len(contents(local))
    done = taba(*RUN, "--store", place.url)
    assert done.returncode == 0, done.stderr
    assert contents(place) == contents(local)
    secrets = b"".join((place / name).read_bytes() for name in place.walk())
    assert b"secret" not in secrets  # no credentials in attributes, ledgers or logs


def test_damaged_objects_are_found_and_computed_again(local):
    place = place_of("s3://bucket/damaged/store")
    for name in local.walk():
        (place / name).write_atomic((local / name).read_bytes())
    shards = sorted(name for name in place.walk() if name.endswith("latent/c.1.0.0.0"))
    data = (place / shards[0]).read_bytes()
    (place / shards[0]).write_atomic(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    (place / shards[0].replace("c.1.", "c.2.")).write_atomic(b"")
    (place / shards[0].replace("c.1.", "c.3.")).remove()
    found = taba("verify", "--deep", "--forget", "--store", place.url)
    assert found.returncode == 1
    for said in ("shard 1: checksum", "shard 2: size: 0 bytes", "shard 3: missing"):
        assert said in found.stdout
    done = taba(*RUN, "--store", place.url)
    assert done.returncode == 0, done.stderr
    assert contents(place) == contents(local)


def test_a_large_object_goes_up_in_one_piece_of_which_a_kill_leaves_nothing():
    place = place_of("s3://bucket/parts/array")
    large = os.urandom(1 << 20) * 101
    assert (place / "c.0").write_atomic(large).bytes == 101 << 20
    assert place.sizes() == {"c.0": 101 << 20} and (place / "c.0").crc32() == zlib.crc32(large)
    client = boto3.client("s3")
    etag = client.head_object(Bucket="bucket", Key="parts/array/c.0")["ETag"]
    assert etag.strip('"') == hashlib.md5(large).hexdigest()  # an upload in parts would have another kind
    assert "Uploads" not in client.list_multipart_uploads(Bucket="bucket")


def test_the_server_itself_refuses_the_second_of_two_who_create_or_replace_an_object():
    place, file = place_of("s3://bucket"), place_of("s3://bucket/lease.json")
    assert [file.create_exclusive(name) for name in (b"one", b"two")] == [True, False]
    with pytest.raises(AlreadyExistsError):  # not only our own look before
        obstore.put(place._client, "lease.json", b"three", mode="create", use_multipart=False)
    _, version = file._read()
    assert file.exchange(b"one", b"two")
    with pytest.raises(PreconditionError):
        obstore.put(place._client, "lease.json", b"three", mode=version, use_multipart=False)
    assert file.read_bytes() == b"two"


def test_of_twenty_who_take_over_the_store_of_a_dead_driver_one_wins():
    store, dead = place_of("s3://bucket/raced"), replace(Holder.this_process("dead"), pid=2**22 + 1)
    (store / "_ledger" / "lease.json").write_atomic(json_bytes(dead.to_json()))

    def race(number):
        try:
            return acquire(store, f"racer {number}").holder.run
        except StoreHeldError as error:
            return error.exit_code

    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(race, range(20)))
    assert answers.count(75) == 19 and holder_of(store).run in answers
    assert time.monotonic() - began < 20  # a dead driver is replaced at once


@pytest.mark.follows(": there is no such bucket. Make it, or check --store.", printed=True)
def test_a_bucket_that_is_not_there_says_so_and_is_made():
    done = taba(*RUN, "--store", "s3://nowhere/x")
    said = "there is no such bucket. Make it, or check --store."
    assert done.returncode == 1 and said in done.stderr, done.stderr
    boto3.client("s3").create_bucket(Bucket="nowhere")
    done = taba(*RUN, "--store", "s3://nowhere/x")
    assert done.returncode == 0, done.stderr
