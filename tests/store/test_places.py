import os
import pickle
import uuid
from pathlib import Path

import fsspec
import pytest

from taba_core.errors import StoreError, UsageError, WorkError
from taba_core.store import journal
from taba_core.store.address import place_of
from taba_core.store.local_place import LocalPlace
from taba_core.store.place import Written


@pytest.fixture
def bucket():
    place = place_of(f"memory://{uuid.uuid4().hex}/store")
    yield place
    place.parent.remove_tree()


@pytest.fixture(params=["directory", "objects"])
def place(request, tmp_path):
    """Every claim below holds for a directory and for object storage."""
    if request.param == "objects":
        return request.getfixturevalue("bucket")
    made = place_of(tmp_path / "store")
    made.make()
    return made


def test_a_file_is_written_whole_and_read_back(place):
    # CRC-32 of "123456789" is the check value of its definition
    assert (place / "a").write_atomic(b"123456789") == Written(9, 0xCBF43926)
    assert (place / "a").write_atomic(iter([b"1234", b"56789"])) == Written(9, 0xCBF43926)
    assert (place / "a").read_bytes() == b"123456789" and (place / "a").crc32() == 0xCBF43926
    assert (place / "a").size() == 9 and (place / "a").exists() and (place / "a").modified() > 0


def test_a_file_that_is_not_there(place):
    absent = place / "absent"
    assert not absent.exists() and absent.size() is None and absent.modified() is None
    with pytest.raises(FileNotFoundError):
        absent.read_bytes()
    absent.remove()
    assert place.read_existing(["absent"]) == {} and absent.sizes() == {} and absent.children() == []


def test_listings(place):
    for name in ("a/x", "a/b/y", "z"):
        (place / name).parent.make()
        (place / name).write_atomic(name.encode())
    assert place.sizes() == {"z": 1} and place.children() == ["a"]
    assert (place / "a").sizes() == {"x": 3} and (place / "a").children() == ["b"]
    assert place.walk() == {"a/x": 3, "a/b/y": 5, "z": 1}
    assert place.read_existing(["z", "a/x", "no"]) == {"z": b"z", "a/x": b"a/x"}
    (place / "a").remove_tree()
    assert place.walk() == {"z": 1}


def test_a_place_survives_pickling_and_its_url(place):
    (place / "a").write_atomic(b"x")
    for other in (pickle.loads(pickle.dumps(place)), place_of(place.url), place_of(place)):
        assert other == place and (other / "a").read_bytes() == b"x"
    assert (place / "a").parent == place and (place / "a").name == "a"


def test_of_several_who_create_a_file_one_succeeds(place):
    assert [(place / "lease").create_exclusive(name) for name in (b"one", b"two")] == [True, False]
    assert (place / "lease").read_bytes() == b"one"


def test_a_journal_keeps_the_order_of_its_lines(place):
    book = place / "book.jsonl"
    assert list(book.lines()) == []
    for number in range(7):
        book.append_line(str(number))
        if number in (2, 5):
            book.compact()
    assert list(book.lines()) == list("0123456")


def test_lines_of_a_process_with_a_slow_clock_come_last_all_the_same(bucket, monkeypatch):
    book = bucket / "book.jsonl"
    monkeypatch.setattr(journal.time, "time_ns", lambda: 2_000)
    monkeypatch.setattr(journal, "_last", 0)
    for text in "ab":
        book.append_line(text)
    # Another process with a clock that is behind: without having read, its line would be older than the compacted ones.
    monkeypatch.setattr(journal, "_last", 0)
    monkeypatch.setattr(journal.time, "time_ns", lambda: 1_000)
    book.compact()
    book.append_line("c")
    assert list(book.lines()) == ["a", "b", "c"]
    book.compact()
    assert list(book.lines()) == ["a", "b", "c"]


def test_a_tree_is_replaced_as_a_whole(place):
    (place / "_ledger").make()
    tree = place / "tree"
    tree.replace_tree({"zarr.json": b"{}", "a/b": b"1"}, place / "_ledger")
    tree.replace_tree({"zarr.json": b"{2}", "c": b"2"}, place / "_ledger")
    assert tree.walk() == {"zarr.json": 3, "c": 1}
    assert (place / "_ledger").walk() == {}


def test_an_object_tree_whose_replacement_was_killed_does_not_exist(bucket, monkeypatch):
    tree = bucket / "tree"
    tree.replace_tree({"zarr.json": b"{}", "a": b"1"}, bucket)
    memory, put = type(tree.filesystem()), type(tree.filesystem()).pipe_file

    def dies_at_b(self, path, value, **options):
        if path.endswith("/b"):
            raise KeyboardInterrupt
        put(self, path, value, **options)

    monkeypatch.setattr(memory, "pipe_file", dies_at_b)
    with pytest.raises(KeyboardInterrupt):
        tree.replace_tree({"a": b"2", "b": b"2", "zarr.json": b"{2}"}, bucket)
    assert not (tree / "zarr.json").exists()  # never the old mark over new values


