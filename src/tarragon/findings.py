"""What an examination of an index tells: frozen values, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

Severity: TypeAlias = Literal["ok", "note", "warning", "fault"]
"""``fault``: answers are wrong, or chunks cannot be found. ``warning``: answers are probably worse than they could be.
``note``: worth knowing, and nothing needs doing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What; the same in every examination.
        severity: How bad it is.
        sentence: What was found, with figures.
        remedy: What to do about it; empty where nothing needs doing.
        data: The figures, by name.
    """

    name: str
    severity: Severity
    sentence: str
    remedy: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unknown:
    """One thing that could not be looked at, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Examination:
    """What `examine` found.

    Attributes:
        path: The index.
        version: The version that was examined.
        documents: Documents that can be found.
        chunks: Chunks that can be found.
        findings: In a fixed order.
        skipped: What could not be looked at, by name: why.
        seconds: Wall time.
    """

    path: str
    version: str
    documents: int
    chunks: int
    findings: tuple[Finding, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def severity(self) -> Severity:
        """Of the worst finding."""
        return max((finding.severity for finding in self.findings), key=get_args(Severity).index, default="ok")

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is worse than a note."""
        return self.severity in ("ok", "note")

    def finding(self, name: str) -> Finding | None:
        """The finding of this name; None if it could not be looked at."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, severity and health included, ready for JSON."""
        return {**asdict(self), "severity": self.severity, "is_healthy": self.is_healthy}
