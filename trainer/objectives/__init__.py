"""One file an objective: its loss, the modules that it owns, and the paper that it follows."""
