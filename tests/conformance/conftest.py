"""What parts under test find on disk."""

import pytest
from pretrained import CHECKPOINT, TRANSFORMER, pretrained, transformer, write, write_transformer


@pytest.fixture(autouse=True, scope="session")
def _pretrained_encoders() -> None:
    write(CHECKPOINT, pretrained().state_dict())
    write_transformer(TRANSFORMER, transformer())
