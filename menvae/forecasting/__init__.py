"""Forecasts of held-out visits: patients from tables, runs and masks, protocols, judging, and a page."""
