"""Features of slices: a vision transformer, read from a local folder without executing anything, sees each slice."""

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
"""By model_type of config.json: those whose output begins with a normalised class token, for images of any size."""

_WANTED = "it must be a folder with config.json and model.safetensors"


@dataclass(frozen=True)
class VisionTransformer:
    """A vision transformer with its weights.

    Attributes:
        model: images [N, channels, side, side] -> (tokens [N, T, F], ...), the class token first.
        call: further keywords of the model.
        weights: {name: tensor} as the folder holds them.
        image_size: side of the images that it was trained on, in pixels.
        patch_size: side of a patch in pixels.
        num_channels: of an image.
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
    """Read a vision transformer in the format of Hugging Face: config.json, and model.safetensors or its shards.

    Nothing else is read, nothing is downloaded, and no code or pickle of the folder is executed.

    Args:
        folder: such as a copy of facebook/dinov2-small or microsoft/rad-dino.

    Raises:
        UserError: no such folder, a file that it lacks, weights that do not fit its config.json, another kind of model,
            or transformers is not installed.
    """
    content = _configuration(folder)
    files = _weight_files(folder)
    transformers = _transformers()
    weights = {name: tensor for file in files for name, tensor in _read(file).items()}
    kind = _KINDS[content["model_type"]]
    # torch notes which functions torch.device reaches when it first needs to know: now, and not below, where for a
    # while transformers has another linspace in its place
    with torch.device("cpu"):
        torch.empty(0)
    try:
        model_class = getattr(transformers, kind.name)
        config = model_class.config_class.from_dict(content)
        with _silent(), torch.random.fork_rng(devices=[]):  # what is missing would be drawn
            model, told = model_class.from_pretrained(
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
    _check_complete(folder, told)
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
        raise UserError(f"encoder.checkpoint: '{folder}' holds no config.json; {_WANTED}")
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.checkpoint: '{path}' cannot be read: {error}") from error
    model_type = content.get("model_type") if isinstance(content, Mapping) else None
    if not isinstance(model_type, str) or model_type not in _KINDS:
        raise UserError(
            f"encoder.checkpoint: '{path}' has the model_type {model_type!r}; allowed are {', '.join(_KINDS)}"
        )
    return dict(content)


def _weight_files(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
    if not files:
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        refused = f", and {pickles[0]} is not read, for such a file can execute code" if pickles else ""
        raise UserError(f"encoder.checkpoint: '{folder}' holds no model.safetensors{refused}; {_WANTED}")
    return files


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # comes with transformers
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"encoder.checkpoint: '{path}' holds no weights that can be read: {reason}") from error
    return weights


def _check_complete(folder: Path, told: Mapping[str, Any]) -> None:
    """Refuse what transformers would fill up with random numbers."""
    faults = [f"'{name}' is missing" for name in sorted(told["missing_keys"])]
    other_shapes = (found if isinstance(found, str) else found[0] for found in told["mismatched_keys"])
    faults += [f"'{name}' has another shape" for name in sorted(other_shapes)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"encoder.checkpoint: the weights in '{folder}' do not fit its config.json: {faults[0]}{more}")


def _side(folder: Path, config: Any, key: str) -> int:
    value = getattr(config, key)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise UserError(f"encoder.checkpoint: '{folder}' is for images that are not square: {key} is {list(value)}")
    return int(sides.pop())


@contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers from telling how it reads weights; what matters is told in our words."""
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
    """Class tokens of equidistant axial slices, averaged over them; each modality of a slice is a grey image.

    Intensities are given as they are: z-scores have mean 0 and standard deviation 1, as the images have that such
    transformers are trained on; those of ``data.normalisation=minmax`` lie between -1 and 1. A slice is shown the
    radiological way, the front at the top and the patient's right on the left. A box whose sides D and H differ is
    stretched to a square.

    Attributes:
        num_features: entries of the feature for each modality.
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
            transformer: sees the slices.
            size: (D, H, W) in voxels.
            slices: S, how many; at the middle of each of S equal parts of W.
            image_size: side in pixels to which slices are resized; None: that of the transformer.
            images_at_once: which bounds the memory; the features are the same.

        Raises:
            UserError: more slices than the box has, an image that patches do not fill, or data that are no volumes.
        """
        super().__init__()
        only_volumes(size, "encoder=frozen_slices")
        depth = size[2]
        if slices > depth:
            raise UserError(
                f"encoder.slices: {slices} is not allowed; it is 1 to {depth}, the last side of data.roi_size "
                f"{list(size)}"
            )
        self.image_size = transformer.image_size if image_size is None else image_size
        if self.image_size % transformer.patch_size:
            raise UserError(
                f"encoder.image_size: {self.image_size} is not allowed; it is a multiple of {transformer.patch_size}, "
                "the side of a patch of encoder.checkpoint"
            )
        self.model = transformer.model
        self.call = dict(transformer.call)
        self.num_channels, self.num_features = transformer.num_channels, transformer.num_features
        self.images_at_once = images_at_once
        self.register_buffer("positions", (2 * torch.arange(slices) + 1) * depth // (2 * slices), persistent=False)

    def forward(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] and bool [B, C] -> ``slices`` [B, C * F], 0 for modalities that are missing."""
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
