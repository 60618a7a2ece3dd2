"""Cross-entropy and Dice of label maps, by hand and beside MONAI."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from late import Late

from menvae.registry import build
from menvae.statistics.segmentation import label_sums
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput

monai = Late("monai.losses")

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@pytest.mark.parametrize("name", ["segmentation", "drawn_segmentation"])
def test_as_in_monai(
    name: str, context: TermContext, output_of: Callable[..., ModelOutput], batch_of: Callable[..., Batch]
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, 7, requires_grad=True)
    labels = torch.randint(0, 4, (2, 1, 5, 6, 7), dtype=torch.uint8)
    term = build("term", {"name": "segmentation", "output": name}, context)
    found = term(replace(batch_of(), mask=labels), output_of(**{name: logits}))
    dice = monai.DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0
    )(logits, labels)
    entropy = torch.nn.functional.cross_entropy(logits, labels[:, 0].long())
    assert found[name].item() == pytest.approx((dice + entropy).item(), rel=1e-5)
    ours, others = (torch.autograd.grad(loss, logits)[0] for loss in (found[name], dice + entropy))
    torch.testing.assert_close(ours, others, rtol=1e-4, atol=1e-8)
    assert found[f"{name}_dice"].item() == pytest.approx(1.0 - dice.item(), rel=1e-5)


def test_the_true_labels_have_no_loss(
    context: TermContext, output_of: Callable[..., ModelOutput], batch_of: Callable[..., Batch]
) -> None:
    labels = torch.randint(0, 3, (2, 1, 4, 4, 4))  # one label is nowhere
    certain = 50.0 * torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1).float()
    term = build("term", {"name": "segmentation"}, context)
    found = term(replace(batch_of(), mask=labels.to(torch.uint8)), output_of(segmentation=certain))
    assert found["segmentation"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_all_sums_are_their_slopes(device: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, 1, 2, dtype=torch.float64, device=device, requires_grad=True)
    labels = torch.randint(0, 3, (2, 2, 1, 2), device=device)
    assert torch.autograd.gradcheck(lambda x: tuple(label_sums(x, labels)), (logits,))


def test_memory_format_does_not_matter() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3, 4, 5), torch.randint(0, 4, (2, 3, 4, 5))
    for one, other in zip(
        label_sums(logits.contiguous(memory_format=torch.channels_last_3d), labels),
        label_sums(logits, labels),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("device", DEVICES)
def test_sixteen_bits_are_summed_in_thirty_two(device: str) -> None:
    torch.manual_seed(0)
    logits, labels = (
        torch.randn(1, 4, 64, 64, 64).bfloat16().to(device),
        torch.randint(0, 4, (1, 64, 64, 64)).to(device),
    )
    exact = label_sums(logits.double(), labels)
    with torch.autocast(device, torch.bfloat16):
        found = label_sums(logits, labels)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=0.0)
