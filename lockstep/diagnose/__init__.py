"""From traces to a verdict and the first place where they part."""
