"""How far a synthetic set is from doing what the real one does: one paper, one file."""
