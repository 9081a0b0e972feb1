"""What a comparison found, told in the terminal, as one HTML file and as JSON."""
