from menvae.conformance.growth import GrowthConformance


class TestGrowth(GrowthConformance):
    pass
