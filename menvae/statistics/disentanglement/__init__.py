"""Disentanglement scores of groups of code dimensions (partitions) and groups of continuous, dependent factors.

`readings` measures once what each code group says of each factor, and `occupancies` what factors say of each code
group. Every score is a formula on one of the two, in a file of its own. All scores are 1 for an ideal code: each code
group determines one factor group linearly, and depends on other factors only through it. They depend neither on the
order of dimensions and groups nor on scale, and dead and noise dimensions and groups have no influence beyond the
sampling error.
"""

from menvae.statistics.disentanglement.beta_vae import beta_vae_score
from menvae.statistics.disentanglement.dci import Dci, dci
from menvae.statistics.disentanglement.dci_es import DciEs, dci_es
from menvae.statistics.disentanglement.factor_vae import factor_vae_score
from menvae.statistics.disentanglement.infomec import InfoMec, infomec
from menvae.statistics.disentanglement.irs import irs
from menvae.statistics.disentanglement.mig import mig
from menvae.statistics.disentanglement.occupancies import Occupancies, occupancies
from menvae.statistics.disentanglement.readings import Readings, readings
from menvae.statistics.disentanglement.sap import sap

__all__ = [
    "Dci",
    "DciEs",
    "InfoMec",
    "Occupancies",
    "Readings",
    "beta_vae_score",
    "dci",
    "dci_es",
    "factor_vae_score",
    "infomec",
    "irs",
    "mig",
    "occupancies",
    "readings",
    "sap",
]
