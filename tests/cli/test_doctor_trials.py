"""The server of its own that ``xinfer doctor`` tries engines on, where it cannot be had."""

import signal
import tempfile
from pathlib import Path

import pytest

from xinfer.cli import doctor_trials
from xinfer.cli.doctor_trials import private_server
from xinfer.errors import XinferError
from xinfer.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", token_file=tmp_path / "token")


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(doctor_trials, "MAIN", "raise SystemExit('no port is left')")
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(XinferError, match=r"does not start:\nno port is left"),
        private_server(settings, lambda *_: None),
    ):
        pytest.fail("it does not come as far as this")
    assert signal.getsignal(signal.SIGTERM) == before
    assert list(tmp_path.glob("xinfer-doctor-*")) == []
