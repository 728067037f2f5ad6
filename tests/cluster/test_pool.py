"""The rules of the pool, each against the failure it answers; workers are scripted and the clock is set by hand."""

import math

import pytest

from cluster import Drained, Limits, Node, NoWorkers, Resources, StopRun, Unit
from cluster.pool.backend import Answer, Reply
from cluster.pool.drive import drive
from cluster.pool.pool import Pool
from cluster.pool.unit_queue import UnitQueue

NEVER = math.inf


class Scripted:
    """Workers that do what `how(worker, unit id)` says: seconds to an answer, or what it raises; a clock."""

    prefix = "w"
    overlap = True

    def __init__(self, *hosts, slots=1, how=lambda worker, unit: 1.0, load=lambda worker, node: 1.0):
        self.alive = {host: Node(host, host, {"CPU": float(slots)}) for host in hosts}
        self.how, self.load = how, load
        self.time, self.due, self.log, self.stopped, self.listed = 0.0, [], [], [], []
        self.at = {}  # time -> what to do then

    def now(self):
        return self.time

    def nodes(self):
        self.listed.append(self.time)
        return list(self.alive.values())

    def start(self, worker, node):
        self.log.append((self.time, "start", worker, node.host))
        self._owe(worker, "", self.load(worker, node.host))

    def give(self, worker, unit):
        self.log.append((self.time, "give", worker, unit.id))
        self._owe(worker, unit.id, self.how(worker, unit.id))

    def finish(self, worker, unit_id):
        self.log.append((self.time, "finish", worker, unit_id))
        self._owe(worker, unit_id, self.how(worker, unit_id + "/finish"))

    def poll(self, timeout):
        until = self.time + timeout
        for when in sorted(when for when in self.at if when <= until):
            self.at.pop(when)()
        ready = [when for when, _, _ in self.due if when <= until]
        self.time = min(ready, default=until)
        answers = [answer for when, _, answer in self.due if when <= self.time]
        self.due = [entry for entry in self.due if entry[0] > self.time]
        return answers

    def stop(self, worker):
        self.stopped.append(worker)
        self.due = [entry for entry in self.due if entry[1] != worker]

    def of(self, kind):
        return [entry for entry in self.log if entry[1] == kind]

    def _owe(self, worker, unit_id, how):
        seconds, answer = 1.0, Answer(worker, unit_id, Reply(result=unit_id, seconds=1.0))
        if isinstance(how, float):
            seconds = how
        elif how == "dies":
            answer = Answer(worker, unit_id, None, "ActorDiedError: gone")
        elif how == "finishing":
            answer = Answer(worker, unit_id, Reply(finishing=True))
        else:
            answer = Answer(worker, unit_id, Reply(**how))
        self.due.append((self.time + seconds, worker, answer))


class Never:
    reason = None


def run(backend, ids, limits=Limits(), **options):
    """Outcomes by unit, and the events."""
    events = []
    queue = UnitQueue([Unit(name, None) for name in ids], retry_delay=0.1)
    pool = Pool(backend, Resources(), None, limits, on_event=events.append, **options)
    outcomes = {o.unit.id: o for o in drive(queue, pool, backend, Never(), events.append)}
    return outcomes, events


def kinds(events, *wanted):
    return [(e.kind, e.worker or e.node) for e in events if e.kind in wanted]


def test_a_worker_that_its_node_never_places_gets_no_unit_and_holds_nothing_up():
    backend = Scripted("good", "gone", load=lambda worker, node: 1.0 if node == "good" else NEVER)
    outcomes, _ = run(backend, "abcdef")
    assert {worker for _, _, worker, _ in backend.of("give")} == {"w-0"}
    assert all(o.error is None for o in outcomes.values()) and backend.time == 1 + 6


def test_a_worker_that_takes_too_long_to_start_is_replaced():
    backend = Scripted("n", load=lambda worker, node: NEVER if worker == "w-0" else 1.0)
    _, events = run(backend, "a", Limits(load=10.0))
    assert kinds(events, "worker-lost", "worker-ready") == [("worker-lost", "w-0"), ("worker-ready", "w-1")]
    assert 10 < backend.of("start")[1][0] <= 12


def test_nodes_are_listed_every_two_seconds_and_a_new_one_is_used_by_then():
    backend = Scripted("first", how=lambda worker, unit: 3.0)
    backend.at[7.0] = lambda: backend.alive.update(second=Node("second", "second", {"CPU": 1.0}))
    _, events = run(backend, [f"u{i}" for i in range(10)])
    assert all(2.0 <= b - a <= 2.6 for a, b in zip(backend.listed, backend.listed[1:], strict=False))
    (joined,) = [when for when, _, _, node in backend.of("start") if node == "second"]
    assert 7.0 <= joined <= 9.0
    assert kinds(events, "node-joined") == [("node-joined", "first"), ("node-joined", "second")]


