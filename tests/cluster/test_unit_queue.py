"""The scheduler's rules, without threads, clocks or Ray."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import Outcome, Unit
from cluster.pool.unit_queue import UnitQueue


def drain(queue, now=0.0):
    """Ids of all units that may start now, in the order they are handed out."""
    ids = []
    while (unit := queue.take(now)) is not None:
        ids.append(unit.id)
    return ids


def test_units_come_in_the_order_given():
    assert drain(UnitQueue([Unit("c", 0), Unit("a", 0), Unit("b", 0)])) == ["c", "a", "b"]


def test_a_unit_waits_for_all_its_dependencies():
    queue = UnitQueue([Unit("a", 0), Unit("b", 0), Unit("ab", 0, after=("a", "b"))])
    assert drain(queue) == ["a", "b"]
    queue.succeed("a", None)
    assert drain(queue) == []
    queue.succeed("b", None)
    assert drain(queue) == ["ab"]


def test_dependents_of_early_units_run_before_late_units():
    queue = UnitQueue([Unit("image", 0), Unit("latent", 0, after=("image",)), Unit("other", 0)])
    assert queue.take(0).id == "image"
    queue.succeed("image", None)
    assert drain(queue) == ["latent", "other"]


def test_dependencies_may_be_given_later_than_their_dependents():
    queue = UnitQueue([Unit("latent", 0, after=("image",)), Unit("image", 0)])
    assert drain(queue) == ["image"]
    queue.succeed("image", None)
    assert drain(queue) == ["latent"]


def test_a_failing_unit_pauses_twice_as_long_each_time_and_is_given_up_at_the_fourth_attempt():
    queue = UnitQueue([Unit("a", 0)], retry_delay=1.0)
    now = 100.0
    for pause in (1.0, 2.0, 4.0):
        assert queue.take(now).id == "a"
        assert queue.fail("a", "E: x", now=now) == []
        assert queue.next_retry(now) == pause
        assert queue.take(now + pause - 0.01) is None
        now += pause
    assert queue.take(now).id == "a"
    (outcome,) = queue.fail("a", "E: x", now=now, seconds=2.0, worker="w", node="n", trace="t")
    assert outcome == Outcome(Unit("a", 0), None, "E: x", 4, 2.0, "w", "n", "t", causes=("E: x",) * 4)
    assert queue.finished and queue.completed == 0 and queue.remaining == 0


def test_others_run_while_a_unit_waits_for_its_retry():
    queue = UnitQueue([Unit("a", 0), Unit("b", 0)])
    queue.take(0.0)
    queue.fail("a", "E: x", now=0.0)
    assert queue.take(0.0).id == "b"


def test_a_lost_unit_is_ready_at_once_in_its_old_place_and_the_attempt_counts():
    queue = UnitQueue([Unit("a", 0), Unit("b", 0)])
    for _ in range(3):
        assert queue.take(0.0).id == "a"
        assert queue.lose("a", "worker lost") == []
    assert queue.take(0.0).id == "a"
    (outcome,) = queue.lose("a", "worker lost")
    assert (outcome.error, outcome.attempts) == ("worker lost", 4)


def test_what_depends_on_a_failed_unit_comes_out_as_not_run_naming_its_cause():
    units = [
        Unit("a", 0),
        Unit("b", 0, after=("a",)),
        Unit("c", 0, after=("b", "d")),
        Unit("d", 0),
        Unit("e", 0, after=("d",)),
    ]
    queue = UnitQueue(units, max_attempts=1)
    queue.take(0.0)
    outcomes = queue.fail("a", "E: x", now=0.0)
    assert [(o.unit.id, o.error, o.attempts) for o in outcomes] == [
        ("a", "E: x", 1),
        ("b", "not run: a failed", 0),
        ("c", "not run: b failed", 0),
    ]
    assert queue.take(0.0).id == "d"
    queue.succeed("d", None)
    assert drain(queue) == ["e"]  # and not c, although its other dependency succeeded


@pytest.mark.parametrize(
    ("units", "text"),
    [
        ([Unit("a", 0), Unit("a", 0)], "unit id 'a' is given twice; ids must be unique in one run."),
        ([Unit("a", 0, after=("z",))], "unit 'a' comes after 'z', which is not a unit of this run."),
        ([Unit("a", 0, after=("a",))], "units wait for each other in a cycle: a; no order can run them."),
        (
            [Unit("x", 0), Unit("a", 0, after=("b",)), Unit("b", 0, after=("a", "x"))],
            "units wait for each other in a cycle: a, b; no order can run them.",
        ),
    ],
)
def test_impossible_requests_are_refused(units, text):
    with pytest.raises(ValueError) as caught:
        UnitQueue(units)
    assert str(caught.value) == text


def test_only_a_running_unit_can_be_reported():
    queue = UnitQueue([Unit("a", 0)])
    with pytest.raises(ValueError, match="unit 'a' is not running; only a running unit can be reported"):
        queue.succeed("a", None)


@st.composite
def runs(draw):
    """A graph of up to 12 units and, per unit, how its attempts end."""
    count = draw(st.integers(0, 12))
    order = draw(st.permutations(range(count)))
    units = []
    for position, index in enumerate(order):
        earlier = order[:position]
        after = draw(st.sets(st.sampled_from(earlier), max_size=3)) if earlier else set()
        units.append(Unit(str(index), None, after=tuple(str(i) for i in after)))
    endings = {unit.id: draw(st.lists(st.sampled_from("sfl"), min_size=4, max_size=4)) for unit in units}
    return draw(st.permutations(units)), endings, draw(st.integers(1, 4))


@given(run=runs())
def test_every_unit_comes_out_once_and_never_before_what_it_comes_after(run):
    units, endings, num_workers = run
    queue, now = UnitQueue(units), 0.0
    running, outcomes, succeeded = [], [], set()
    while not queue.finished:
        while len(running) < num_workers and (unit := queue.take(now)) is not None:
            assert set(unit.after) <= succeeded
            running.append(unit)
        assert queue.in_flight == len(running)
        if not running:
            now += queue.next_retry(now)  # nothing runs and nothing is ready: only a retry can be left
            continue
        unit = running.pop()
        ending = endings[unit.id][queue.attempts(unit.id) - 1]
        if ending == "s":
            outcomes.append(queue.succeed(unit.id, None))
            succeeded.add(unit.id)
        elif ending == "f":
            outcomes += queue.fail(unit.id, "E: x", now=now)
        else:
            outcomes += queue.lose(unit.id, "lost")
    assert sorted(o.unit.id for o in outcomes) == sorted(unit.id for unit in units)
    assert {o.unit.id for o in outcomes if o.error is None} == succeeded
    assert queue.completed == len(succeeded)
    for outcome in outcomes:
        never_ran = any(name not in succeeded for name in outcome.unit.after)
        assert never_ran == (outcome.attempts == 0)
