#!/usr/bin/env bash
# torch 2.13.0, gradients of 1x1x1 convolutions on a CPU
#
# Behaviour: for a channels-last volume, the weight gradient of a 1x1x1 Conv3d has the strides of a contiguous tensor
#   with one thread, and those of channels-last with two, whatever the strides of the weight are.
# Expected: the strides of the weight, which the gradient layout contract of DistributedDataParallel asks for. It warns
#   "Grad strides do not match bucket view strides" and copies, on some numbers of threads only: no choice of the
#   weight's memory format avoids it everywhere.
# Seen: one thread (32, 1, 1, 1, 1), two threads (32, 1, 32, 32, 32), for a weight of strides (32, 1, 1, 1, 1)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

last = torch.channels_last_3d


def gradient_strides(num_threads, memory_format):
    torch.set_num_threads(num_threads)
    layer = torch.nn.Conv3d(32, 64, 1, bias=False)
    weight = layer.weight.data
    layer.weight.data = torch.empty_like(weight, memory_format=memory_format).copy_(weight)
    layer(torch.randn(2, 32, 8, 8, 8).contiguous(memory_format=last)).square().sum().backward()
    return layer.weight.stride(), layer.weight.grad.stride()


found = {}
for memory_format in (torch.contiguous_format, last):
    for num_threads in (1, 2):
        of_weight, of_gradient = gradient_strides(num_threads, memory_format)
        print(f"weight {of_weight}, {num_threads} threads: gradient {of_gradient}")
        found[memory_format, num_threads] = of_weight == of_gradient
assert set(found.values()) == {True, False}, "changed: the strides no longer depend on the number of threads"
for memory_format in (torch.contiguous_format, last):
    assert found[memory_format, 1] != found[memory_format, 2], "changed: one memory format suits every number of threads"
PYTHON