def test_a_node_that_is_gone_gives_its_units_back_and_they_run_elsewhere():
    backend = Scripted("a", "b", how=lambda worker, unit: 5.0)
    backend.at[3.0] = lambda: backend.alive.pop("b")
    outcomes, events = run(backend, ["u", "v", "w"])
    assert {o.node for o in outcomes.values()} == {"a"}
    assert sorted(o.attempts for o in outcomes.values()) == [1, 1, 2]
    assert kinds(events, "node-lost", "worker-lost") == [("node-lost", "b"), ("worker-lost", "w-1")]


def test_an_unavailable_worker_is_ended_at_once_and_its_unit_given_to_another():
    backend = Scripted("n", how=lambda worker, unit: "dies" if worker == "w-0" else 1.0)
    outcomes, _ = run(backend, "a")
    assert backend.stopped[0] == "w-0" and outcomes["a"].worker == "w-1"


def test_a_node_is_given_up_after_six_failed_loads_and_others_go_on():
    backend = Scripted("good", "bad", load=lambda worker, node: "dies" if node == "bad" else 1.0)
    _, events = run(backend, [f"u{i}" for i in range(40)])
    assert sum(node == "bad" for _, _, _, node in backend.of("start")) == 6
    assert kinds(events, "node-banned") == [("node-banned", "bad")]


def test_a_load_that_works_clears_a_nodes_record():
    def load(worker, node):
        return 1.0 if int(worker[2:]) % 5 == 0 else "dies"

    backend = Scripted("n", load=load, how=lambda worker, unit: "dies" if unit == "bad" else 1.0)
    outcomes, events = run(backend, ["bad", "fine"])
    assert len(backend.of("start")) > 6 and not kinds(events, "node-banned")
    assert outcomes["fine"].error is None


def test_a_run_ends_when_every_node_was_given_up():
    with pytest.raises(NoWorkers, match="the first failed on n: ActorDiedError: gone"):
        run(Scripted("n", load=lambda worker, node: "dies"), "a")


def test_a_worker_that_says_why_it_cannot_be_built_is_asked_twice():
    backend = Scripted("n", load=lambda worker, node: {"error": "KeyError: weights"})
    with pytest.raises(NoWorkers, match="the first failed on n: KeyError: weights"):
        run(backend, "a")
    assert len(backend.of("start")) == 2


def test_a_unit_that_kills_every_worker_is_quarantined_with_its_causes_and_bans_no_node():
    backend = Scripted("a", "b", how=lambda worker, unit: "dies" if unit == "poison" else 1.0)
    outcomes, events = run(backend, ["poison", *"bcdefg"])
    poison = outcomes.pop("poison")
    assert poison.attempts == 4
    assert all(cause.endswith(" lost: ActorDiedError: gone") for cause in poison.causes)
    assert len(set(c.split()[1] for c in poison.causes)) == 4  # four workers
    assert all(o.error is None for o in outcomes.values())
    assert not kinds(events, "node-banned")
    assert [e.attempt for e in events if e.unit == "poison" and e.kind == "unit-started"] == [1, 2, 3, 4]
    assert [e.kind for e in events if e.unit == "poison"][-1] == "unit-failed"


def test_a_neighbour_of_a_unit_that_kills_its_worker_is_lost_once_at_most():
    def how(worker, unit):
        if unit == "poison":
            return "dies"
        return 1.5 if unit.endswith("/finish") else "finishing"

    outcomes, _ = run(Scripted("n", how=how), ["a", "poison", "c", "d"])
    assert outcomes["poison"].attempts == 4
    assert outcomes["a"].error is None and outcomes["a"].attempts == 2  # was being written the first time
    assert [outcomes[name].attempts for name in "cd"] == [1, 1]


def test_a_worker_computes_one_unit_beside_one_that_finishes_and_no_third():
    def how(worker, unit):
        return 5.0 if unit.endswith("/finish") else "finishing"

    backend = Scripted("n", how=how)
    run(backend, "abc")
    # Ready at 1; a computes 1-2 and is written 2-7; b computes 2-3. Only when a is written may c start.
    assert [entry[0] for entry in backend.of("give")] == [1.0, 2.0, 7.0]


def test_an_idle_worker_is_preferred_to_one_that_still_finishes():
    def how(worker, unit):
        return 9.0 if unit.endswith("/finish") else "finishing"

    backend = Scripted("a", "b", how=how)
    run(backend, "abc")
    gives = {unit: worker for _, _, worker, unit in backend.of("give")}
    assert gives["a"] != gives["b"]


