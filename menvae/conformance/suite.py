"""Base of all conformance suites: the YAML file of a part must match its constructor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.registry import Bound, Part, bind, configuration_folder, folder_of, parts


@dataclass(frozen=True)
class Case:
    """A part under test, with values that deviate from its YAML file."""

    part: Part
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        values = (f"{key}={value}" for key, value in self.settings.items())
        return "-".join([self.part.name, *values])

    def config(self) -> dict[str, Any]:
        """Return the configuration of the part: its YAML file, with the deviations of this case."""
        config = composed(self.part)
        for key in self.part.tunables:
            if OmegaConf.is_missing(config, key) and key not in self.settings:
                pytest.fail(f"'{key}' is required: set it in `variants` of '{self.part.name}'")
        container = OmegaConf.to_container(config, resolve=True)
        assert isinstance(container, dict)
        return {**{str(key): value for key, value in container.items()}, **self.settings}

    def bound(self) -> Bound:
        """Return the part with a checked configuration, to be called with the arguments that code supplies."""
        return bind(self.part.group, self.config())


class PartConformance:
    """Base of all suites.

    Attributes:
        group: registry group.
        names: parts to test; None: every registered part of the group, including installed plugins.
        others: parts with their own suite, because they take another kind of input.
        variants: {part name: deviations from its YAML file to test}; other parts are tested without deviations.
    """

    group: ClassVar[str]
    names: ClassVar[Sequence[str] | None] = None
    others: ClassVar[Sequence[str]] = ()
    variants: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes ``case`` once per variant, and one that takes ``part`` once per part."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases(), ids=str)
        if "part" in metafunc.fixturenames:
            metafunc.parametrize("part", self.parts(), ids=lambda part: part.name)

    @classmethod
    def parts(cls) -> list[Part]:
        """Return the parts under test."""
        registered = {part.name: part for part in parts() if part.group == cls.group}
        wanted = set(registered) - set(cls.others) if cls.names is None else set(cls.names)
        return [part for name, part in registered.items() if name in wanted]

    @classmethod
    def cases(cls) -> list[Case]:
        """Return all variants of the parts under test."""
        return [Case(part, settings) for part in cls.parts() for settings in cls.variants.get(part.name, [{}])]

    def test_names_are_registered(self) -> None:
        registered = {part.name for part in self.parts()}
        assert set(self.names or ()) <= registered
        assert registered

    def test_yaml_says_the_same_as_the_constructor(self, part: Part) -> None:
        config = composed(part)
        assert config.name == part.name
        assert set(config) - {"name"} == set(part.tunables)
        for key, (_, default) in part.tunables.items():
            if default is ...:
                assert OmegaConf.is_missing(config, key), f"{key} has no default: write '{key}: ???'"
            else:
                assert plain(config[key]) == plain(default), key

    def test_configuration_is_accepted(self, case: Case) -> None:
        assert set(case.bound().settings) == set(case.part.tunables)

    def test_refuses_a_key_it_does_not_know(self, case: Case) -> None:
        with pytest.raises(UserError, match="no_such_key") as caught:
            bind(case.part.group, {**case.config(), "no_such_key": 1})
        assert "\n" not in str(caught.value)

    def test_says_what_it_is(self, part: Part) -> None:
        assert part.summary, "menvae-parts needs a first docstring line to show"


Size = tuple[int, ...]


class VolumeConformance(PartConformance):
    """Base of the suites of parts that read or draw a box of voxels.

    Attributes:
        size: box of most tests; at 1/16 of the resolution its depth is 2, where bfloat16 fails on CPU.
        other_sizes: further valid boxes.
        refused_sizes: boxes that a part must either accept or reject with a UserError when it is built.
        num_channels: C.
        layout: partitions of z.
        batch_size: B.
    """

    size: ClassVar[Size] = (32, 16, 16)
    other_sizes: ClassVar[tuple[Size, ...]] = ((16, 32, 16), (16, 16, 48))
    refused_sizes: ClassVar[tuple[Size, ...]] = ((24, 16, 16), (16, 8, 16), (16, 16, 17))
    num_channels: ClassVar[int] = 2
    layout: ClassVar[LatentLayout] = LatentLayout({"vol": 1, "loc": 1, "shape": 2, "residual": 2})
    batch_size: ClassVar[int] = 3

    def build(self, case: Case, size: Size | None = None) -> nn.Module:
        """Return a seeded part for a box."""
        raise NotImplementedError

    def check_shapes(self, module: nn.Module, size: Size) -> None:
        """Run the part on a batch and check its output."""
        raise NotImplementedError

    def test_gives_finite_float32_of_the_right_shape(self, case: Case) -> None:
        for size in (self.size, *self.other_sizes):
            self.check_shapes(self.build(case, size), size)

    def test_box_it_cannot_work_on_is_refused_in_words(self, case: Case) -> None:
        for size in self.refused_sizes:
            words = refusal(functools.partial(self.build, case, size))
            if words:
                assert "data.roi_size" in words
                assert any(str(side) in words for side in size)
            else:
                self.check_shapes(self.build(case, size), size)


class RowConformance(VolumeConformance):
    """Settings of the suites of encoders and decoders of the rows of a table."""

    size: ClassVar[Size] = ()
    other_sizes: ClassVar[tuple[Size, ...]] = ()
    refused_sizes: ClassVar[tuple[Size, ...]] = ((16, 16, 16),)
    batch_size: ClassVar[int] = 16


def configuration_file(part: Part) -> Path:
    """Return the path of the YAML file of a part, in the package that registered it."""
    own = configuration_folder(part.origin)
    assert own is not None, f"package '{part.origin}' has no folder 'conf'"
    path = own / folder_of(part.group) / f"{part.name}.yaml"
    assert path.is_file(), f"{path} does not exist"
    return path


@functools.cache
def composed(part: Part) -> DictConfig:
    """Return ``conf/<group>/<name>.yaml`` of the package that registered a part, with its defaults list resolved."""
    own, common = configuration_file(part).parents[1], configuration_folder("menvae")
    with initialize_config_dir(str(own), version_base="1.3"):
        config = compose(f"{part.group}/{part.name}", [f"hydra.searchpath=[file://{common}]"])
    group = config[part.group]
    assert isinstance(group, DictConfig)
    return group


def plain(value: Any) -> Any:
    """Return a value with all mappings and sequences converted to lists, in order."""
    if isinstance(value, Mapping):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def refusal(build: Callable[[], object]) -> str:
    """Return the message of the UserError that ``build`` raises, or an empty string."""
    try:
        build()
    except UserError as error:
        return str(error)
    return ""


def seeded(seed: int = 0) -> torch.Generator:
    """Return a seeded generator for the examples of a test."""
    return torch.Generator().manual_seed(seed)


def random_sum(*tensors: Tensor) -> Tensor:
    """Return the sum of all entries of all tensors, each with its own random weight."""
    generator = seeded(99)
    return torch.stack([(t.float() * torch.randn(t.shape, generator=generator)).sum() for t in tensors]).sum()


def parameters_without_gradient(module: nn.Module) -> list[str]:
    """Return the names of the parameters whose gradient is missing, zero everywhere or not finite."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.any() or not torch.isfinite(parameter.grad).all()
    ]


def relative_distance(ours: Tensor, reference: Tensor) -> float:
    """Return |ours - reference| / |reference| in the L2 norm."""
    reference = reference.detach().float()
    return float((ours.detach().float() - reference).norm() / reference.norm())
