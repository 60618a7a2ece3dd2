from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import pretrained, write
from torch import Tensor, nn

from menvae.encoders.frozen import FrozenFeatures
from menvae.encoders.pretrained import check_inputs
from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.layers import Recomputable, recompute_activations

LAYOUT = LatentLayout({"vol": 2, "residual": 3, "loc": 1})
SIZE = (16, 16, 16)
TRAINED = {"name": "resnet", "base_filters": 8}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "encoder.pt", pretrained().state_dict())


def frozen(checkpoint: Path, num_modalities: int = 2, **settings: Any) -> FrozenFeatures:
    torch.manual_seed(0)
    return FrozenFeatures(
        num_modalities, SIZE, LAYOUT, **{"checkpoint": str(checkpoint), "trained": TRAINED, **settings}
    )


def inputs(rows: int = 3) -> Tensor:
    return torch.randn(rows, 2, *SIZE)


def test_residual_is_a_linear_map_of_the_pretrained_features(checkpoint: Path) -> None:
    encoder, batch = frozen(checkpoint), inputs()
    features = pretrained().trunk(batch)["layer4"].mean(dim=(2, 3, 4))
    mean, logvar = encoder(batch)
    expected = features @ encoder.head.mean.weight.T + encoder.head.mean.bias
    torch.testing.assert_close(mean[:, 2:5], expected, rtol=1e-4, atol=1e-5)
    supervised, _ = encoder.trained(batch)
    torch.testing.assert_close(mean[:, [0, 1, 5]], supervised, rtol=1e-4, atol=1e-5)
    assert torch.equal(logvar, torch.full((3, 6), -3.0))


@pytest.mark.parametrize("spectral", [False, True])
def test_frozen_blocks_are_not_recomputed_and_may_be_compiled(tmp_path: Path, spectral: bool) -> None:
    """Their weights are buffers, and no vectors of a spectral norm that a pass changes."""
    encoder = frozen(write(tmp_path / "encoder.pt", pretrained(spectral_norm=spectral).state_dict()))
    recompute_activations(encoder, compiled=True)
    recomputed = {name.split(".")[0]: m.recompute for name, m in encoder.named_modules() if isinstance(m, Recomputable)}
    assert recomputed == {"frozen": False, "trained": True}
    batch = inputs()
    expected = encoder(batch)[0]
    found = torch.compile(encoder, backend="aot_eager")(batch)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.trained.parameters() if parameter.requires_grad)


def test_trained_blocks_with_a_spectral_norm_are_still_refused(checkpoint: Path) -> None:
    encoder = frozen(checkpoint, trained={**TRAINED, "spectral_norm": True})
    with pytest.raises(UserError, match=r"trainer\.compile=true where blocks have a spectral norm"):
        recompute_activations(encoder, compiled=True)


@pytest.mark.parametrize("settings", [{}, {"spectral_norm": True}, {"stem": "per_modality", "base_filters": 16}])
def test_architecture_follows_from_the_weights(tmp_path: Path, settings: dict[str, Any]) -> None:
    source = pretrained(**settings).eval()
    content = {"format": 1, "model": {f"encoder.{name}": x for name, x in source.state_dict().items()}, "state": {}}
    encoder, batch = frozen(write(tmp_path / "best.ckpt", content)), inputs()
    expected = source.trunk(batch)["layer4"]
    torch.testing.assert_close(encoder.frozen(batch)["layer4"], expected, rtol=1e-4, atol=1e-5)
    missing = torch.tensor([[True, False]] * 3)
    expected = source.trunk(batch, missing)["layer4"]
    torch.testing.assert_close(encoder.frozen(batch, missing)["layer4"], expected, rtol=1e-4, atol=1e-5)


def test_it_stays_as_it_is(checkpoint: Path) -> None:
    encoder, batch = frozen(checkpoint).train(), inputs()
    assert not any(module.training for module in encoder.frozen.modules())
    assert not list(encoder.frozen.parameters())
    before = {name: x.clone() for name, x in encoder.frozen.named_buffers()}
    assert len(before) == sum(1 for _ in pretrained().trunk.parameters())
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1)
    assert not encoder.features(batch)["frozen"].requires_grad
    for _ in range(2):
        sum(x.square().sum() for x in encoder(batch)).backward()
        optimizer.step()
    assert all(torch.equal(before[name], x) for name, x in encoder.frozen.named_buffers())
    encoder.double()
    assert all(x.dtype == torch.float64 for x in encoder.frozen.buffers())  # and yet it moves with the model


