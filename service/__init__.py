"""The HTTP service: collections, images, search and duplicates, and a web page over them."""

import os

# Before NumPy is loaded: threads of its BLAS spin while they wait, on the processors that encode
# and compare pictures. Its products are small here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
