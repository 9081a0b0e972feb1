"""Studies: questions that many trainings answer."""
