import pickle
import time
import uuid

import obstore
import obstore.store
import pytest

from taba_core.errors import StoreError, WorkError
from taba_core.store import journal, object_place
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
        book.append_lines([str(number)])
        if number in (2, 5):
            book.compact()
    assert list(book.lines()) == list("0123456")


def test_lines_of_a_process_with_a_slow_clock_come_last_all_the_same(bucket, monkeypatch):
    book = bucket / "book.jsonl"
    monkeypatch.setattr(journal.time, "time_ns", lambda: 2_000)
    monkeypatch.setattr(journal, "_last", 0)
    for text in "ab":
        book.append_lines([text])
    # Another process with a clock that is behind: without having read, its line would be older than the compacted ones.
    monkeypatch.setattr(journal, "_last", 0)
    monkeypatch.setattr(journal.time, "time_ns", lambda: 1_000)
    book.compact()
    book.append_lines(["c"])
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
    put = obstore.put

    def dies_at_b(client, key, value, **options):
        if key.endswith("/b"):
            raise KeyboardInterrupt
        return put(client, key, value, **options)

    monkeypatch.setattr(obstore, "put", dies_at_b)
    with pytest.raises(KeyboardInterrupt):
        tree.replace_tree({"a": b"2", "b": b"2", "zarr.json": b"{2}"}, bucket)
    assert not (tree / "zarr.json").exists()  # never the old mark over new values


def test_a_compaction_that_was_killed_loses_and_repeats_nothing(bucket, monkeypatch):
    book = bucket / "book"
    for number in range(4):
        book.append_lines([str(number)])
    removed = []
    delete = obstore.delete

    def dies_at_the_second(client, key):
        if removed:
            raise KeyboardInterrupt
        removed.append(key)
        delete(client, key)

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "delete", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            book.compact()
    assert list(book.lines()) == list("0123")
    book.append_lines(["4"])
    book.compact()
    assert list(book.lines()) == list("01234") and len((bucket / "book.d").sizes()) == 1


@pytest.mark.follows("the ledger changes faster than it can be read; try again.")
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
    assert journal.lines(lambda: whole, lambda names: whole) == ["0", "1", "2"]


def test_a_journal_copied_from_objects_to_a_directory_goes_on(bucket, tmp_path):
    book = bucket / "book.jsonl"
    book.append_lines(["0"])
    copy = tmp_path / "book.jsonl"
    folder = bucket / "book.jsonl.d"
    (tmp_path / folder.name).mkdir()
    for name in folder.sizes():
        (tmp_path / folder.name / name).write_bytes((folder / name).read_bytes())
    LocalPlace(copy).append_lines(["1"])
    assert list(LocalPlace(copy).lines()) == ["0", "1"]


def test_a_journal_copied_from_a_directory_to_objects_goes_on(bucket):
    (bucket / "book.jsonl").write_atomic(b"0\n1\n")
    (bucket / "book.jsonl").append_lines(["2"])
    assert list((bucket / "book.jsonl").lines()) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "kept",
    [pytest.param(b"", marks=pytest.mark.follows("; run again.")), b"12", b"13"],
    ids=["empty", "short", "changed"],
)
def test_storage_that_keeps_something_else_is_found_out(bucket, monkeypatch, kept):
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda client, key, value, **o: put(client, key, kept, **o))
    with pytest.raises(WorkError, match=r"holds \d bytes, not 3|holds other bytes than were sent"):
        (bucket / "a").write_atomic(b"123" if len(kept) != 2 or kept == b"12" else b"12")
        (bucket / "b").write_atomic(b"12")
    monkeypatch.setattr(obstore, "put", put)
    for name in "ab":  # run again, it is whole
        assert (bucket / name).write_atomic(b"123").bytes == (bucket / name).size() == 3


