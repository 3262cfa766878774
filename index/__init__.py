"""The torch-free middle of Kindred: pixels, the encoder artefact, the collection."""

import os

# ONNX Runtime would report to its maker, and leave a device's number in the home folder. It asks
# when it is imported, which is after this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
