"""Findings about the data of a subject, reported to the user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Finding:
    """A fault or a note about one subject.

    Attributes:
        subject_id: subject identifier.
        file: what the finding is about: one or several file names, ``the training box`` or ``the mask``.
        problem: predicate that follows ``file``, such as ``is truncated``.
        remedy: what the user can do.
        is_fault: True if the subject cannot be used; False for a note.
    """

    subject_id: str
    file: str
    problem: str
    remedy: str
    is_fault: bool = True

    def __str__(self) -> str:
        """Return the finding as a clause: subject, file, problem and remedy."""
        return f"subject '{self.subject_id}': {self.file} {self.problem}: {self.remedy}"


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings where those about several files of a subject with one problem and remedy are one.

    >>> print(*merged(Finding("a", f"a-{name}.nii.gz", "is truncated", "copy it again") for name in ("t1c", "t2w")))
    subject 'a': a-t1c.nii.gz (and 1 more file) is truncated: copy it again
    """
    alike: dict[Finding, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(replace(finding, file=""), []).append(finding)
    return [
        replace(first, file=f"{first.file} (and {len(others)} more file{'s' if len(others) > 1 else ''})")
        if others
        else first
        for first, *others in alike.values()
    ]
