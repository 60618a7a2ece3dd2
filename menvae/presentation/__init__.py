"""Common style of the pages, pictures and tables of all commands."""
