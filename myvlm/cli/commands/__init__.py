"""The commands, one file each; those about concepts and those about pictures are in subpackages."""
