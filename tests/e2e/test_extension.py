"""Training a finished run on: bit for bit the run that was as long from the start, or a sentence that says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import shrunk
import torch
import yaml  # type: ignore[import-untyped, unused-ignore]
from omegaconf import OmegaConf
from runs import TINY, TRACKED, Started, environment, menvae_sweep, train

from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.runs.parent import extended
from menvae.runs.reading import flat
from menvae.runs.start import check_start, run_name
from menvae.training.checkpoint import without_optimizer

RISING = tuple(
    f"loss.schedules.{name}.{key}={value}"
    for name in ("kl", "dcor")
    for key, value in (("start", 0.5), ("length", 1.0))
)
AUGMENTED = ("augmentation.flip=0.5", "augmentation.max_shift=[2,2,2]")
ONWARD = (
    *("curriculum.scale=false", "schedule@learning_rate=constant", "trainer.keep_optimizer=true"),
    *("loss.terms.dcor.buffer_size=6", "trainer.batch_size=2", *RISING, *AUGMENTED),
)
"""What a run needs to be trained on; its schedules end within two epochs, and its memory of rows is full."""


def named(output_dir: Path, name: str) -> list[Path]:
    return sorted((output_dir / "runs").glob(f"{name}_*"))


def checkpoint(run: Path, name: str) -> dict[str, object]:
    content: dict[str, object] = torch.load(run / "checkpoints" / name, weights_only=True)
    return content


def equal(one: object, other: object) -> bool:
    """Whether nested containers have the same values, tensors to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return one == other


def extend(output_dir: Path, run: str, *overrides: str, code: int = 0) -> str:
    """Train a run on, with nothing but these overrides, and return what the command says."""
    arguments = [f"output_dir={output_dir}", f"trainer.extend={run}", *overrides]
    return Started("train", arguments, environment(), both=True).ended(code)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    """An output folder with a run of two epochs and one of four."""
    output_dir = tmp_path_factory.mktemp("base")
    (output_dir / "cache").symlink_to(prepared_cache)
    train(output_dir, *ONWARD, "name=short", "trainer.max_epochs=2")
    train(output_dir, *ONWARD, "name=long", "trainer.max_epochs=4")
    return output_dir


def test_extension_equals_the_run_that_was_as_long_from_the_start(base: Path) -> None:
    (short,), (long,) = named(base, "short"), named(base, "long")
    told = extend(base, short.name, "trainer.max_epochs=4", "name=onward", TRACKED)
    assert f"training run {short} on after its epoch 2" in told
    (onward,) = named(base, "onward")
    assert (onward / "metrics.jsonl").read_bytes() == (long / "metrics.jsonl").read_bytes()
    assert (onward / "gates.json").read_bytes() == (long / "gates.json").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        assert equal(checkpoint(onward, name), checkpoint(long, name)), name
    assert checkpoint(onward, "last.ckpt")["state"]["epoch"] == 4  # type: ignore[index]

    assert json.loads((onward / "environment.json").read_text())["extends"]["run"] == short.name
    assert f"<dd>{short.name}</dd>" in (onward / "report.html").read_text()
    params, tags = _tracked(base)
    assert (params["trainer.extend"], tags["menvae.extends"]) == (str(short), short.name)

    again = extend(base, short.name, "trainer.max_epochs=4", "name=onward", TRACKED)
    assert "already finished: nothing to train" in again
    assert len(named(base, "onward")) == 1
    name = run_name(
        experiment(base, f"trainer.extend={short.name}", "trainer.max_epochs=4", "name=long"), *_hashes(long), 1
    )
    assert name.startswith("long_")
    assert name != long.name, "the run that names a parent has a hash of its own"


