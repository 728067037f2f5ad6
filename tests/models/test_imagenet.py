"""ImageNet classes: names in class order, and the reference's draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from taba_core.errors import UsageError
from taba_core.models.imagenet import LATER_CLASS, class_names, draw_class_ids, reference_class_ids


@pytest.mark.parametrize("seed", [10, 42])
def test_the_references_draws_are_reproduced(seed, data_dir):
    golden = np.load(data_dir / "seeds.npz")[f"dit_class_ids_cond{seed}"]
    drawn = reference_class_ids(1280, seed=seed)
    assert drawn.dtype == np.int64
    np.testing.assert_array_equal(drawn, golden)
    np.testing.assert_array_equal(reference_class_ids(5, seed=seed), golden[:5])


def test_each_draw_is_repeated_consecutively():
    once, eight = reference_class_ids(4, seed=10), reference_class_ids(32, seed=10, noises_per_class=8)
    np.testing.assert_array_equal(eight, np.repeat(once, 8))


def test_names_are_a_thousand_and_two_of_them_name_two_classes():
    names = class_names()
    assert len(names) == 1000 and all(name == name.strip() != "" for name in names)
    assert [name for name, count in Counter(names).items() if count > 1] == ["crane", "maillot"]
    known = {
        0: "tench",
        207: "golden retriever",
        281: "tabby",
        388: "giant panda",
        980: "volcano",
        999: "toilet tissue",
    }
    assert {i: names[i] for i in known} == known


def test_four_names_are_looked_up_as_a_later_class():
    # crane and maillot are the first synonym of both classes; 361 and 744 list polecat and missile second.
    names = class_names()
    assert LATER_CLASS == {134: 517, 358: 361, 638: 639, 657: 744}
    assert [names[i] for i in LATER_CLASS] == ["crane", "polecat", "maillot", "missile"]
    assert [names[i] for i in LATER_CLASS.values()] == ["crane", "skunk", "maillot", "projectile"]
    assert not set(LATER_CLASS) & set(reference_class_ids(50_000, seed=10))


def test_our_draw_of_a_sample_does_not_depend_on_the_others():
    ids = draw_class_ids(range(4000), seed=10)
    np.testing.assert_array_equal(draw_class_ids([17, 3], seed=10), ids[[17, 3]])
    assert not np.array_equal(draw_class_ids(range(4000), seed=11), ids)
    # 4000 draws of 1000 classes: each is missed with probability (1 - 1/1000)^4000 = .018, so about 982 occur.
    assert 960 < len(set(ids)) <= 1000 and set(ids) <= set(range(1000))


def test_a_number_of_samples_that_is_no_multiple_is_refused():
    with pytest.raises(UsageError, match="num_samples=10 with noises_per_class=4: both must be positive"):
        reference_class_ids(10, seed=1, noises_per_class=4)
