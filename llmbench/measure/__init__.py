"""How long did it take, what did it use, and what could the device do at most? This room knows no model."""
