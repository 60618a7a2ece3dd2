import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from pretrained import transformer, write, write_transformer
from runs import only_run, train
from torch import Tensor

from menvae.composition.experiment import Experiment
from menvae.encoders.frozen_features import FrozenProjection
from menvae.encoders.frozen_slices import FrozenSlices
from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.presentation.planes import AXIAL, displayed_slice
from menvae.registry import bind
from menvae.runs.start import _start

LAYOUT = LatentLayout({"vol": 2, "residual": 3, "loc": 1})
SIZE = (16, 32, 48)
TRAINED = {"name": "resnet", "base_filters": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_transformer(tmp_path / "transformer", transformer())


def frozen(folder: Path, **settings: Any) -> FrozenSlices:
    torch.manual_seed(0)
    return FrozenSlices(2, SIZE, LAYOUT, **{"checkpoint": str(folder), "slices": 3, "trained": TRAINED, **settings})


def inputs(rows: int = 2) -> Tensor:
    return torch.randn(rows, 2, *SIZE)


def features_of_slices(model: Any, batch: Tensor, indices: list[int], side: int, **call: Any) -> Tensor:
    """Return the averaged class tokens, slice by slice: cut as it is displayed, resized by Pillow."""
    rows = []
    for subject in batch.numpy():
        tokens = []
        for modality in subject:
            images = [Image.fromarray(displayed_slice(modality, AXIAL, index).copy()) for index in indices]
            resized = [np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images]
            grey = torch.from_numpy(np.stack(resized))[:, None].repeat(1, 3, 1, 1)
            with torch.no_grad():
                tokens.append(model(pixel_values=grey, **call).last_hidden_state[:, 0].mean(dim=0))
        rows.append(torch.cat(tokens))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("Dinov2", {}),
        ("Dinov2WithRegisters", {}),
        ("DINOv3ViT", {}),
        ("ViT", {"interpolate_pos_encoding": True}),  # its pooler, which we do not build, is in the folder
    ],
)
@pytest.mark.parametrize("image_size", [None, 8, 40])
def test_features_are_the_class_tokens_of_slices(
    tmp_path: Path, kind: str, call: dict[str, bool], image_size: int | None
) -> None:
    model, batch = transformer(kind), inputs()
    encoder = frozen(write_transformer(tmp_path / "transformer", model), image_size=image_size)
    expected = features_of_slices(model, batch, [8, 24, 40], image_size or 16, **call)
    torch.testing.assert_close(encoder.features(batch)["frozen"], expected, rtol=1e-4, atol=1e-5)
    assert expected.std(dim=1).min() > 0.1


@pytest.mark.parametrize(("slices", "indices"), [(1, [24]), (4, [6, 18, 30, 42]), (48, list(range(48)))])
def test_slices_are_equidistant(folder: Path, slices: int, indices: list[int]) -> None:
    assert frozen(folder, slices=slices).frozen.trunk.positions.tolist() == indices


def test_residual_is_a_linear_map_of_the_features(folder: Path) -> None:
    encoder, batch = frozen(folder), inputs()
    mean, logvar = encoder(batch)
    features = features_of_slices(transformer(), batch, [8, 24, 40], 16)
    expected = features @ encoder.head.mean.weight.T + encoder.head.mean.bias
    torch.testing.assert_close(mean[:, 2:5], expected, rtol=1e-4, atol=1e-5)
    supervised, _ = encoder.trained(batch)
    torch.testing.assert_close(mean[:, [0, 1, 5]], supervised, rtol=1e-4, atol=1e-5)
    assert torch.equal(logvar, torch.full((2, 6), -3.0))


def test_missing_modality_is_0_and_the_others_are_as_before(folder: Path) -> None:
    encoder, batch = frozen(folder), inputs()
    whole = encoder.features(batch)["frozen"]
    batch[0, 1] = torch.nan
    available = torch.tensor([[True, False], [True, True]])
    found = encoder.features(batch, available)["frozen"]
    assert torch.equal(found[0, 16:], torch.zeros(16))
    torch.testing.assert_close(found[0, :16], whole[0, :16])
    torch.testing.assert_close(found[1], whole[1])
    nothing = encoder.features(batch.fill_(torch.nan), torch.zeros(2, 2, dtype=torch.bool))["frozen"]
    assert torch.equal(nothing, torch.zeros(2, 32))


