"""Encoding: the latents and predictions of a cohort as a table, by one finished run or several."""
