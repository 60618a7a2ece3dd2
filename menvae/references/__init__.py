"""References of R2: what a cohort allows at most, at least, and by another way.

- ``floor``: ridge regression of the targets on block means of the images, or on the columns of a table;
- ``ceiling``: the encoder of the run with a linear head, built anew and trained on the targets alone;
- ``segmented``: a U-Net trained on the masks, whose predicted masks are measured like true ones.

All are fitted to the training subjects and read the validation and test subjects; the trained ones choose when to stop
on the validation subjects, as a run does. They are computed once for a cohort and kept in the output directory
(`menvae.references.store`). Each depends on the hashes of data and targets, the split and the form of the images, the
trained ones also on the augmentation, and the ceiling on the configuration of the encoder. Nothing else of a run
changes them but for rounding: they have a seed, batches and an order of their own, and train in float32. Smaller
batches or a lower precision of the run only lower how many volumes pass through a network at once, for its memory;
only an encoder with dropout, or one that normalises over the volumes of a batch, would notice.
"""