def test_how_many_images_it_sees_at_once_does_not_matter(folder: Path) -> None:
    batch = inputs()
    expected = frozen(folder).features(batch)["frozen"]
    for images_at_once in (1, 5):
        found = frozen(folder, images_at_once=images_at_once).features(batch)["frozen"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_it_stays_as_it_is(folder: Path) -> None:
    encoder, batch = frozen(folder).train(), inputs()
    assert not any(module.training for module in encoder.frozen.modules())
    assert not list(encoder.frozen.parameters())
    before = {name: x.clone() for name, x in encoder.frozen.named_buffers()}
    weights = {name.removeprefix("trunk.model."): x for name, x in before.items() if "positions" not in name}
    assert all(torch.equal(weights.pop(name), x) for name, x in transformer().named_parameters())
    assert not weights
    assert not encoder.features(batch)["frozen"].requires_grad
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1)
    for _ in range(2):
        sum(x.square().sum() for x in encoder(batch)).backward()
        optimizer.step()
    assert all(torch.equal(before[name], x) for name, x in encoder.frozen.named_buffers())
    assert all(x.grad is not None for x in encoder.parameters())
    encoder.double()
    assert encoder(batch.double())[0].dtype == torch.float64  # and yet it moves with the model


def test_half_precision_is_float32_features_that_are_near(folder: Path) -> None:
    encoder, batch = frozen(folder), inputs()
    expected = encoder.features(batch)["frozen"]
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder.features(batch)["frozen"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_checkpoints_hold_a_digest_of_it_alone(folder: Path, tmp_path: Path) -> None:
    encoder = frozen(folder)
    own = {name: x for name, x in encoder.state_dict().items() if name.startswith("frozen.")}
    assert [(name, tuple(x.shape)) for name, x in own.items()] == [("frozen._extra_state", (32,))]
    path = write(tmp_path / "run.ckpt", encoder.state_dict())
    frozen(folder).load_state_dict(torch.load(path, weights_only=True))
    other = frozen(write_transformer(tmp_path / "other", transformer(seed=8)))
    with pytest.raises(RuntimeError, match=r"trained with frozen weights other than those of encoder\.checkpoint"):
        other.load_state_dict(encoder.state_dict())


def test_weights_may_lie_in_shards_and_in_half_precision(folder: Path, tmp_path: Path) -> None:
    batch = inputs()
    shards = write_transformer(tmp_path / "shards", transformer(), max_shard_size="8KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    encoder = frozen(shards)
    encoder.load_state_dict(frozen(folder).state_dict())  # the same digest
    torch.testing.assert_close(encoder.features(batch)["frozen"], frozen(folder).features(batch)["frozen"])
    half = write_transformer(tmp_path / "half", transformer().bfloat16())
    expected = features_of_slices(transformer().bfloat16().float(), batch, [8, 24, 40], 16)
    torch.testing.assert_close(frozen(half).features(batch)["frozen"], expected, rtol=1e-4, atol=1e-5)


def test_reading_it_is_silent_and_draws_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import transformers

    capfd.readouterr()
    verbosity = transformers.logging.get_verbosity()
    numbers = [frozen(folder).head.mean.weight, frozen(folder).head.mean.weight]
    torch.manual_seed(0)
    FrozenProjection(2, SIZE, LAYOUT, "residual", TRAINED)  # what draws before the head
    assert torch.equal(torch.nn.Linear(32, 3).weight, numbers[0])
    assert torch.equal(*numbers)
    assert capfd.readouterr() == ("", "")
    assert transformers.logging.get_verbosity() == verbosity


READ_FIRST = """
import sys
from pathlib import Path
import torch
from menvae.encoders.slices import load_vision_transformer
load_vision_transformer(Path(sys.argv[1]))
with torch.device("meta"):
    print(torch.linspace(0.0, 1.0, 3).device)
"""


def test_reading_it_leaves_torch_as_it_was(folder: Path) -> None:
    """In a process of its own: torch notes once which functions `torch.device` reaches."""
    told = subprocess.run(
        [sys.executable, "-c", READ_FIRST, str(folder)], capture_output=True, text=True, check=True, cwd=folder
    )
    assert told.stdout == "meta\n"


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(folder: Path, *names: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({name: x for name, x in weights.items() if name not in names}, folder / "model.safetensors")


def in_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "'.*' does not exist; it must be a folder with config.json and model.safetensors"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "'.*' is a file; it must be a folder"),
        (lambda folder: (folder / "config.json").unlink(), "contains no config.json; it must"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json' cannot be read: "),
        (lambda folder: (folder / "config.json").write_text("[1]"), "has model_type None; allowed are dinov2, "),
        (lambda folder: change(folder, model_type="bert"), "has model_type 'bert'; allowed are dinov2, "),
        (lambda folder: change(folder, model_type=["dinov2"]), r"has model_type \['dinov2'\]; allowed are"),
        (lambda folder: change(folder, model_type="mine", auto_map={"AutoModel": "mine.Mine"}), "'mine'; allowed are"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"contains no model\.safetensors; it must be"),
        (
            in_a_pickle,
            r"contains no model\.safetensors \(pytorch_model\.bin is ignored, because loading it can execute",
        ),
        (lambda folder: (folder / "model.safetensors").write_text("weights"), "cannot read weights from"),
        (
            lambda folder: without(folder, "layernorm.bias", "embeddings.cls_token"),
            r"do not fit its config\.json: 'embeddings\.cls_token' is missing \(and 1 more\)",
        ),
        (
            lambda folder: change(folder, image_size=32),
            r"do not fit its config\.json: 'embeddings\.position_embeddings' has a different shape$",
        ),
        (
            lambda folder: change(folder, image_size=[16, 17]),
            r"has image_size \[16, 17\]; only squares are supported",
        ),
        (lambda folder: change(folder, hidden_act="no_such"), "transformers .* cannot build '.*': "),
    ],
    ids=[
        *("missing", "file", "no-config", "no-json", "no-mapping", "text", "list", "code", "no-weights", "pickle"),
        *("no-tensors", "incomplete", "shapes", "oblong", "unknown"),
    ],
)
def test_folder_that_cannot_be_used_is_refused_in_words(folder: Path, spoil: Callable[[Path], Any], words: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=rf"^encoder\.checkpoint: .*{words}") as caught:
        frozen(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"slices": 49},
            r"encoder\.slices: 49 is not allowed; it must be between 1 and 48, the last side of data\.roi_size",
        ),
        ({"image_size": 18}, r"encoder\.image_size: 18 is not allowed; it must be a multiple of 4, the patch size of"),
        ({"partition": "rest"}, r"encoder\.partition: 'rest' is not allowed"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(folder: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        frozen(folder, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["slices", "image_size", "images_at_once"])
def test_less_than_one_is_refused_in_words(folder: Path, key: str) -> None:
    with pytest.raises(UserError, match=rf"^encoder\.{key}: 0 is not allowed"):
        bind("encoder", {"name": "frozen_slices", "checkpoint": str(folder), key: 0})


def test_rows_of_a_table_are_refused_in_words(folder: Path) -> None:
    with pytest.raises(UserError, match="encoder=frozen_slices needs volumes, but the data are rows of a table"):
        FrozenSlices(5, (), LAYOUT, checkpoint=str(folder), trained={"name": "mlp"})  # type: ignore[arg-type]


def test_package_that_is_not_installed_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers, which .*: pip install 'menvae\[slices\]'$"):
        frozen(folder)


@pytest.mark.parametrize(
    "part",
    [
        "encoder=frozen_slices",
        "encoder=product_of_experts encoder@encoder.expert=frozen_slices",
    ],
)
def test_weights_determine_the_run(compose_train: Callable[..., DictConfig], folder: Path, part: str) -> None:
    key = "encoder.expert.checkpoint" if "expert" in part else "encoder.checkpoint"
    experiment = Experiment.from_config(compose_train(*part.split(), f"{key}={folder}", "data.roi_size=[32,32,32]"))
    before = _start(experiment)
    (folder / ".hidden").write_text("of no account")
    assert _start(experiment) == before != ""
    write_transformer(folder, transformer(seed=8))
    assert _start(experiment) != before


def test_a_run_trains_and_is_known_again(folder: Path, prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    overrides = ["encoder=frozen_slices", f"encoder.checkpoint={folder}", "encoder.slices=4", "trainer.max_epochs=1"]
    first = train(tmp_path, *overrides)
    run = only_run(tmp_path)
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert "Loading weights" not in first.stdout + first.stderr
    train(tmp_path, *overrides)
    assert only_run(tmp_path) == run
    refused = train(tmp_path, *overrides, "encoder.image_size=15", code=2)
    assert "encoder.image_size: 15 is not allowed" in refused.stderr