def _tracked(output_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    (found,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    loss = [point.step for point in client.get_metric_history(found.info.run_id, "val_epoch/loss")]
    assert loss == [1, 2, 3, 4], "the epochs of the parent belong to the curve"
    return found.data.params, found.data.tags


def _hashes(run: Path) -> tuple[str, str]:
    targets = json.loads((run / "targets.json").read_text())
    return targets["data_hash"], targets["hash"]


def experiment(output_dir: Path, *overrides: str) -> Experiment:
    """Return what a command has checked before it opens its data; raises `UserError`."""
    composed = OmegaConf.to_container(shrunk.composed(f"output_dir={output_dir}", *overrides), resolve=True)
    config = extended(composed, [f"output_dir={output_dir}", *overrides])  # type: ignore[arg-type]
    found = Experiment.from_config(OmegaConf.create(dict(config)))
    check_start(found)
    return found


def test_stopped_extension_goes_on_without_its_parent_s_checkpoint_again(base: Path) -> None:
    (short,), (long,) = named(base, "short"), named(base, "long")
    stopped = extend(base, str(short), "trainer.max_epochs=4", "name=twice", "trainer.time_limit_min=1e-6", code=75)
    assert "stopped by time limit" in stopped
    (twice,) = named(base, "twice")
    with (twice / "checkpoints" / "last.ckpt").open("rb") as file:
        before = file.read()
    told = extend(base, str(short), "trainer.max_epochs=4", "name=twice")
    assert "resuming after epoch 2" in told
    assert "training run" not in told, "its own checkpoint comes first"
    assert before != (twice / "checkpoints" / "last.ckpt").read_bytes()
    assert (twice / "metrics.jsonl").read_bytes() == (long / "metrics.jsonl").read_bytes()
    assert equal(checkpoint(twice, "last.ckpt"), checkpoint(long, "last.ckpt"))


def test_extension_of_an_extension(base: Path) -> None:
    (short,), (long,) = named(base, "short"), named(base, "long")
    extend(base, short.name, "trainer.max_epochs=3", "name=third")
    (third,) = named(base, "third")
    extend(base, third.name, "trainer.max_epochs=4", "name=fourth")
    (fourth,) = named(base, "fourth")
    assert (fourth / "metrics.jsonl").read_bytes() == (long / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=3"], "trainer.extend: seed is 42 in run '{short}' and cannot become 3; an extension changes only "),
        (["loss.lambda_dcor=1"], "loss.lambda_dcor is 5 in run '{short}' and cannot become 1"),
        (["model=vae"], "model.name is 'semivae' in run '{short}' and cannot become 'vae'"),
        (["~loss.schedules.kl"], "loss.schedules.kl"),
        (["data=brats", "data.root=/data"], "data.name is 'phantom' in run '{short}' and cannot become 'brats'"),
        (["trainer.batch_size=8"], "trainer.batch_size is 2 in run '{short}' and cannot become 8"),
        (["experiment=exp1_baseline"], "cannot become"),
        (["trainer.init_from=/x"], "is not allowed with trainer.init_from, which starts elsewhere"),
        (["trainer.resume=a.ckpt"], "is not allowed with trainer.resume=a.ckpt, which starts elsewhere"),
        (["trainer.max_epochs=2"], "trainer.max_epochs: 2 is not allowed; run '{short}' has 2 epochs"),
    ],
)
def test_what_an_extension_must_not_change(base: Path, overrides: list[str], words: str) -> None:
    (short,) = named(base, "short")
    with pytest.raises(UserError) as caught:
        experiment(base, f"trainer.extend={short.name}", "trainer.max_epochs=4", *overrides)
    assert words.format(short=short.name) in str(caught.value)


def test_what_an_extension_may_change(base: Path) -> None:
    (short,) = named(base, "short")
    config = experiment(
        base,
        *(f"trainer.extend={short.name}", "trainer.max_epochs=5", "trainer.precision=bf16", "trainer.num_workers=1"),
        *("model=semivae", "tracking.experiment=other", "+tracker@tracking.trackers.files=files", "name=other"),
    ).config
    parent = yaml.safe_load((short / "config.yaml").read_text())
    changed = {key: value for key, value in flat(config) if dict(flat(parent)).get(key, "") != value}
    assert changed == {
        **{"name": "other", "trainer.max_epochs": 5, "trainer.extend": str(short), "trainer.precision": "bf16"},
        **{"trainer.num_workers": 1, "tracking.experiment": "other", "tracking.trackers.files.name": "files"},
        "tracking.trackers.files.folder": None,
    }


def test_repeating_the_whole_command_of_the_parent(base: Path) -> None:
    (short,) = named(base, "short")
    whole = [*TINY, *ONWARD, f"trainer.extend={short.name}", "trainer.max_epochs=4"]
    assert experiment(base, *whole).config["trainer"]["max_epochs"] == 4


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unfinished": (
        lambda run: (run / "status.json").write_text('{"state": "interrupted", "reason": "SIGTERM"}'),
        "run 'copy' is interrupted, not finished; repeat its command to finish it first",
    ),
    "collapsed": (
        lambda run: (run / "status.json").write_text('{"state": "collapsed", "reason": "collapse in epoch 2"}'),
        "run 'copy' was ended early (collapse in epoch 2), not by trainer.max_epochs; trainer.init_from=",
    ),
    "downloaded": (
        lambda run: (run / "status.json").unlink(),
        "has no status.json; only a directory in which a run has finished can be trained on",
    ),
    "no checkpoint": (lambda run: (run / "checkpoints" / "last.ckpt").unlink(), "has lost its checkpoints/last.ckpt"),
    "older checkpoint": (
        lambda run: (run / "status.json").write_text('{"state": "finished", "epochs": 1}'),
        "last.ckpt' is of epoch 2, but run 'copy' has 1",
    ),
    "no optimiser": (
        lambda run: without_optimizer(run / "checkpoints" / "last.ckpt"),
        "was finished without trainer.keep_optimizer=true, so its last.ckpt lacks the optimiser state",
    ),
    "damaged configuration": (lambda run: (run / "config.yaml").write_text("- 1"), "is not the configuration of a run"),
    "password": (
        lambda run: edit(run, "tracking.uri", "postgresql://me:***@db/mlflow"),
        "run 'copy' keeps no passwords; give tracking.uri=... again",
    ),
    "stretched": (  # a sixty-fourth after the start of the rise; on the clock of 4 epochs, half of that before it
        lambda run: [edit(run, "curriculum.scale", True), edit(run, "curriculum.reference_epochs", 2.0)],
        "loss.schedules.kl (linear) would have been 0 instead of 0.015625 at epoch 0.515625 of 4; a run to be trained "
        "on needs curriculum.scale=false; trainer.init_from=",
    ),
    "stretched cosine": (
        lambda run: [edit(run, "curriculum.scale", True), edit(run, "learning_rate", COSINE)],
        "needs curriculum.scale=false and a schedule that does not end with the run, such as constant or linear",
    ),
    "cosine": (  # (1 + cos(pi / 128)) / 2, and of half the angle
        lambda run: edit(run, "learning_rate", COSINE),
        "learning_rate (cosine) would have been 0.999962 instead of 0.999849 at epoch 0.015625 of 4; a run to be "
        "trained on needs a schedule that does not end with the run",
    ),
    "rising at its end": (
        lambda run: edit(run, "loss.schedules.dcor.length", 6.0),
        "loss.schedules.dcor (linear) would have been 0.583333 instead of 0.25 at the end of 4 epochs",
    ),
    "capacity of a term": (
        lambda run: [
            edit(run, "loss.terms.kl.max_capacity_nats", 5.0),
            edit(run, "loss.terms.kl.capacity_length", 3.0),
        ],
        "loss.terms.kl would have been another at the end of 4 epochs",
    ),
    "validation out of turn": (
        lambda run: edit(run, "trainer.validate_every_epochs", 3),
        "with trainer.validate_every_epochs=3, run 'copy' validated its last epoch, 2, out of turn",
    ),
    "update on the clock": (
        lambda run: [
            edit(run, "curriculum.scale", True),
            edit(run, "update", {"name": "aggressive", "encoder_steps": 5, "length": 3.0}),
        ],
        "update=aggressive may follow the clock of the schedules, which curriculum.scale=true stretches to 4 epochs",
    ),
}
COSINE = {"name": "cosine", "warmup": 0.0, "final": 0.0}


