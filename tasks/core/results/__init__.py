"""The stages of a store: by the words that a person has for it, in use, and no longer needed."""
