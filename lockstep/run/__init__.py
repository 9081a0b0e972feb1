"""Training in processes of their own: workers, one whole run, and a run trained again."""
