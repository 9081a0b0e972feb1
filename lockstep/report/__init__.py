"""Reports: every verdict in the terminal, as one HTML file, and as JSON, Markdown or JUnit XML."""
