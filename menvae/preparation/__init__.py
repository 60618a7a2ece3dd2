"""``menvae-prepare``: check, prepare and describe a cohort, for review by those who know the data."""
