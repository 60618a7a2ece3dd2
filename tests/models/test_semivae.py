from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.models import Blueprint
from menvae.registry import bind
from menvae.types import Batch

SIZE = (16, 16, 16)
EVERYTHING = frozenset(
    {"reconstruction", "auxiliary_reconstruction", "predictions.vol", "predictions.loc", "predictions.shape"}
)
SMALL: dict[str, Any] = {
    "name": "semivae",
    "z_dim": 12,
    "partitions": {"vol": 4, "loc": 2, "shape": 3, "residual": None},
}


def semivae(needs: frozenset[str] = EVERYTHING, decoder: str = "sbd", **changes: Any) -> Any:
    parts = {
        "encoder": bind("encoder", {"name": "resnet", "base_filters": 8}),
        "decoder": bind("decoder", {"name": decoder}),
        "auxiliary_decoder": bind("decoder", {"name": "auxiliary"}),
    }
    return bind("model", {**SMALL, **changes})(Blueprint(1, SIZE, parts, needs))


def batch(rows: int = 2) -> Batch:
    return Batch(torch.randn(rows, 1, *SIZE), tuple(str(row) for row in range(rows)))


def test_run6_has_the_documented_number_of_parameters(compose_train: Callable[..., DictConfig]) -> None:
    model, _ = Experiment.from_config(compose_train("experiment=semivae_run6")).build(1)
    counts = {
        name: sum(parameter.numel() for parameter in child.parameters()) for name, child in model.named_children()
    }
    millions = {name: round(count / 1e6, 2) for name, count in counts.items()}
    assert (millions["encoder"], millions["decoder"], millions["auxiliary_decoder"]) == (8.36, 1.21, 1.0)
    assert counts["heads"] == 2053
    assert round(sum(counts.values()) / 1e6, 2) == 10.57


def test_log_variance_has_a_floor() -> None:
    model = semivae()
    with torch.no_grad():
        model.encoder.head.logvar.bias.fill_(-100.0)
    assert model.encode(batch().inputs).logvar.min().item() == -6.0
    assert model.encode(batch().inputs).logvar.exp().min().item() == pytest.approx(0.00248, abs=1e-5)


def test_auxiliary_decoder_sees_its_partition_only() -> None:
    model = semivae(auxiliary_partition="shape")
    output = model(batch())
    (gradient,) = torch.autograd.grad(output.extras["auxiliary_reconstruction"].sum(), output.latent)
    assert gradient[:, 6:9].any()
    assert not gradient[:, :6].any()
    assert not gradient[:, 9:].any()


def test_heads_see_the_mean_not_the_sample() -> None:
    model = semivae().train()
    for head in model.heads.values():
        head.eval()  # no dropout
    subjects = batch()
    first, second = model(subjects), model(subjects)
    assert not torch.equal(first.latent, second.latent)
    assert torch.equal(first.predictions["vol"], second.predictions["vol"])


def test_head_that_nobody_needs_is_not_built() -> None:
    model = semivae(EVERYTHING - {"predictions.loc", "auxiliary_reconstruction"})
    assert list(model.heads) == ["vol", "shape"]
    assert set(model.supervision) == {"vol", "shape"}
    assert model.auxiliary_decoder is None


def test_partition_with_no_targets_is_not_supervised() -> None:
    model = semivae(supervision={"vol": ["vol_total"], "loc": [], "shape": []})
    assert list(model.heads) == ["vol"]
    given = {"reconstruction", "auxiliary_reconstruction", "predictions.vol", "cycle.vol"}
    assert type(model).provides(model.supervision) == given


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"supervision": {"vool": ["vol_total"]}},
            "^model.supervision.vool: partition 'vool' does not exist; did you mean 'vol'",
        ),
        ({"auxiliary_partition": "rest"}, "^model.auxiliary_partition: partition 'rest' does not exist"),
        ({"heads": {"foo": {"name": "mlp"}}}, "^model.heads.foo: partition 'foo' does not exist; known: loc, res"),
        ({"inverse_heads": {"foo": {"name": "mlp"}}}, "^model.inverse_heads.foo: partition 'foo' does not exist"),
        ({"heads": {"vol": {"name": "mlp"}}}, "model.heads.loc: partition 'loc' is supervised and needs a head"),
        ({"heads": {name: {"name": "mpl"} for name in ("vol", "loc", "shape")}}, "model.heads.vol: 'mpl' is not"),
        ({"z_dim": 9}, "leaves no dimension of model.z_dim=9 for residual"),
        ({"decoder": "auxiliary"}, r"decoder=auxiliary outputs \[16, 16, 16\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(changes: dict[str, Any], words: str, monkeypatch: Any) -> None:
    if "decoder" in changes:
        monkeypatch.setitem(globals(), "SIZE", (32, 32, 32))
    with pytest.raises(UserError, match=words):
        semivae(**changes)


@pytest.mark.parametrize("key", ["heads", "inverse_heads"])
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "mlp", "dropout": 7}, "vol.dropout: 7 is not allowed"),
        ({"name": "mlp", "typo": 3}, "vol.typo: no such key of 'mlp'"),
        ({"name": "mpl"}, "vol: 'mpl' is not registered; did you mean 'mlp'"),
    ],
)
def test_heads_that_nobody_needs_are_checked_all_the_same(key: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}\.{words}"):
        semivae(frozenset({"reconstruction"}), **{key: {"vol": config}})