def test_a_compaction_that_was_killed_loses_and_repeats_nothing(bucket, monkeypatch):
    book = bucket / "book"
    for number in range(4):
        book.append_line(str(number))
    removed = []
    memory = type(book.filesystem())
    remove = memory.rm_file

    def dies_at_the_second(self, path):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        remove(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(memory, "rm_file", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            book.compact()
    assert list(book.lines()) == list("0123")
    book.append_line("4")
    book.compact()
    assert list(book.lines()) == list("01234") and len((bucket / "book.d").sizes()) == 1


def test_a_journal_read_while_it_is_compacted_is_listed_again():
    held = {f"{i:020d}-aa.line": str(i).encode() for i in range(3)}
    whole = {f"{2:020d}-bb.all": b"0\n1\n2\n"}
    listings = iter([held, whole])
    read = {0: {}, 1: whole}
    calls = []

    def fetch(names):
        calls.append(list(names))
        return read[len(calls) - 1]

    assert journal.lines(lambda: next(listings), fetch) == ["0", "1", "2"] and len(calls) == 2
    with pytest.raises(StoreError, match="changes faster than it can be read"):
        journal.lines(lambda: held, lambda names: {})


def test_a_journal_copied_from_objects_to_a_directory_goes_on(bucket, tmp_path):
    book = bucket / "book.jsonl"
    book.append_line("0")
    copy = tmp_path / "book.jsonl"
    folder = bucket / "book.jsonl.d"
    (tmp_path / folder.name).mkdir()
    for name in folder.sizes():
        (tmp_path / folder.name / name).write_bytes((folder / name).read_bytes())
    LocalPlace(copy).append_line("1")
    assert list(LocalPlace(copy).lines()) == ["0", "1"]


def test_a_journal_copied_from_a_directory_to_objects_goes_on(bucket):
    (bucket / "book.jsonl").write_atomic(b"0\n1\n")
    (bucket / "book.jsonl").append_line("2")
    assert list((bucket / "book.jsonl").lines()) == ["0", "1", "2"]


@pytest.mark.parametrize("kept", [b"", b"12", b"13"], ids=["empty", "short", "changed"])
def test_storage_that_keeps_something_else_is_found_out(bucket, monkeypatch, kept):
    memory, put = type(bucket.filesystem()), type(bucket.filesystem()).pipe_file
    monkeypatch.setattr(memory, "pipe_file", lambda self, path, value, **o: put(self, path, kept, **o))
    with pytest.raises(WorkError, match=r"holds \d bytes, not 3|holds other bytes than were sent"):
        (bucket / "a").write_atomic(b"123" if len(kept) != 2 or kept == b"12" else b"12")
        (bucket / "b").write_atomic(b"12")


def test_errors_of_the_storage_name_the_place_and_the_way_out(bucket, monkeypatch):
    def refuse(self, path, value, **options):
        raise PermissionError(13, "Access Denied for https://host/key?X-Amz-Signature=secret")

    monkeypatch.setattr(type(bucket.filesystem()), "pipe_file", refuse)
    with pytest.raises(
        WorkError, match=r"cannot write memory://\S+/a: PermissionError: .*Check the address"
    ) as e:
        (bucket / "a").write_atomic(b"x")
    assert e.value.__cause__.errno == 13 and "secret" not in str(e.value)


def test_urls_that_cannot_be_stores_are_refused():
    with pytest.raises(UsageError, match="holds no credentials") as e:
        place_of("s3://key:secret@host/bucket")
    assert "secret" not in str(e.value)
    with pytest.raises(UsageError, match="holds no credentials or options"):
        place_of("https://host/x?X-Amz-Signature=1")
    with pytest.raises(UsageError, match="the URL names no place; give memory://BUCKET/PREFIX"):
        place_of("memory://")
    with pytest.raises(UsageError, match=r"--store nothing://x/y: .*Use a directory, s3://"):
        place_of("nothing://x/y")
    with pytest.raises(
        UsageError, match=r"^--store ftp://host/x: a store cannot be on ftp://\. Use a directory"
    ):
        place_of("ftp://host/x")
    with pytest.raises(UsageError, match="on a web server can be read, not written"):
        place_of("https://host/x").check_kind(writing=True)


def test_a_missing_package_names_the_extra(monkeypatch):
    def missing(protocol, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(
        UsageError, match=r"Install s3fs to access S3\). Install them: pip install 'taba\[remote\]'"
    ):
        place_of("s3://bucket/x")


def test_a_file_url_is_a_directory(tmp_path):
    assert place_of(tmp_path.as_uri()) == LocalPlace(tmp_path)
    assert Path(place_of(tmp_path)) == tmp_path and os.fspath(place_of(tmp_path)) == str(tmp_path)
