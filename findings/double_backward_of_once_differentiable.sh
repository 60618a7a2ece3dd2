#!/usr/bin/env bash
# torch 2.13.0, torch.autograd.function.once_differentiable under create_graph=True
#
# Behaviour: a custom Function whose backward is marked @once_differentiable raises on a second differentiation only if
#   the gradient that comes in requires a gradient itself. Right below a sum it does not (it is a constant 1), and then
#   the first gradient is returned as a constant: no error, no warning, requires_grad False.
# Expected: "trying to differentiate twice a function that was marked with @once_differentiable" in both cases, as the
#   decorator exists for. A gradient penalty that is added to a loss (R1, WGAN-GP, Jacobian penalties of decoders) has no
#   effect, and the loss still falls.
# Seen: plain x**3: [300.0, 999.0]; marked x**3: [12.0, 27.0], which is the gradient without its penalty
# In menvae: menvae.differentiation.first_order refuses create_graph=True for every custom backward without a second
#   derivative (the total correlation of large batches, buffered dCor, gathering over ranks).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, incoming):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * incoming


def penalised_gradient(cube):
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    loss = cube(x).sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    return torch.autograd.grad(loss + gradient.square().sum(), x)[0].tolist()


plain, marked = penalised_gradient(lambda x: x**3), penalised_gradient(Cube.apply)
print("plain x**3:", plain, "; marked x**3:", marked)
assert plain == [300.0, 999.0], "3x² + 36x³ at 2 and 3"
assert marked == [12.0, 27.0], "changed: the marked function is differentiated twice, or refused"

x, scale = torch.tensor([2.0], requires_grad=True), torch.tensor(1.0, requires_grad=True)
(gradient,) = torch.autograd.grad((scale * Cube.apply(x)).sum(), x, create_graph=True)
try:
    gradient.square().sum().backward()
except RuntimeError as error:
    print("below a factor that is trained:", str(error).splitlines()[0])
    assert "once_differentiable" in str(error), error
else:
    raise SystemExit("changed: no error below a factor that is trained either")
PYTHON
