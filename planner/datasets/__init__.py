"""What is known of training data before it is read by a launch: data sets by name, token lengths of
records, and what a sequence length makes of them. The records themselves are read in
``launcher/data``."""