def test_a_late_unit_is_ended_with_its_worker_and_given_four_times_as_long():
    backend = Scripted("n", how=lambda worker, unit: NEVER if unit == "slow" and worker == "w-0" else 30.0)
    outcomes, events = run(backend, ["slow"], Limits(unit_first=20.0))
    # 20 s were too few; the second attempt may take 80 s and needs 30.
    assert outcomes["slow"].attempts == 2 and outcomes["slow"].error is None
    (lost,) = [e for e in events if e.kind == "worker-lost"]
    assert lost.detail == "ended after 20 s without an answer"


def test_a_spoiled_process_is_not_used_again_and_what_it_was_writing_runs_again():
    def how(worker, unit):
        if unit == "oom" and worker == "w-0":
            return {"error": "OutOfMemoryError: CUDA", "poisoned": True}
        return 9.0 if unit.endswith("/finish") else "finishing"

    outcomes, events = run(Scripted("n", how=how), ["a", "oom"])
    assert (outcomes["a"].attempts, outcomes["oom"].attempts) == (2, 2)
    assert {o.worker for o in outcomes.values()} == {"w-1"}
    (lost,) = [e for e in events if e.kind == "worker-lost"]
    assert lost.detail == "its process cannot be trusted after OutOfMemoryError: CUDA"


def test_few_workers_spread_over_the_nodes():
    backend = Scripted("a", "b", "c", slots=8)
    run(backend, "uvw")
    assert [node for _, _, _, node in backend.of("start")] == ["a", "b", "c"]


def test_no_more_workers_are_started_than_units_are_left():
    backend = Scripted("n", slots=8)
    run(backend, "uv")
    assert len(backend.of("start")) == 2


def test_stop_run_from_a_write_ends_the_run():
    with pytest.raises(StopRun, match=r"^disk full$"):
        run(Scripted("n", how=lambda worker, unit: {"error": "disk full", "stop": True}), "a")


def test_a_cluster_without_room_is_waited_for_a_while_and_then_described():
    backend = Scripted("small", slots=0)
    with pytest.raises(
        NoWorkers, match=r"no node has room for a worker that holds 1 CPU, 0 GPU: small has 0 CPU"
    ):
        run(backend, "a", Limits(empty=30.0))
    assert 30 <= backend.time <= 33


def test_events_tell_the_whole_story_of_a_unit():
    replies = iter([{"error": "OSError: x", "seconds": 2.0}, 1.0])
    _, events = run(Scripted("n", how=lambda worker, unit: next(replies)), "a")
    story = [(e.kind, e.attempt, e.worker, e.node, e.detail, e.seconds) for e in events if e.unit == "a"]
    assert story == [
        ("unit-started", 1, "w-0", "n", "", 0.0),
        ("unit-retry", 1, "w-0", "n", "OSError: x", 2.0),
        ("unit-started", 2, "w-0", "n", "", 0.0),
        ("unit-finished", 2, "w-0", "n", "", 1.0),
    ]


def test_workers_have_their_next_units_before_an_outcome_is_yielded_and_those_that_came_together_say_so():
    backend = Scripted("n", slots=3)
    queue = UnitQueue([Unit(f"u{i}", None) for i in range(7)])
    pool = Pool(backend, Resources(), None, Limits())
    seen = []
    for outcome in drive(queue, pool, backend, Never()):
        seen.append((outcome.unit.id, outcome.more, len(backend.of("give"))))
    # Three at a time; when the first three come, six have been handed out, then all seven.
    assert [more for _, more, _ in seen] == [True, True, False, True, True, False, False]
    assert [given for _, _, given in seen] == [6, 6, 6, 7, 7, 7, 7]


def test_a_backend_that_computes_in_the_drivers_thread_is_given_nothing_before_an_outcome_is_stored():
    backend = Scripted("n")
    backend.overlap = False
    queue = UnitQueue([Unit(f"u{i}", None) for i in range(3)])
    given = [
        len(backend.of("give"))
        for _ in drive(queue, Pool(backend, Resources(), None, Limits()), backend, Never())
    ]
    assert given == [1, 2, 3]


def test_nothing_is_handed_out_beside_outcomes_once_a_stop_was_asked():
    class Asked:
        reason = None

    backend, asked, outcomes = Scripted("n", slots=2), Asked(), []
    queue = UnitQueue([Unit(f"u{i}", None) for i in range(9)])
    backend.at[1.5] = lambda: setattr(asked, "reason", "SIGTERM")
    with pytest.raises(Drained):
        for outcome in drive(queue, Pool(backend, Resources(), None, Limits()), backend, asked):
            outcomes.append(outcome.unit.id)
    assert outcomes == ["u0", "u1"] and len(backend.of("give")) == 2
