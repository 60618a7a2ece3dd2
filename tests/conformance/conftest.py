"""What parts under test find on disk."""

import pytest
from pretrained import CHECKPOINT, pretrained, write


@pytest.fixture(autouse=True, scope="session")
def _pretrained_checkpoint() -> None:
    write(CHECKPOINT, pretrained().state_dict())
