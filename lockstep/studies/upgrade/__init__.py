"""Whether another release changed what training means: golden traces, and the same run in other
environments."""
