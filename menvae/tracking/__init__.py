"""What a run leaves behind while it runs: the local log (first and complete), MLflow (a copy), a progress line, logs."""
