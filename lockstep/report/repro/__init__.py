"""A divergence alone, to attach to a bug report: a script and the arrays that it reads."""
