"""Language quality of replies, for language models that know more than tinyworld's few words."""
