"""Terminal output: log lines and progress bars."""
