"""One job from top to bottom: checked, prepared, run here or on a server, and left behind as a Record."""
