"""The commands, one file each; those of concepts and those of pictures in rooms of their own."""
