"""What a user should know about the data of one subject."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that a user should know.

    Attributes:
        subject_id: whose file.
        file: what it is about: the name of a file, of several, or ``the box of training``.
        problem: what follows the name: ``is cut short``.
        remedy: what to do.
        is_fault: the subject cannot be used; False is a note.
    """

    subject_id: str
    file: str
    problem: str
    remedy: str
    is_fault: bool = True

    def __str__(self) -> str:
        """As part of a sentence."""
        return f"subject '{self.subject_id}': {self.file} {self.problem}: {self.remedy}"