@pytest.mark.follows(" in one piece: use another --store with fewer samples_per_shard.")
def test_an_object_larger_than_one_put_takes_is_refused_and_smaller_ones_are_taken(bucket, monkeypatch):
    monkeypatch.setattr(object_place, "_MOST_BYTES", 3)
    with pytest.raises(
        WorkError, match=r"/a would be 4 bytes, .* at most 3 in one piece: use another --store"
    ):
        (bucket / "a").write_atomic(b"1234")
    assert not (bucket / "a").exists()
    for name in "bc":
        assert (bucket / name).write_atomic(b"12").bytes == 2


@pytest.mark.follows(
    "credentials and the endpoint in the environment, then run the same command again: it continues."
)
def test_errors_of_the_storage_name_the_place_and_the_way_out(bucket, monkeypatch):
    def refuse(client, key, value, **options):
        raise PermissionError(13, "Access Denied for https://host/key?X-Amz-Signature=secret")

    monkeypatch.setattr(obstore, "put", refuse)
    with pytest.raises(
        WorkError, match=r"cannot write memory://\S+/a: PermissionError: .*Check the address"
    ) as e:
        (bucket / "a").write_atomic(b"x")
    assert e.value.__cause__.errno == 13 and "secret" not in str(e.value)
    monkeypatch.undo()
    assert (bucket / "a").write_atomic(b"x").bytes == 1


def test_content_is_exchanged_only_for_what_was_expected(place):
    file = place / "lease.json"
    assert not file.exchange(b"old", b"new") and not file.exists()
    file.write_atomic(b"old")
    assert not file.exchange(b"other", b"new") and file.read_bytes() == b"old"
    assert file.exchange(b"old", b"new") and file.read_bytes() == b"new"
    assert not file.exchange(b"old", b"late") and file.read_bytes() == b"new"
    assert list(place.sizes()) == ["lease.json"]  # no claim is left


def test_a_touch_makes_only_the_expected_content_younger(place):
    file = place / "lease.json"
    file.write_atomic(b"mine")
    before = file.modified()
    time.sleep(0.02)
    file.touch(b"other")
    assert file.modified() == before
    file.touch(b"mine")
    assert file.modified() > before and file.read_bytes() == b"mine"
    (place / "absent").touch(b"mine")
    assert not (place / "absent").exists()


def test_a_writer_who_stalls_between_looking_and_writing_replaces_nothing(bucket, monkeypatch):
    """The condition is the storage's, so nothing that happens after the look is overwritten."""
    file, put = bucket / "lease.json", obstore.put
    file.write_atomic(b"dead")

    def stalls(client, key, value, **options):
        monkeypatch.setattr(obstore, "put", put)
        file.write_atomic(b"another driver")
        return put(client, key, value, **options)

    for late in (lambda: file.exchange(b"dead", b"late"), lambda: file.touch(b"dead")):
        file.write_atomic(b"dead")
        monkeypatch.setattr(obstore, "put", stalls)
        late()
        assert file.read_bytes() == b"another driver"


def test_an_answer_lost_on_the_way_does_not_lose_the_file(bucket, monkeypatch):
    """The client repeats a PUT whose answer did not arrive; the storage then refuses its own first attempt."""
    file, put = bucket / "lease.json", obstore.put

    def twice(client, key, value, **options):
        put(client, key, value, **options)
        return put(client, key, value, **options)

    monkeypatch.setattr(obstore, "put", twice)
    assert file.create_exclusive(b"mine") and file.exchange(b"mine", b"mine again")


def test_storage_that_ignores_conditions_does_not_make_two_winners(bucket, monkeypatch):
    """Another one writes between our look and our write, and the storage takes the last: reading back shows it."""
    file, put = bucket / "lease.json", obstore.put

    def takes_the_last(client, key, value, mode=None, **options):
        put(client, key, value, **options)
        return put(client, key, b"the other one", **options)

    monkeypatch.setattr(obstore, "put", takes_the_last)
    assert not file.create_exclusive(b"mine")
