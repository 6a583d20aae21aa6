"""Errors, sentences for people and their languages, units, strict YAML, preset files and whole-file
output: code that needs no GPU and no model. Of our own packages it imports ``presets`` alone."""