def edit(run: Path, key: str, value: object) -> None:
    """Make the configuration of a run another one; what it was trained with does not matter to a refusal."""
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, key, value, merge=False, force_add=True)
    OmegaConf.save(config, run / "config.yaml")


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    (short,) = named(base, "short")
    return Path(shutil.copytree(short, tmp_path / "runs" / "copy"))


@pytest.mark.parametrize("what", CHANGES)
def test_runs_that_cannot_be_trained_on(copy: Path, what: str) -> None:
    change, words = CHANGES[what]
    experiment(copy.parents[1], "trainer.extend=copy", "trainer.max_epochs=4")
    change(copy)
    with pytest.raises(UserError) as caught:
        experiment(copy.parents[1], "trainer.extend=copy", "trainer.max_epochs=4")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cohort_that_has_changed_and_other_ranks(base: Path, copy: Path) -> None:
    """Only the data tell; the command ends with one sentence."""
    onward = ("trainer.max_epochs=4", "name=elsewhere")
    refused = extend(base, str(copy), *onward, "trainer.devices=2", code=2)
    assert "was trained with number of ranks 1, but this configuration has 2" in refused
    targets = json.loads((copy / "targets.json").read_text())
    (copy / "targets.json").write_text(json.dumps({**targets, "data_hash": "0123"}))
    refused = extend(base, str(copy), *onward, code=2)
    assert "run 'copy' was trained on other data, with the hash 0123 instead of " in refused
    assert "Traceback" not in refused
    assert not named(base, "elsewhere")


def test_sweep_of_extensions(base: Path) -> None:
    (short,) = named(base, "short")
    arguments = (f"trainer.extend={short.name}", "name=swept", "trainer.max_epochs=2,3,4")
    planned = menvae_sweep(base, "plan", *arguments, code=1)
    assert "trainer.max_epochs: 2 is not allowed" in planned
    Started("train", ["-m", f"output_dir={base}", *arguments], environment(), both=True).ended(1)
    assert len(named(base, "swept")) == 2, "both that can run"
    assert (max(named(base, "swept"), key=_num_epochs) / "metrics.jsonl").read_bytes() == (
        named(base, "long")[0] / "metrics.jsonl"
    ).read_bytes()
    seeds = menvae_sweep(base, "plan", f"trainer.extend={short.name}", "trainer.max_epochs=4", "seed=1,2", code=2)
    assert "trainer.extend: seed is 42 in run" in seeds


def _num_epochs(run: Path) -> int:
    return (run / "metrics.jsonl").read_bytes().count(b"\n")
