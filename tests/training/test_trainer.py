"""The loop on a model of two linear layers: scaled gradients, updates of one side, weights of another run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import pretrained
from torch import Tensor, nn

from menvae.encoders.pretrained import FrozenTrunk
from menvae.errors import RunInterruptedError, TrainingDivergedError, UserError
from menvae.interruption import StopRequest
from menvae.latent import LatentLayout
from menvae.models import Model
from menvae.objective import Objective
from menvae.registry import build
from menvae.terms import TermContext
from menvae.training.curriculum import Curriculum
from menvae.training.place import Place
from menvae.training.settings import TrainerSettings
from menvae.training.trainer import Ingredients, Trainer
from menvae.types import Batch, ModelOutput, Observer, Posterior
from menvae.updates import Update

LAYOUT = LatentLayout({"one": 2, "two": 3})
HERE = Place(torch.device("cpu"), 0, 1)
STEPS = 4


class LinearModel(Model):
    """Inputs [B, 8, 1, 1, 1], Z = 5."""

    def __init__(self) -> None:
        super().__init__()
        self.layout, self.supervision = LAYOUT, {}
        self.encoder, self.decoder = nn.Linear(8, 2 * LAYOUT.z_dim), nn.Linear(LAYOUT.z_dim, 8)

    def encode(self, inputs: Tensor) -> Posterior:
        mean, logvar = self.encoder(inputs.flatten(1)).float().chunk(2, dim=1)
        return Posterior(mean, logvar)

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(z).float()
        return out

    def forward(self, batch: Batch) -> ModelOutput:
        posterior = self.encode(batch.inputs)
        z = posterior.sample() if self.training else posterior.mean
        return ModelOutput(posterior, z, self.decode(z).reshape(batch.inputs.shape))


class Batches:
    steps_per_epoch = STEPS

    def epoch(self, epoch: int, first_step: int = 0) -> Iterable[Batch]:
        for step in range(first_step, STEPS):
            generator = torch.Generator().manual_seed(100 * epoch + step)
            yield Batch(torch.randn(3, 8, 1, 1, 1, generator=generator), ("a", "b", "c"))


class Rows:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float | None]] = []

    def step(self, epoch: int, step: int, losses: Callable[[], Mapping[str, float]]) -> None:
        pass

    def epoch_end(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        self.metrics.append(dict(metrics))


class Weights(Observer):
    """Keeps the weights after every step, and asks to stop after ``last`` of them."""

    def __init__(self, model: Model, stop: StopRequest, last: int | None) -> None:
        self.model, self.stop, self.last = model, stop, last
        self.after_step = [{name: value.clone() for name, value in model.state_dict().items()}]

    def on_train_step(self, batch: Batch, output: ModelOutput) -> None:
        self.after_step.append({name: value.clone() for name, value in self.model.state_dict().items()})
        if len(self.after_step) - 1 == self.last:
            self.stop.signal_name = "SIGTERM"

    def moved(self) -> list[str]:
        """Return for every step which children of the model moved."""
        pairs = zip(self.after_step[:-1], self.after_step[1:], strict=True)
        return [
            " ".join(sorted({name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}))
            for old, new in pairs
        ]


def make(
    folder: Path, *, lambda_recon: float = 1.0, update: Update | None = None, stop_after: int | None = None, **keys: Any
) -> tuple[Trainer, Weights]:
    torch.manual_seed(0)
    model, context = LinearModel(), TermContext(LAYOUT, 8, 12)
    terms = {"recon": build("term", {"name": "mse"}, context), "kl": build("term", {"name": "kl"}, context)}
    ingredients = Ingredients(
        model=model,
        objective=Objective(terms, {"recon": lambda_recon, "kl": 0.01}, {}),
        optimizer=build("optimizer", {"name": "adamw", "learning_rate": 0.01}, model.parameters()),
        update=update or build("update", {"name": "joint"}),
        learning_rate=build("schedule", {"name": "constant"}),
        curriculum=Curriculum(reference_epochs=30.0),
        train=Batches(),
        val=Batches(),
    )
    settings = TrainerSettings(**{"max_epochs": 3, "channels_last": False, "gradient_clip": None, **keys})
    stop = StopRequest()
    watch = Weights(model, stop, stop_after)
    identity = {"data.modalities": "t1c", "model.partitions": "one 2, two 3"}
    trainer = Trainer(
        ingredients, settings, HERE, seed=1, checkpoints=folder, identity=identity, observers=[watch], stop=stop
    )
    return trainer, watch


OVERFLOWING = 100.0
"""A weight with which the first scale of 65536 overflows the gradient in float16, and a smaller one does not."""


def test_fp16_skips_steps_whose_gradient_overflows_and_halves_the_scale(tmp_path: Path) -> None:
    trainer, watch = make(tmp_path, lambda_recon=OVERFLOWING, precision="fp16", gradient_clip=1.0)
    rows = Rows()
    trainer.fit(rows)
    skipped = [not moved for moved in watch.moved()]
    assert skipped[0]
    assert not all(skipped)
    assert sum(row["diag/skipped_steps"] or 0 for row in rows.metrics) == sum(skipped)
    assert rows.metrics[-1]["diag/loss_scale"] == 65536.0 / 2 ** sum(skipped)
    assert all(math.isfinite(value) for row in rows.metrics for value in row.values() if value is not None)


def test_fp16_learns_what_fp32_learns(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "fp16", "bf16"):
        rows = Rows()
        make(tmp_path / precision, lambda_recon=0.2, precision=precision, max_epochs=20)[0].fit(
            rows
        )  # nothing overflows
        losses[precision] = [row["val_epoch/loss"] or math.inf for row in rows.metrics]
        assert ("diag/loss_scale" in rows.metrics[0]) is (precision == "fp16")
    assert losses["fp32"][-1] < 0.7 * losses["fp32"][0]
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=5e-3)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=5e-2)


@pytest.mark.parametrize("ratio", [1e-9, 0.5, 0.99999, 1.0, 1.0000001, 1.001, 1e6])
def test_the_optimizer_sees_what_torch_clips(tmp_path: Path, ratio: float) -> None:
    """Bit for bit, for limits below, around and above the norm, which is scaled to limits as small as torch's 1e-6."""
    for scale in (1.0, 1e-3):
        trainer, _ = make(tmp_path, lambda_recon=scale)
        batch = next(iter(Batches().epoch(0)))
        norm = trainer._train_step(batch, 0, 0).gradient_norm
        raw = [parameter.grad.clone() for parameter in trainer.model.parameters() if parameter.grad is not None]
        clipped = make(tmp_path, lambda_recon=scale, gradient_clip=ratio * norm)[0]
        assert clipped._train_step(batch, 0, 0).gradient_norm == norm
        parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in raw]
        for parameter, gradient in zip(parameters, raw, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, ratio * norm)
        seen = [parameter.grad for parameter in clipped.model.parameters() if parameter.grad is not None]
        assert all(torch.equal(one, two) for one, two in zip(seen, raw, strict=True))


