"""Published runs replayed on simulated cards, with the versions that their rows state."""
