"""The routes, in files named after what they serve."""
