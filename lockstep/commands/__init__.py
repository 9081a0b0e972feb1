"""The commands, a module for each kind; `lockstep.cli` gathers them."""
