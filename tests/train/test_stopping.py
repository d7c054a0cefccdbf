import os
import signal
import threading
from pathlib import Path

import pytest

from luthier.train import stopping
from luthier.train.stopping import StopRequest, listening


def test_without_a_wish_there_is_no_reason(tmp_path: Path) -> None:
    assert StopRequest().reason() is None
    assert StopRequest(tmp_path / "STOP", 3600).reason() is None


@pytest.mark.parametrize(("number", "reason", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_signal_becomes_a_reason_and_an_error_with_the_command_that_goes_on(number: int, reason: str, code: int) -> None:
    """A3 A5."""
    before = signal.getsignal(number)
    with listening() as stop:
        os.kill(os.getpid(), number)
        assert stop.signal == number and stop.reason() == reason
    assert signal.getsignal(number) is before
    error = stop.error("luthier run recipe.toml")
    assert error.exit_code == code
    assert str(error) == f"stopped ({reason}); everything is saved\n  go on with: luthier run recipe.toml"
    assert stop.error().fix == "run the same command again to go on"


def test_a_second_ctrl_c_stops_at_once() -> None:
    """A4."""
    with listening() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason() == "Ctrl-C"
        os.kill(os.getpid(), signal.SIGINT)


def test_the_first_signal_decides() -> None:
    """A5."""
    stop = StopRequest()
    stop.handle(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGINT, None)
    stop.handle(signal.SIGTERM, None)
    assert stop.error().exit_code == 143


def test_a_stop_file_is_a_reason_that_outlives_the_file(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path / "STOP")
    (tmp_path / "STOP").touch()
    assert stop.reason() == "the STOP file"
    stop.clear()
    stop.clear()
    assert not (tmp_path / "STOP").exists() and stop.reason() == "the STOP file" and stop.error().exit_code == 130
    assert StopRequest(tmp_path / "STOP").reason() is None


@pytest.mark.parametrize(("seconds", "text"), [(7200, "2h"), (90, "1m30s"), (5400, "1h30m"), (86_400, "1d"), (2.5, "2.5s"), (0, "0s")])
def test_a_time_budget_is_used_up_by_the_monotonic_clock(seconds: float, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A6."""
    clock = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(stopping.time, "time", lambda: 1e12)
    stop = StopRequest(seconds=seconds)
    clock[0] += seconds - 1e-3
    assert stop.reason() is None
    clock[0] += 2e-3
    assert stop.reason() == f"the time budget of {text} is used up"


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with listening(StopRequest()) as stop:
            seen.append((stop.reason(), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
