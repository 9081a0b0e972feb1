"""Learning rates: closed forms, the table of every update, and curves to look at."""
