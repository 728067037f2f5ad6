"""A run that was asked to stop ends with a status of its own, so that a script knows to run it again."""

import signal

import pytest

from taba_core.store import Store
from workflows.__main__ import main
from workflows.studies.correlation import Correlation

RUN = [
    "run",
    "correlation",
    "--model",
    "gaussian",
    "--executor",
    "local",
    "--no-report",
    "--set",
    "num_samples=8",
]


def test_the_drain_file_of_an_allocation_stops_a_run_with_status_85(tmp_path, monkeypatch, capsys):
    drain = tmp_path / "drain"
    drain.touch()
    monkeypatch.setenv("TABA_DRAIN_FILE", str(drain))
    with pytest.raises(SystemExit) as stop:
        main([*RUN, "--store", str(tmp_path / "store")])
    assert stop.value.code == 85
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"taba: stopped by the file {drain}: 0 units finished, 2 left to do; "
        "finished shards are stored, the same command resumes."
    )
    drain.unlink()
    main_ends_with(0, [*RUN, "--store", str(tmp_path / "store")])


def test_no_study_is_begun_once_the_drain_file_is_there(tmp_path, monkeypatch, capsys):
    drain, store = tmp_path / "drain", tmp_path / "store"
    analyse = Correlation.analyse

    def ask_to_stop(self, *arguments):
        drain.touch()
        return analyse(self, *arguments)

    monkeypatch.setenv("TABA_DRAIN_FILE", str(drain))
    monkeypatch.setattr(Correlation, "analyse", ask_to_stop)
    both = ["run", "correlation", "regions", *RUN[2:], "--store", str(store)]
    main_ends_with(85, both)
    assert capsys.readouterr().err.startswith(
        f"taba: stopped by the file {drain}; finished shards are stored"
    )
    assert [name.split("-")[1] for name in Store.open(store).results()] == ["correlation"]
    drain.unlink()
    main_ends_with(0, both)


@pytest.mark.parametrize("moment", ("check_all", "run_plans"))
def test_ctrl_c_at_any_moment_is_status_85_and_not_typers_130(moment, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        # A process started in the background, as test processes are, inherits that SIGINT is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(
        {
            "check_all": "workflows.execution.run.check_all",
            "run_plans": "workflows.execution.engine.run_plans",
        }[moment],
        interrupt,
    )
    main_ends_with(85, [*RUN, "--store", str(tmp_path / "store")])
    assert "taba: stopped; finished shards are stored" in capsys.readouterr().err


def main_ends_with(status, arguments):
    try:
        main(arguments)
    except SystemExit as end:
        assert (end.code or 0) == status
    else:
        assert status == 0