@pytest.mark.parametrize(("precision", "num_steps"), [("fp32", 1), ("bf16", 1), ("fp16", 30)])
def test_gradients_that_are_never_finite_end_the_run(tmp_path: Path, precision: str, num_steps: int) -> None:
    trainer, watch = make(tmp_path, precision=precision, max_epochs=20)
    trainer.model.decoder.weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[union-attr,operator]
    with pytest.raises(TrainingDivergedError, match=r"gradient of 'decoder\.weight' is not finite on rank 0"):
        trainer.fit(None)
    assert len(watch.after_step) == num_steps  # 65536 / 2^30 is less than 1e-4
    assert not any(watch.moved())


@pytest.mark.parametrize("stop_after", [1, 6, 8])
@pytest.mark.parametrize("update", [{"name": "joint"}, {"name": "aggressive", "encoder_steps": 2, "length": 15.0}])
def test_fp16_and_updates_resume_exactly(tmp_path: Path, update: dict[str, Any], stop_after: int) -> None:
    keys: dict[str, Any] = {"lambda_recon": OVERFLOWING, "precision": "fp16"}
    whole, whole_rows = make(tmp_path / "whole", update=build("update", update), **keys)[0], Rows()
    whole.fit(whole_rows)
    first, rows = make(tmp_path / "parts", update=build("update", update), stop_after=stop_after, **keys)[0], Rows()
    with pytest.raises(RunInterruptedError):
        first.fit(rows)
    second, _ = make(tmp_path / "parts", update=build("update", update), **keys)
    second.restore(tmp_path / "parts" / "last.ckpt")
    second.fit(rows)
    assert rows.metrics == whole_rows.metrics
    assert second.scaler.state_dict() == whole.scaler.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_a_run_with_pauses_ends_as_one_without(tmp_path: Path) -> None:
    whole, whole_rows = make(tmp_path / "whole")[0], Rows()
    whole.fit(whole_rows)
    rows, folder = Rows(), tmp_path / "parts"
    for pause_after, epochs in ((1, 1), (1, 1), (2, 2), (None, 3)):
        trainer, _ = make(folder)
        if epochs > 1 or rows.metrics:
            trainer.restore(folder / "last.ckpt")
        state = trainer.fit(rows, pause_after)
        assert (state.epoch, trainer.has_ended) == (epochs, epochs == 3)
    assert rows.metrics == whole_rows.metrics
    for name, value in whole.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


