"""The compact table of missing shards: it behaves as the dictionary it stands for."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taba_core.store import MissingShards

VARIABLES = st.sampled_from([(), ("noise",), ("noise", "x_t"), ("x_t",)])


@given(st.dictionaries(st.integers(0, 50), VARIABLES), st.sets(st.integers(0, 50)))
def test_it_is_the_dictionary_of_what_is_missing(wanted, finished):
    held = {shard: names for shard, names in wanted.items() if names}
    missing = MissingShards(sorted(wanted.items()))
    assert missing == held and len(missing) == len(held) and list(missing) == sorted(held)
    for shard in finished & held.keys():
        missing.done(shard)
        del held[shard]
    assert missing == held and len(missing) == len(held) and bool(missing) == bool(held)
    assert sum(missing.by_variables().values()) == len(held)
    assert set(missing.by_variables()) == set(held.values())
    for shard in {*finished, *wanted} - held.keys():
        assert shard not in missing


def test_what_is_done_or_was_never_missing_cannot_be_done():
    missing = MissingShards([(3, ("noise",))])
    missing.done(3)
    for shard in (3, 4):
        with pytest.raises(KeyError):
            missing.done(shard)


def test_a_hundred_thousand_shards_take_about_a_megabyte():
    tracemalloc.start()
    missing = MissingShards((shard, ("noise", "image")) for shard in range(100_000))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(missing) == 100_000 and held < 1.3e6  # 8 + 2 bytes each, and what arrays grow ahead
