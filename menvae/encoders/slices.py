"""Slice features of a vision transformer, read from a local folder without executing code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from menvae.encoders import Features, only_available
from menvae.errors import UserError
from menvae.layers import only_volumes


class _Kind(NamedTuple):
    """How transformers builds and calls one kind of model."""

    name: str
    construction: Mapping[str, Any] = {}
    call: Mapping[str, Any] = {}


_KINDS: Mapping[str, _Kind] = {
    "dinov2": _Kind("Dinov2Model"),
    "dinov2_with_registers": _Kind("Dinov2WithRegistersModel"),
    "dinov3_vit": _Kind("DINOv3ViTModel"),
    "vit": _Kind("ViTModel", {"add_pooling_layer": False}, {"interpolate_pos_encoding": True}),
}
"""model_type of config.json -> kind: models of images of any size whose output starts with a normalised class token."""

_WANTED = "it must be a folder with config.json and model.safetensors"


@dataclass(frozen=True)
class VisionTransformer:
    """A vision transformer with its weights.

    Attributes:
        model: images [N, channels, side, side] -> (tokens [N, T, F], ...), the class token first.
        call: further keyword arguments of the model.
        weights: {name: tensor}, as stored in the folder.
        image_size: side of the training images in pixels.
        patch_size: side of a patch in pixels.
        num_channels: channels of an image.
        num_features: F.
    """

    model: nn.Module
    call: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    image_size: int
    patch_size: int
    num_channels: int
    num_features: int


def load_vision_transformer(folder: Path) -> VisionTransformer:
    """Read a vision transformer in Hugging Face format: config.json, and model.safetensors or its shards.

    Nothing is downloaded, and no code or pickle in the folder is executed.

    Args:
        folder: for example a copy of facebook/dinov2-small or microsoft/rad-dino.

    Raises:
        UserError: the folder or one of its files is missing or unreadable, the weights do not fit config.json, the
            kind of model is not supported, or transformers is not installed.
    """
    content = _configuration(folder)
    files = _weight_files(folder)
    transformers = _transformers()
    weights = {name: tensor for file in files for name, tensor in _read(file).items()}
    kind = _KINDS[content["model_type"]]
    # torch collects the functions that torch.device affects on first use. Trigger that here: inside from_pretrained,
    # transformers temporarily replaces linspace.
    with torch.device("cpu"):
        torch.empty(0)
    try:
        model_class = getattr(transformers, kind.name)
        config = model_class.config_class.from_dict(content)
        with _silent(), torch.random.fork_rng(devices=[]):  # missing weights would be initialised at random
            model, loading_info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=dict(weights),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="sdpa",
                **kind.construction,
            )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        version = transformers.__version__
        raise UserError(f"encoder.checkpoint: transformers {version} cannot build '{folder}': {reason}") from error
    _check_complete(folder, loading_info)
    return VisionTransformer(
        model=model.float(),
        call=kind.call,
        weights=weights,
        image_size=_side(folder, config, "image_size"),
        patch_size=_side(folder, config, "patch_size"),
        num_channels=config.num_channels,
        num_features=config.hidden_size,
    )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"encoder=frozen_slices needs transformers, which cannot be imported ({error}): "
            "pip install 'menvae[slices]'"
        ) from error
    return transformers


def _configuration(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(
            f"encoder.checkpoint: '{folder}' {'is a file' if folder.exists() else 'does not exist'}; {_WANTED}"
        )
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"encoder.checkpoint: '{folder}' contains no config.json; {_WANTED}")
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.checkpoint: '{path}' cannot be read: {error}") from error
    model_type = content.get("model_type") if isinstance(content, Mapping) else None
    if not isinstance(model_type, str) or model_type not in _KINDS:
        raise UserError(f"encoder.checkpoint: '{path}' has model_type {model_type!r}; allowed are {', '.join(_KINDS)}")
    return dict(content)


def _weight_files(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
    if not files:
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        refused = f" ({pickles[0]} is ignored, because loading it can execute code)" if pickles else ""
        raise UserError(f"encoder.checkpoint: '{folder}' contains no model.safetensors{refused}; {_WANTED}")
    return files


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # comes with transformers
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"encoder.checkpoint: cannot read weights from '{path}': {reason}") from error
    return weights


def _check_complete(folder: Path, loading_info: Mapping[str, Any]) -> None:
    """Reject missing or mismatched weights, which transformers initialises at random."""
    faults = [f"'{name}' is missing" for name in sorted(loading_info["missing_keys"])]
    other_shapes = (found if isinstance(found, str) else found[0] for found in loading_info["mismatched_keys"])
    faults += [f"'{name}' has a different shape" for name in sorted(other_shapes)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"encoder.checkpoint: the weights in '{folder}' do not fit its config.json: {faults[0]}{more}")


def _side(folder: Path, config: Any, key: str) -> int:
    value = getattr(config, key)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise UserError(f"encoder.checkpoint: '{folder}' has {key} {list(value)}; only squares are supported")
    return int(sides.pop())


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the loading messages of transformers; menvae reports errors itself."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


class SliceTrunk(nn.Module):
    """Average the class tokens of equidistant axial slices; each modality of a slice is one grey image.

    Intensities are not rescaled: z-scores have mean 0 and standard deviation 1, like the training images of such
    transformers; with ``data.normalisation=minmax`` they lie in [-1, 1]. Slices are in radiological orientation, with
    anterior at the top and the patient's right on the left. A box with D != H is stretched to a square.

    Attributes:
        num_features: F, number of features per modality.
    """

    positions: Tensor

    def __init__(
        self,
        transformer: VisionTransformer,
        size: tuple[int, int, int],
        *,
        slices: int,
        image_size: int | None,
        images_at_once: int,
    ) -> None:
        """Build the trunk.

        Args:
            transformer: transformer to apply to the slices.
            size: (D, H, W) in voxels.
            slices: S, number of slices, at the centres of S equal parts of W.
            image_size: side in pixels to which slices are resized; None: the transformer's own.
            images_at_once: images per call; limits memory without changing the features.

        Raises:
            UserError: ``slices`` exceeds W, ``image_size`` is not a multiple of the patch size, or the data are not
                volumes.
        """
        super().__init__()
        only_volumes(size, "encoder=frozen_slices")
        depth = size[2]
        if slices > depth:
            raise UserError(
                f"encoder.slices: {slices} is not allowed; it must be between 1 and {depth}, the last side of "
                f"data.roi_size {list(size)}"
            )
        self.image_size = transformer.image_size if image_size is None else image_size
        if self.image_size % transformer.patch_size:
            raise UserError(
                f"encoder.image_size: {self.image_size} is not allowed; it must be a multiple of "
                f"{transformer.patch_size}, the patch size of encoder.checkpoint"
            )
        self.model = transformer.model
        self.call = dict(transformer.call)
        self.num_channels, self.num_features = transformer.num_channels, transformer.num_features
        self.images_at_once = images_at_once
        self.register_buffer("positions", (2 * torch.arange(slices) + 1) * depth // (2 * slices), persistent=False)

    def forward(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W], bool [B, C] or None -> ``slices`` [B, C * F], 0 for missing modalities."""
        images = only_available(inputs, available)[..., self.positions].permute(0, 1, 4, 3, 2).flip(-2, -1)
        tokens = [self._class_tokens(some) for some in torch.split(images.flatten(0, 2), self.images_at_once)]
        features = torch.cat(tokens).reshape(*images.shape[:3], -1).mean(dim=2)
        if available is not None:
            features = features.masked_fill(~available.unsqueeze(2), 0.0)
        return {"slices": features.flatten(1)}

    def _class_tokens(self, images: Tensor) -> Tensor:
        """Images [N, H, D] -> [N, F]."""
        side = (self.image_size, self.image_size)
        resized = interpolate(images.unsqueeze(1), side, mode="bilinear", antialias=True, align_corners=False)
        tokens: Tensor = self.model(pixel_values=resized.expand(-1, self.num_channels, -1, -1), **self.call)[0]
        return tokens[:, 0]
