"""The keys of ``config.json`` by line of architectures: a module for each line, whose table
``ARCHITECTURES`` says how a shape is read from the keys and which keys a shape is written as."""
