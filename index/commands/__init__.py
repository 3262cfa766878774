"""The commands of ``kindred-index``: each file owns a command's flags, its run and its words."""
