"""Makes the helpers of this folder importable under importlib import mode, and stores that are made once."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import stores

from menvae.tracking.mlflow import store
from menvae.tracking.tracker import TrackingSettings


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs: creating one takes seconds."""
    output_dir = tmp_path_factory.mktemp("empty")
    settings = TrackingSettings()
    store.open_experiment(store.tracking_uri(settings, output_dir), "other", output_dir)
    return output_dir / "mlflow.db"


@pytest.fixture
def output_dir(tmp_path: Path, empty_store: Path) -> Path:
    """A folder with a store that has no runs yet."""
    return stores.copy_of(empty_store, tmp_path / "outputs")


@pytest.fixture(scope="session")
def sweep_dir(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder with a store of 12 configurations with 3 seeds each; not to be changed."""
    output_dir = stores.copy_of(empty_store, tmp_path_factory.mktemp("sweep"))
    pictures = output_dir / "a_picture"
    stores.write_picture(pictures / "latent_scatter.png")
    stores.write_picture(pictures / "epoch_15" / "subject.png")
    stores.fill(output_dir, stores.sweep(pictures))
    return output_dir
