"""Training without torch's compiler: the same numbers, and the compiler is not imported."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import torch
from torch import nn
from menvae.optimizers.adamw import adamw
from menvae.training.determinism import make_deterministic

def trained(build):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    optimizer = build(model.parameters())
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(9, 5)).square().mean().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
    model(torch.randn(9, 5)).square().mean().backward()
    optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]

make_deterministic(torch.device("cpu"))
mine = trained(lambda parameters: adamw(parameters, learning_rate=0.01, weight_decay=0.1, betas=(0.9, 0.99)))
imported = "torch._dynamo" in sys.modules
theirs = trained(
    lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99), fused=True)
)
from menvae.uncompiled import tell_compiler
tell_compiler()
import torch._inductor.config
print(json.dumps({
    "imported": imported,
    "equal": all(map(torch.equal, mine, theirs)),
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "told": torch._inductor.config.deterministic,
}))
"""


def test_steps_are_those_of_torch_and_import_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"imported": False, "equal": True, "deterministic": True, "told": True}
