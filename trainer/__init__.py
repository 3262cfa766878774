"""Contrastive pretraining; the only part of Kindred that needs torch."""
