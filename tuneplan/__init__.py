"""The command ``tuneplan``: plan and launch under one name, and completion of both in shells."""
