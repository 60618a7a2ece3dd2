"""What a person sees in the terminal: log lines and progress."""
