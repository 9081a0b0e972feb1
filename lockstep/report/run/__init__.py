"""The report on one run: its story, in the terminal, as a page and as a summary."""
