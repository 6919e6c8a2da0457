"""Records and verdicts in, text and pictures for people out."""