def test_checkpoints_hold_a_digest_of_it_alone(checkpoint: Path, tmp_path: Path) -> None:
    encoder = frozen(checkpoint)
    own = {name: x for name, x in encoder.state_dict().items() if name.startswith("frozen.")}
    assert [(name, tuple(x.shape)) for name, x in own.items()] == [("frozen._extra_state", (32,))]
    path = write(tmp_path / "run.ckpt", encoder.state_dict())
    frozen(checkpoint).load_state_dict(torch.load(path, weights_only=True))
    other = frozen(write(tmp_path / "other.pt", pretrained(seed=8).state_dict()))
    with pytest.raises(RuntimeError, match=r"trained with frozen weights other than those of encoder\.checkpoint"):
        other.load_state_dict(encoder.state_dict())


IDENTITY = {"data.modalities": "t1, t2", "data.normalisation": "zscore", "data.roi_size": "[32, 32, 32]"}


def frozen_of_a_run(tmp_path: Path, identity: object) -> FrozenFeatures:
    content = {"format": 1, "model": pretrained().state_dict(), "identity": identity}
    return frozen(write(tmp_path / "best.ckpt", content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.modalities": "t2, t1"}, "data.modalities t1, t2, but this configuration has t2, t1"),
        ({"data.modalities": "t1, flair"}, "data.modalities t1, t2, but this configuration has t1, flair"),
        ({"data.normalisation": "minmax"}, "data.normalisation zscore, but this configuration has minmax"),
    ],
)
def test_inputs_must_mean_what_they_meant_in_pretraining(tmp_path: Path, change: dict[str, str], words: str) -> None:
    model = nn.ModuleDict({"encoder": frozen_of_a_run(tmp_path, IDENTITY)})
    check_inputs(model, IDENTITY, {"data.modalities"})
    with pytest.raises(UserError) as caught:
        check_inputs(model, IDENTITY | change, {"data.modalities"})
    assert str(caught.value) == f"encoder.checkpoint: its weights were trained with {words}"


def test_a_source_declares_which_keys_define_its_inputs(tmp_path: Path) -> None:
    model = nn.ModuleDict({"encoder": frozen_of_a_run(tmp_path, IDENTITY | {"data.tracer": "FET"})})
    other = IDENTITY | {"data.tracer": "FDOPA"}
    check_inputs(model, other, {"data.modalities"})
    with pytest.raises(UserError, match=r"trained with data\.tracer FET, but this configuration has FDOPA"):
        check_inputs(model, other, {"data.modalities", "data.tracer"})


def test_what_is_not_known_of_pretraining_or_does_not_matter_is_accepted(tmp_path: Path, checkpoint: Path) -> None:
    check_inputs(frozen_of_a_run(tmp_path, IDENTITY), IDENTITY | {"data.roi_size": "[16, 16, 16]"}, {"data.modalities"})
    check_inputs(frozen_of_a_run(tmp_path, IDENTITY), {"plugin.channels": "a, b"}, {"plugin.channels"})
    check_inputs(frozen_of_a_run(tmp_path, "a run"), IDENTITY, IDENTITY.keys())
    check_inputs(frozen(checkpoint), IDENTITY, IDENTITY.keys())


class NotPlain:
    """What only an unpickler that executes code could read."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "'.*' does not exist"),
        ({"a": torch.zeros(1)}, "contains no encoder with the layers of encoder=resnet"),
        (3, "contains no encoder"),
        (NotPlain(), "cannot read weights from"),
        ({f"{i}.{k}": x for i in range(2) for k, x in pretrained().state_dict().items()}, "contains 2 encoders"),
        (pretrained(3).state_dict(), "trained on 3 modalities, but data.modalities has 2"),
        (pretrained(3, stem="per_modality").state_dict(), "trained on 3 modalities, but data.modalities has 2"),
        (
            {k: x.repeat(2) if x.ndim == 1 else x for k, x in pretrained().state_dict().items()},
            "does not match this version",
        ),
        (
            {k: x[:4] for k, x in pretrained().state_dict().items()},
            "does not match this version of menvae: base_filters gives",
        ),
        ({k: x for k, x in pretrained().state_dict().items() if "layers.7" not in k}, "does not match this version"),
    ],
    ids=["missing", "else", "number", "code", "two", "modalities", "stems", "shapes", "widths", "incomplete"],
)
def test_checkpoint_that_cannot_be_used_is_refused_in_words(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "encoder.pt"
    if content is not None:
        write(path, content)
    with pytest.raises(UserError, match=rf"encoder\.checkpoint: .*{words}") as caught:
        frozen(path)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "encoder.pt").write_text("weights")
    with pytest.raises(UserError, match="cannot read weights from") as caught:
        frozen(tmp_path / "encoder.pt")
    assert "\n" not in str(caught.value)


def test_partition_must_be_one_of_several(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.partition: 'rest' is not allowed"):
        frozen(checkpoint, partition="rest")
