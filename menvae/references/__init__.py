"""References beside the R2 of a run: what the cohort allows at most, at least, and by segmenting first."""
