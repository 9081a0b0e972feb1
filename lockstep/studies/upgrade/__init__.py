"""Whether other releases change what training means: golden traces, and runs elsewhere."""
