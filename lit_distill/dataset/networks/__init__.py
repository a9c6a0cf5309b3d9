"""Where the networks of an objective come from."""
