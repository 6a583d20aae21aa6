"""What the pages of docs/ and the README show: generated tables, a picture, commands, links."""
