"""Commands that teach a model concepts, and that look after the folders they are kept in."""
