"""The look that pages, pictures and tables of all commands share."""
