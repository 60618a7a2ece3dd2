"""What this machine can do: ``menvae-bench``, and what fits into it: ``menvae-plan-resources``."""
