"""No message names a way out that no test follows: the sources are compared with the marks of the tests."""

from __future__ import annotations

from remedy_messages import ROOT, followed, remedies

# Literals that hold a verb and order nothing.
NO_ORDER = {
    "run \0 (process \0 on \0": "names a run; it stands within messages that are followed",
    "; start of the nodes counted with ": "says how a simulation counts",
    "`taba run` here would refuse: ": "repeats the refusal of a run",
    " (started ": "names a run in `taba status`",
    "`taba run` to its first unit": "names a benchmark",
    "made by `taba run training --model ": "says where the weights of a network come from",
    "Fields for --set (field=value, repeatable): ": "the last paragraph of a command's help",
    "trained in the store (`taba train`)": "says where the weights of a network come from",
    "\0 (`taba fetch \0`)": "says where the weights of a network come from",
    "bring the rest back with at most half the ": "states a claim",
    "` ended with ": "of a benchmark whose command failed; the command's own message follows",
}
# Orders that cannot be followed where tests run, each with the reason.
NOT_HERE = {
    "names a file; use letters, digits, '-', '_' and '.'.": "a mistake in a study's code, which no input causes",
    "provenance \0; use one of ": "a mistake in a study's code, which no input causes",
    ": verdict \0; use one of ": "a mistake in a study's code, which no input causes",
    "s of a grid; give all or none.": "a mistake in a study's code, which no input causes",
    "conditioning=class: \0 has no classes; use none.": "the configuration refuses the same before; followed there",
    " classes; use draws=counter.": "the configuration refuses the same before; followed there",
    "has no API to ask; --live is for slurm/cluster.sh.": "needs Ray's dashboard on a cluster that Slurm started",
    "CLIP-T and CLIPScore were not asked for: ": "needs CLIP's weights; the tests of CLIP's columns ask by that option",
    "stop it": "of a lease without a name, where no command can be named; with a name it is followed",
}


def test_every_message_that_names_a_way_out_has_a_test_that_follows_it():
    known = [*followed(), *NO_ORDER, *NOT_HERE]
    left = [str(message) for message in remedies() if not any(map(message.holds, known))]
    assert not left, "mark the test that follows it: @pytest.mark.follows(part of the message)\n" + "\n".join(
        left
    )


def test_every_fragment_is_one_of_a_message_that_is_still_there():
    messages = remedies()
    for fragment in [*followed(), *NO_ORDER, *NOT_HERE]:
        assert any(message.holds(fragment) for message in messages), fragment


def test_the_reader_of_the_sources_finds_what_is_plainly_there():
    found = {message.place for message in remedies()}
    assert {"taba_core/store/lease.py", "cluster/ray/address.py", "workflows/planning/budget.py"} <= found
    assert len(remedies()) > 90 and (ROOT / "workflows").is_dir()
