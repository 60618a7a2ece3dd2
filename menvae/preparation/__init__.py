"""``menvae-prepare``: a cohort is checked, prepared and described, for the eyes of those who know it."""
