"""Speak of pictures and of the concepts in them: captions, answers, places, conversations, albums."""
