"""What a run leaves behind: the local log (first and complete), MLflow (a copy of it), a progress line, messages."""
