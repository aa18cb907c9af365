"""Whether runs go to Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.reporting.wandb.mode import logged_in, named_mode, resolve_mode

pytestmark = pytest.mark.usefixtures("no_account")


@pytest.mark.parametrize(
    ("setting", "environment", "key", "mode"),
    [
        ("auto", {}, False, "offline"),
        ("auto", {}, True, "online"),
        ("auto", {"WANDB_MODE": "offline"}, True, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, True, "off"),
        ("auto", {"WANDB_MODE": "online"}, True, "online"),
        ("offline", {"WANDB_MODE": "online"}, True, "offline"),
        ("online", {"WANDB_MODE": "offline"}, True, "online"),
        ("off", {"WANDB_MODE": "online"}, True, "off"),
    ],
)
def test_modes(
    setting: str, environment: dict[str, str], key: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (environment | ({"WANDB_API_KEY": "k" * 40} if key else {})).items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(setting) == mode


def test_modes_that_cannot_be_are_refused_before_anything_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="did you mean 'offline'"):
        resolve_mode("ofline")
    with pytest.raises(BadInput, match="wandb login"):
        resolve_mode("online")
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(BadInput, match=r"WANDB_MODE.*did you mean 'online'"):
        resolve_mode("auto")


@pytest.mark.parametrize(
    ("setting", "environment", "named"),
    [
        ("auto", "", None),
        ("auto", "dryrun", "offline"),
        ("auto", "disabled", "off"),
        ("off", "online", "off"),
    ],
)
def test_what_is_spelled_out_is_known_without_asking_for_a_login(
    setting: str, environment: str, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", environment)
    assert named_mode(setting) == named


def test_a_netrc_entry_counts_for_the_host_that_wandb_talks_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://tracker.example:8080")
    netrc = Path(os.environ["NETRC"])
    netrc.write_text("machine elsewhere.example login user password " + "p" * 40 + "\n")
    assert not logged_in()
    netrc.write_text("machine tracker.example:8080 login user password " + "p" * 40 + "\n")
    assert logged_in()
    netrc.write_text("machine tracker.example:8080 nonsense\n")
    assert not logged_in()