def test_auxiliary_partition_matters_where_something_is_drawn_from_it() -> None:
    model = semivae(EVERYTHING - {"auxiliary_reconstruction"}, auxiliary_partition="rest")
    assert model.auxiliary_decoder is None


def cycling(**changes: Any) -> Any:
    return semivae(EVERYTHING | {"cycle.vol", "cycle.loc"}, **changes)


def test_inverse_heads_recover_coordinates_from_detached_predictions() -> None:
    model = cycling().eval()
    assert list(model.inverse_heads) == ["vol", "loc"]
    output = model(batch())
    assert output.extras["cycle.vol"].shape == (2, 4)
    assert output.extras["cycle.loc"].shape == (2, 2)
    torch.testing.assert_close(output.extras["cycle.vol"], model.inverse_heads["vol"](output.predictions["vol"]))
    output.extras["cycle.vol"].sum().backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"inverse_heads"}


def test_identity_is_its_own_inverse() -> None:
    heads = {name: {"name": "identity" if name == "loc" else "mlp"} for name in ("vol", "loc", "shape")}
    supervision = {"vol": ["vol_total"], "loc": ["loc_x", "loc_y"], "shape": ["solidity_total"]}
    output = cycling(heads=heads, inverse_heads=heads, supervision=supervision)(batch())
    assert torch.equal(output.extras["cycle.loc"], output.posterior.mean[:, 4:6])
    assert torch.equal(output.predictions["loc"], output.posterior.mean[:, 4:6])


def test_head_says_where_its_sizes_do_not_fit() -> None:
    heads = {name: {"name": "structured"} for name in ("vol", "loc", "shape")}
    with pytest.raises(UserError, match=r"model\.heads\.loc: 'structured' .* 2 is not a multiple of 3; use 3 inputs"):
        semivae(heads=heads)


def test_cycle_needs_predictions_and_an_inverse_head() -> None:
    with pytest.raises(UserError, match=r"the cycle of partition 'vol' needs its predictions; set loss\.lambda_vol"):
        semivae(EVERYTHING - {"predictions.vol"} | {"cycle.vol"})
    with pytest.raises(UserError, match=r"model\.inverse_heads\.loc: .* needs an inverse head, such as mlp"):
        cycling(inverse_heads={"vol": {"name": "linear"}})


def hidden(model: Any, subjects: Batch) -> torch.Tensor:
    """Return what the encoder is told of the modalities."""
    seen: list[torch.Tensor] = []
    features = model.encoder.features
    model.encoder.features = lambda inputs, available=None: (seen.append(available), features(inputs, available))[1]
    model(subjects)
    return seen[0]


def many(rows: int, **changes: Any) -> Batch:
    return Batch(torch.zeros(rows, 4, *SIZE), tuple(str(row) for row in range(rows)), **changes)


def test_modalities_are_hidden_in_training_only_and_never_all() -> None:
    parts = {
        "encoder": bind("encoder", {"name": "resnet", "base_filters": 8}),
        "decoder": bind("decoder", {"name": "sbd"}),
    }
    model = bind("model", {**SMALL, "modality_dropout": 0.5})(Blueprint(4, SIZE, parts, frozenset({"reconstruction"})))
    torch.manual_seed(3)
    seen = model._seen(many(4000))
    torch.manual_seed(3)
    assert torch.equal(seen, model._seen(many(4000)))
    # four fair coins, and where all say no (1 in 16) one modality is kept
    assert seen.any(dim=1).all()
    assert (~seen).float().mean().item() == pytest.approx(0.5 - 1 / 16 / 4, abs=0.02)
    available = torch.tensor([[True, False, True, False], [False, False, False, True]]).repeat(500, 1)
    seen = model._seen(many(1000, available=available))
    assert not (seen & ~available).any()
    assert seen.any(dim=1).all()
    assert hidden(model.eval(), many(2)) is None


def test_without_dropout_no_random_number_is_drawn() -> None:
    model, subjects = semivae(), batch()
    before = torch.get_rng_state()
    assert model._seen(subjects) is None
    assert torch.equal(torch.get_rng_state(), before)
