"""What can be set: the one place of every default, of what is refused, and of what makes two jobs the same."""
