"""The HTTP service: collections, images, search and duplicates, and a web page over them."""
