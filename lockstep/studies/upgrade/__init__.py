"""Did another release change what training means? Golden traces, and the same run in other environments."""
