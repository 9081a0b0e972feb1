"""Two logs judged by what logs can say: where their numbers part, and how they are related."""
