"""What no GPU and no model is needed for: errors, units, strict YAML with its messages, preset
files, and whole-file output. It imports no other package of ours but ``presets``."""
