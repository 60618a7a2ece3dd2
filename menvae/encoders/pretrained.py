"""Pretrained trunks: read from a checkpoint without executing code, permanently frozen, checked for equal inputs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from menvae.encoders import Features
from menvae.encoders.trunk import ResNetTrunk, Stem
from menvae.errors import UserError
from menvae.layers import coarse_grid

_NORMALISATION = "data.normalisation"
"""Must match for frozen weights only: others adapt to it in training."""

_FIRST_BLOCK = re.compile(r"(.*)layers\.0\.body\.0\.")


def load_trunk(
    path: Path, in_channels: int, size: tuple[int, int, int], owner: str
) -> tuple[ResNetTrunk, Mapping[str, str]]:
    """Build the trunk stored in a checkpoint; infer width, stem and spectral norm from its weights.

    Args:
        path: a menvae checkpoint such as ``best.ckpt``, or the state dict of a model, an encoder or a trunk, written
            by `torch.save`.
        in_channels: C, which must match the checkpoint.
        size: (D, H, W) in voxels; may differ from the size in training.
        owner: part to name in an error about ``size``.

    Returns:
        The trunk, and the identity of the run that trained it; empty for a bare state dict.

    Raises:
        UserError: the file does not exist or holds no weights, it holds no trunk or several, or the trunk does not
            match this version, ``in_channels`` or ``size``.
    """
    coarse_grid(size, owner)
    content = _content(path)
    found = _trunk_state(content, path)
    weight = ".0.parametrizations.weight.original" if _is_spectral(found) else ".0.weight"
    stem: Stem = "shared" if f"stem{weight}" in found else "per_modality"
    num_stems = len({name.split(".")[2] for name in found if name.startswith("stem.stems.")})
    num_channels = found[f"stem{weight}"].shape[1] if stem == "shared" else num_stems
    if num_channels != in_channels:
        raise UserError(
            f"encoder.checkpoint: the encoder in '{path}' was trained on {num_channels} modalities, but "
            f"data.modalities has {in_channels}"
        )
    try:
        trunk = ResNetTrunk(
            in_channels,
            size,
            base_filters=len(found["layers.0.body.1.weight"]),
            residual_gain=1.0,
            block_means=None,
            spectral_norm=_is_spectral(found),
            stem=stem,
            owner=owner,
        )
        trunk.load_state_dict({name: weight.float() for name, weight in found.items()}, assign=True)
    except (KeyError, RuntimeError, UserError) as error:
        detail = str(error).splitlines()[-1].strip()
        raise UserError(
            f"encoder.checkpoint: the encoder in '{path}' does not match this version of menvae: {detail}"
        ) from error
    identity = content.get("identity")
    return trunk, identity if isinstance(identity, Mapping) else {}


def _is_spectral(state: Mapping[str, Tensor]) -> bool:
    return any(".parametrizations.weight." in name for name in state)


def _content(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(f"encoder.checkpoint: '{path}' does not exist")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise UserError(f"encoder.checkpoint: cannot read weights from '{path}': {reason}") from error
    return content if isinstance(content, Mapping) else {}


def _trunk_state(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    state = content["model"] if isinstance(content.get("model"), Mapping) else content
    prefixes = {match[1] for match in map(_FIRST_BLOCK.match, map(str, state)) if match}
    if len(prefixes) != 1:
        count = f"{len(prefixes)} encoders" if prefixes else "no encoder"
        raise UserError(
            f"encoder.checkpoint: '{path}' contains {count} with the layers of encoder=resnet; it must contain one"
        )
    (prefix,) = prefixes
    wanted = (f"{prefix}stem.", f"{prefix}layers.")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(wanted)}


class FrozenTrunk(nn.Module):
    """A trunk without parameters and gradient that stays in evaluation mode.

    The weights become non-persistent buffers; checkpoints store only their digest.

    Attributes:
        trained_on: identity of the run that trained the weights, as stored in its checkpoint; empty if unknown.
    """

    def __init__(
        self,
        trunk: nn.Module,
        weights: Mapping[str, Tensor] | None = None,
        *,
        trained_on: Mapping[str, str] | None = None,
    ) -> None:
        """Freeze a trunk.

        Args:
            trunk: inputs [B, C, D, H, W], bool [B, C] or None -> features; modified in place.
            weights: {name: tensor} to compute the digest from; None: the parameters and buffers of the trunk.
            trained_on: see the class.
        """
        super().__init__()
        self.trained_on: Mapping[str, str] = trained_on or {}
        self.trunk = trunk.eval()
        for module in list(self.trunk.modules()):
            if is_parametrized(module, "weight"):  # the estimate of the spectral norm is final
                remove_parametrizations(module, "weight", leave_parametrized=True)
        for module in self.trunk.modules():
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                delattr(module, name)
                module.register_buffer(name, tensor.detach().clone(), persistent=False)
        self._digest = _digest(dict(self.trunk.named_buffers()) if weights is None else weights)

    def forward(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> features of the trunk, without gradient."""
        with torch.no_grad():
            features: Features = self.trunk(inputs, available)
            return features

    def train(self, mode: bool = True) -> FrozenTrunk:
        """Stay in evaluation mode."""
        return super().train(False)

    def get_extra_state(self) -> Tensor:
        """Return the SHA-256 digest of the weights, uint8 [32], for checkpoints."""
        return self._digest.clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Compare with the digest in a checkpoint; raise RuntimeError if its frozen weights differ."""
        if not torch.equal(state.cpu(), self._digest):
            raise RuntimeError("it was trained with frozen weights other than those of encoder.checkpoint")


def check_inputs(model: nn.Module, identity: Mapping[str, str], input_identity: Collection[str]) -> None:
    """Reject frozen weights that were trained on other inputs than those of a run.

    Args:
        model: model of the run; frozen weights of unknown origin are accepted.
        identity: identity of the data (`menvae.data.source.DataSource.identity`).
        input_identity: keys of ``identity`` that define the inputs (`menvae.data.source.DataSource.input_identity`).

    Raises:
        UserError: the value of one of these keys, such as the modalities, or the normalisation differs.
    """
    for trunk in model.modules():
        if not isinstance(trunk, FrozenTrunk):
            continue
        for key in sorted({*input_identity, _NORMALISATION}):
            theirs, mine = trunk.trained_on.get(key), identity.get(key)
            if theirs is not None and mine is not None and theirs != mine:
                raise UserError(
                    f"encoder.checkpoint: its weights were trained with {key} {theirs}, but this configuration has "
                    f"{mine}"
                )


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # numpy has no bfloat16
        digest.update(name.encode() + values.numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
