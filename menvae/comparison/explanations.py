"""How to read the page of a comparison."""

from __future__ import annotations

from typing import Final

from menvae.statistics.discoveries import FALSE_DISCOVERY_RATE

READING: Final = (
    ("Configuration", "Runs that differ only in their seed and fold. Its numbers are means over them."),
    (
        "\N{PLUS-MINUS SIGN} in a table of configurations",
        "Standard deviation over the runs (n \N{MINUS SIGN} 1), not the standard error of the mean.",
    ),
    (
        "Passed",
        "Number of gates that a run passes, of those with a value, averaged over the runs; its gates.json lists them.",
    ),
    (
        "Test",
        "The same gates on the test split. They choose nothing: ranks, front, effects and differences are those of the "
        "validation split. A run passes if all gates of both splits pass.",
    ),
    (
        "Verdict",
        "pass or fail: the 95 % interval over patients lies on one side of the target; undecided: it contains the "
        "target; not computed: no value. Only pass is passed.",
    ),
    ("Mean rank", "Rank among the configurations, averaged over the gates: independent of scale; 1 is best."),
    ("Best", "Most gates passed, then lowest mean rank. The best of many is biased upwards: run more seeds."),
    ("Front", "Configurations for which no other is at least as good in every gate and better in one."),
    (
        "Hypervolume beyond the targets",
        "Volume between the targets and the front, in units of the gates; 0 unless a configuration meets every target.",
    ),
    (
        "Range that the front dominates",
        "The same volume, measured from a tenth of the range beyond the worst value of every gate, as a fraction of "
        "the box up to the best. It depends on the set of configurations.",
    ),
    (
        "Effect of a key",
        "Mean over all runs with that value, \N{PLUS-MINUS SIGN} half-width of its 95 % interval by Student's t: over "
        "the seeds and folds if every value was run with the same settings of the other keys, else over the "
        "configurations with that value. The range is the largest minus the smallest mean.",
    ),
    (
        "Importance of a key",
        "Share of a gate's variance between configurations that the key explains alone (functional ANOVA of a random "
        "forest, by Optuna), every swept value weighing the same. What is left is explained by keys together.",
    ),
    (
        "Bars in pictures of trade-offs",
        "95 % interval of the mean over the runs; of a single run, the interval over patients.",
    ),
    (
        "Differences",
        "Paired by seed and fold with the baseline; 95 % confidence interval of the mean by Student's t. The variance "
        "of folds is corrected for the training subjects that they share (Nadeau and Bengio 2003), by the number of "
        "subjects that a fold tests for each that it trains on, without those that validate. Coloured and starred if "
        "the p-value, adjusted for all tests of the table (false discovery rate of Benjamini and Hochberg), is below "
        f"{FALSE_DISCOVERY_RATE}.",
    ),
    (
        "Out of fold",
        "The test splits of all folds pooled: each subject is judged once per seed, by the model that has not seen it. "
        "The value is the mean over the seeds, the interval that of the BCa bootstrap over patients, with all visits "
        "of a patient together: how sure the value of these trained models is, not how much others would differ. It "
        "chooses nothing.",
    ),
)


LEAKS: Final = (
    "R2 of a target read from a partition that it does not supervise, beyond what that partition's targets say; "
    "validation split, above its permutation null."
)
