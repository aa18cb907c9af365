"""A fingerprint: what determines a job's numbers, as digests by name, and how two fingerprints differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from crossmodal_bench.core.validation import Model, WholeNumber

Kind = Literal["sources", "settings", "protocols", "libraries"]

_SHOWN = 3
"""How many names a clause lists."""


@dataclass(frozen=True)
class Difference:
    """One way in which two fingerprints differ, and a clause that describes it: "torch 2.9 → 2.10"."""

    kind: Kind
    text: str


class Fingerprint(Model):
    """Digests by name, so that a comparison of two shows where they differ.

    Attributes:
        scheme: of the digests.
        modules: the import closure of the classes that a configuration names and of the worker.
        files: the non-Python files that these modules read.
        libraries: the versions of libraries that they import, as major.minor.
        settings: the resolved configuration, by dotted key.
        protocols: by name.
    """

    scheme: WholeNumber
    modules: dict[str, str]
    files: dict[str, str]
    libraries: dict[str, str]
    settings: dict[str, str]
    protocols: dict[str, str]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over all of it."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, today: Fingerprint) -> list[Difference]:
        """What is different today, old versions named first; empty if nothing relevant is.

        A protocol that only one of them has does not affect the numbers under the others.
        """
        if self.scheme != today.scheme:
            return [Difference("sources", "the sources cannot be compared: another version hashed them")]
        found = [
            *(Difference("sources", text) for text in _changes(self.modules, today.modules)),
            *(Difference("sources", text) for text in _changes(self.files, today.files)),
        ]
        settings = _differing(self.settings, today.settings)
        if settings:
            found.append(Difference("settings", f"settings differ: {_listed(settings)}"))
        protocols = [
            name
            for name in _differing(self.protocols, today.protocols)
            if name in self.protocols.keys() & today.protocols.keys()
        ]
        if protocols:
            found.append(Difference("protocols", f"protocol {_listed(protocols)} has changed"))
        found += [
            Difference(
                "libraries",
                f"{name} {self.libraries.get(name, 'not used')} → {today.libraries.get(name, 'not used')}",
            )
            for name in _differing(self.libraries, today.libraries)
        ]
        return found


def _differing(before: Mapping[str, str], today: Mapping[str, str]) -> list[str]:
    return [name for name in sorted({**before, **today}) if before.get(name) != today.get(name)]


def _changes(before: Mapping[str, str], today: Mapping[str, str]) -> Iterator[str]:
    """Clauses for what has changed, what is new, and what is gone."""
    changed = [name for name in _differing(before, today) if name in before and name in today]
    if changed:
        yield f"{_listed(changed)} {'has' if len(changed) == 1 else 'have'} changed"
    for names, what in ((today.keys() - before.keys(), "new"), (before.keys() - today.keys(), "gone")):
        if names:
            yield f"{_listed(sorted(names))} {'is' if len(names) == 1 else 'are'} {what}"


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    first = list(names[:_SHOWN])
    more = len(names) - len(first)
    if more:
        return f"{', '.join(first)} and {more} more"
    return f"{', '.join(first[:-1])} and {first[-1]}" if len(first) > 1 else first[0]
