"""Generate captions, answers, locations and conversations that name the concepts in pictures."""
