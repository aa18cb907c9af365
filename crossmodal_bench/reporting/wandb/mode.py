"""Whether runs go to Weights & Biases, from ``WANDB``, the environment and the login."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

from crossmodal_bench.core.errors import BadInput, nearest

Mode = Literal["online", "offline", "off"]

_ENVIRONMENT_MODES: Mapping[str, Mode] = {
    "online": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "off",
}

MEDIA = "CROSSMODAL_BENCH_WANDB_MEDIA"
"""Environment variable that is set if W&B gets captions and pictures of any data set; helper processes of a
bench and cluster jobs inherit it."""


def allow_media(*, allowed: bool) -> None:
    """Let runs written from now on include captions and pictures whatever the data's licence."""
    if allowed:
        os.environ[MEDIA] = "1"
    else:
        os.environ.pop(MEDIA, None)


def are_media_allowed() -> bool:
    """Whether runs may include captions and pictures of any data."""
    return MEDIA in os.environ


def resolve_mode(setting: str) -> Mode:
    """The meaning of the ``WANDB`` setting: ``online``, ``offline`` or ``off``.

    ``auto`` follows ``WANDB_MODE`` in the environment; without it, it means ``online`` if logged in and
    ``offline`` otherwise (``wandb sync`` uploads later). An explicit setting takes precedence over the
    environment. Raises ``BadInput`` for an unknown setting, and for ``online`` without a login: W&B would
    otherwise stop the bench after its first job to ask for a key.
    """
    named = named_mode(setting)
    if named is None:
        return "online" if logged_in() else "offline"
    if named == "online" and not logged_in():
        raise BadInput("W&B is set to online but no key was found: run `wandb login`, or set WANDB=offline")
    return named


def named_mode(setting: str) -> Mode | None:
    """The explicit mode of the setting, or else of ``WANDB_MODE``; None if neither has one.

    Fast, unlike checking the login. Raises ``BadInput`` for an unknown mode.
    """
    settings = ("auto", *get_args(Mode))
    if setting not in settings:
        raise BadInput(f"WANDB is '{setting}', which is not a mode{nearest(setting, settings)}")
    if setting != "auto":
        return cast(Mode, setting)
    named = os.environ.get("WANDB_MODE", "").strip().lower()
    if named and named not in _ENVIRONMENT_MODES:
        raise BadInput(f"WANDB_MODE is '{named}', which is not a mode{nearest(named, _ENVIRONMENT_MODES)}")
    return _ENVIRONMENT_MODES.get(named)


def logged_in() -> bool:
    """Whether W&B has a key for its server: in the environment, in its settings, or in the netrc file.

    The server is the one in W&B's own settings; asks, prints and sends nothing.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        import wandb

        settings = wandb.setup().settings
        host = urlsplit(settings.base_url).netloc
        key = settings.api_key
        wandb.teardown()
        if key:
            return True
        path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
        entry = netrc.netrc(path).authenticators(host)
    # Whatever is wrong with W&B or the netrc file, offline always works.
    except Exception:
        return False
    return bool(entry and entry[2])
