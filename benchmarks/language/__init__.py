"""What replies are as language, which a small world's own model never needed to be asked."""
