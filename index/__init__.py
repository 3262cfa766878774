"""The torch-free middle of Kindred: pixels, the encoder artefact, the collection."""
