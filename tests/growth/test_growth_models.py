"""Every registered growth model against the suite of its group."""

from menvae.conformance import GrowthConformance


class TestGrowth(GrowthConformance):
    pass