def test_a_run_in_fp32_goes_on_in_fp16(tmp_path: Path) -> None:
    make(tmp_path / "first", max_epochs=1)[0].fit(None)
    trainer, _ = make(tmp_path / "second", precision="fp16")
    trainer.restore(tmp_path / "first" / "last.ckpt")
    assert trainer.scaler.get_scale() == 65536.0


def test_aggressive_moves_one_side_at_a_time_in_its_warm_up(tmp_path: Path) -> None:
    update = build("update", {"name": "aggressive", "encoder_steps": 2, "length": 20.0})  # of 30 reference epochs
    trainer, watch = make(tmp_path, update=update)
    trainer.fit(None)
    warm_up = ["encoder", "encoder", "decoder"] * 3
    assert watch.moved() == [*warm_up[:8], *["decoder encoder"] * 4]


def test_the_gradient_norm_is_that_of_what_moves(tmp_path: Path) -> None:
    norms = {}
    for only in (None, "encoder", "decoder"):
        trainer, _ = make(tmp_path)

        class Once:
            def __call__(self, stepper: Any, only: Any = only) -> Any:
                output, report = stepper.evaluate()
                return output, report, stepper.descend(report.total, only)

        trainer.ingredients.update.__class__ = Once
        norms[only] = trainer._train_step(next(iter(Batches().epoch(0))), 0, 0).gradient_norm
    assert norms[None] == pytest.approx(math.hypot(norms["encoder"], norms["decoder"]), rel=1e-5)


def test_weights_of_another_run_and_nothing_else(tmp_path: Path) -> None:
    other, _ = make(tmp_path / "other")
    other.fit(None)
    trainer, _ = make(tmp_path / "mine")
    trainer.begin_with(tmp_path / "other" / "last.ckpt", ["data.modalities", "model.partitions"])
    for name, value in other.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
    assert trainer.state.epoch == 0
    assert not trainer.optimizer.state


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "other")[0].fit(None)
    path = tmp_path / "other" / "last.ckpt"

    def refusal(change: Callable[[Trainer], None]) -> str:
        trainer, _ = make(tmp_path / "mine")
        change(trainer)
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        with pytest.raises(UserError) as caught:
            trainer.begin_with(path, ["data.modalities", "model.partitions"])
        assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
        assert str(caught.value).startswith(f"trainer.init_from: '{path}' ")
        return str(caught.value)

    def wider(trainer: Trainer) -> None:
        trainer.model.decoder = nn.Linear(LAYOUT.z_dim, 9)

    def more(trainer: Trainer) -> None:
        trainer.model.head = nn.Linear(2, 2)

    def less(trainer: Trainer) -> None:
        trainer.model.decoder = nn.Linear(LAYOUT.z_dim, 8, bias=False)

    def other_partitions(trainer: Trainer) -> None:
        trainer.identity["model.partitions"] = "one 4, two 1"

    shapes = "its 'decoder.weight' has shape [8, 5], that of this model [9, 5] (and 1 more)"
    assert refusal(wider).endswith(f"does not fit this model: {shapes}")
    assert refusal(more).endswith("does not fit this model: it lacks 'head.weight' (and 1 more)")
    assert refusal(less).endswith("does not fit this model: its 'decoder.bias' does not exist in this model")
    partitions = "was trained with model.partitions one 2, two 3, but this configuration has one 4, two 1"
    assert refusal(other_partitions).endswith(partitions)


def test_weights_beside_other_frozen_features_are_refused_in_words(tmp_path: Path) -> None:
    for seed, name in ((1, "other"), (2, "mine")):
        trainer, _ = make(tmp_path / name)
        trainer.model.frozen = FrozenTrunk(pretrained(seed=seed).trunk)
        trainer.save("last.ckpt", trainer.state, with_optimizer=False)
    path = tmp_path / "other" / "last.ckpt"
    with pytest.raises(
        UserError, match="does not fit this model: it was trained with frozen weights other than"
    ) as caught:
        trainer.begin_with(path, [])
    assert str(caught.value).startswith(f"trainer.init_from: '{path}' ")


def test_init_from_and_a_checkpoint_to_resume_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"trainer\.init_from: 'a' is not allowed with trainer\.resume=b\.ckpt"):
        TrainerSettings(init_from="a", resume="b.ckpt")
    assert TrainerSettings(init_from="a", resume="never").init_from == "a"
