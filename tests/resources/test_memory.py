"""Memory of a step: traced, compared with what is available, and what a run says that lacks it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from shrunk import TINY, composed, trainer_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from menvae.composition.experiment import Experiment
from menvae.kernels import resizing
from menvae.resources.shortage import available_bytes, explained, is_out_of_memory, left_in_cgroups
from menvae.resources.trace import Tracer, optimizer_share
from menvae.runs.micro_batches import cost_of_step, estimated_rows, step_fits

MIB = 2**20


def test_counts_flops_bytes_and_peak_of_a_product() -> None:
    a, b = torch.ones(512, 256), torch.ones(256, 1024)
    tracer = Tracer()
    with tracer:
        c = a @ b  # 2 MiB
        d = c + 1.0  # 2 MiB
        del c
        e = d.view(-1)[:7]
        del d
    product, addition = tracer.operations
    assert (product.name, product.flops) == ("mm", 2 * 512 * 256 * 1024)
    assert product.num_bytes == 4 * (512 * 256 + 256 * 1024 + 512 * 1024)
    assert (addition.name, addition.flops, addition.num_bytes) == ("add", 0, 2 * 2 * MIB)
    assert tracer.memory.peak == 4 * MIB
    assert tracer.memory.now == 2 * MIB, "a view keeps its storage"
    del e
    assert tracer.memory.now == 0


def test_questions_of_a_backward_pass_are_no_operations() -> None:
    tracer = Tracer()
    with FakeTensorMode():
        values = torch.ones(64, 64, requires_grad=True)
        with tracer:
            (2.0 * values).sum().backward()  # asks tensors without values for their device
    assert {operation.name for operation in tracer.operations} <= {"mul", "sum", "ones_like"}


@pytest.mark.parametrize(
    ("make", "share"), [(torch.optim.AdamW, 2.0), (torch.optim.SGD, 0.0), (torch.optim.Adagrad, 1.0)]
)
def test_state_of_optimisers(make, share: float) -> None:
    assert optimizer_share(lambda parameters: make(parameters, lr=0.1)) == share


def test_trace_of_a_model(tmp_path: Path) -> None:
    experiment = Experiment.from_config(composed(*TINY, f"output_dir={tmp_path}"))
    trainer = trainer_of(experiment, tmp_path)
    one, two, three, four = (cost_of_step(experiment, trainer, rows) for rows in (1, 2, 3, 4))
    size = sum(parameter.nbytes for parameter in trainer.model.parameters())
    assert one.parameter_bytes == size
    assert one.optimizer_bytes == 2 * size
    assert one.peak_bytes > 4 * size, "parameters, gradients and two moments"
    per_row = three.peak_bytes - two.peak_bytes
    assert four.peak_bytes - two.peak_bytes == pytest.approx(2 * per_row, rel=0.05)
    stem = next(module for module in trainer.model.modules() if isinstance(module, nn.Conv3d))
    first = next(operation for operation in one.operations if operation.flops)
    assert first.flops == 2 * 16**3 // stem.stride[0] ** 3 * stem.weight.numel()
    assert one.output_bytes > 4 * 4 * 16**3

    assert estimated_rows(experiment, trainer, 100 * one.peak_bytes) == 4
    assert estimated_rows(experiment, trainer, 0) == 0
    enough_for_two = (two.peak_bytes - two.constant_bytes + 0.2 * per_row + 8 * one.output_bytes) / 0.9
    assert estimated_rows(experiment, trainer, round(enough_for_two)) == 2


RUN6 = (
    *("experiment=semivae_run6", *TINY, "data.roi_size=[32,32,32]", "auxiliary_decoder.base_filters=16"),
    "trainer.batch_size=2",
)


@pytest.mark.parametrize("upsampling", ["resize_conv", "nearest"])
def test_traces_before_and_after_real_steps(tmp_path: Path, upsampling: str) -> None:
    experiment = Experiment.from_config(composed(*RUN6, f"decoder.upsampling={upsampling}", f"output_dir={tmp_path}"))
    trainer = trainer_of(experiment, tmp_path)
    batch = next(iter(trainer.ingredients.train.epoch(0))).to(torch.device("cpu"), trainer.memory_format)
    resizing._kept.cache_clear()  # as in a new process
    first = cost_of_step(experiment, trainer, 2)
    assert step_fits(trainer, batch, 2)
    assert cost_of_step(experiment, trainer, 2).flops == first.flops


def test_a_folded_layer_is_traced_as_it_computes() -> None:
    found: dict[bool, list[tuple[int, int]]] = {}
    for fake in (False, True):
        with FakeTensorMode() if fake else nullcontext():
            x = torch.ones(1, 8, 16, 16, 16, requires_grad=True)
            weight = torch.ones(8, 8, 3, 3, 3, requires_grad=True)
            tracer = Tracer()
            with tracer:
                resizing.trilinear_conv3d(x, weight).sum().backward()
            found[fake] = sorted((one.flops, one.num_bytes) for one in tracer.operations if "convolution" in one.name)
            assert weight.grad is not None
    assert found[True] == found[False], "both passes convolve the padded input"


def test_trying_a_step_changes_nothing(tmp_path: Path) -> None:
    overrides = ("encoder.spectral_norm=true", f"output_dir={tmp_path}")
    trainer = trainer_of(Experiment.from_config(composed(*TINY, *overrides)), tmp_path)
    batch = next(iter(trainer.ingredients.train.epoch(0))).to(torch.device("cpu"), trainer.memory_format)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    random = torch.get_rng_state()
    assert step_fits(trainer, batch, 4)
    assert step_fits(trainer, batch, 3)
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_knows_what_torch_raises() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(ValueError("no"))


def test_says_what_to_change() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    text = str(explained(8, "fp32", (96, 96, 96), recomputes=False, splits=False, device=cuda))
    wanted = ("auto_batch=true", "activation_checkpointing=true", "precision=bf16", "batch_size=4", "[64, 64, 64]")
    places = [text.index(word) for word in wanted]
    assert places == sorted(places)
    text = str(explained(1, "bf16", (160, 160, 160), recomputes=True, splits=True, device=cpu))
    assert not any(word in text for word in ("auto_batch", "checkpointing", "bf16", "batch_size=0"))
    assert "data.roi_size=[112, 112, 112]" in text


def test_available_memory_is_that_of_the_machine() -> None:
    import psutil

    assert 0 < available_bytes() <= psutil.virtual_memory().total


def test_the_limit_of_a_job_counts(tmp_path: Path) -> None:
    def group(folder: str, names: tuple[str, str], limit: str, used: int, inactive: str) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / names[0]).write_text(f"{limit}\n")
        (tmp_path / folder / names[1]).write_text(f"{used}\n")
        (tmp_path / folder / "memory.stat").write_text(f"anon 1\n{inactive}\n")

    two, one = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group("slurm/job_7/step_0", two, "max", 900, "inactive_file 100")
    group("slurm/job_7", two, "1000", 900, "inactive_file 300")
    group("slurm", two, "5000", 2000, "inactive_file 0")
    group("slurm/job_8", two, "10", 10, "inactive_file 0")
    assert sorted(left_in_cgroups("0::/slurm/job_7/step_0\n", tmp_path)) == [1000 - (900 - 300), 3000]
    assert left_in_cgroups("0::/elsewhere", tmp_path) == []
    assert left_in_cgroups("", tmp_path) == []
    group("memory/job", one, "700", 500, "inactive_file 1\ntotal_inactive_file 50")
    group("memory", one, "9000", 1000, "total_inactive_file 0")
    assert left_in_cgroups("9:cpu,cpuacct:/\n4:memory:/job\n0::/", tmp_path) == [250, 8000]
