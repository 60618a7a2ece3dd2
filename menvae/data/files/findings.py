"""Findings about the data of a subject, reported to the user."""

from __future__ import annotations

from dataclasses import dataclass


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
