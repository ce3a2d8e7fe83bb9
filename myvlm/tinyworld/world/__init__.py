"""What the small world is made of: scenes that know their truth, and how they are drawn."""
