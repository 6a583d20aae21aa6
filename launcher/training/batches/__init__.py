"""Batches whose sequences are not one sample on one rank: several samples packed in a sequence, and
sequences that several ranks share."""
