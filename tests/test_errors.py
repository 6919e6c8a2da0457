"""A message is one line that a terminal can show, whatever it quotes."""

from llmbench.errors import LONGEST, CheckpointError


def test_what_a_message_quotes_cannot_add_lines_or_move_the_cursor():
    message = str(CheckpointError("tensor a\nllmbench: all is well\x1b[2J\u2028; fetch it again"))
    assert message == "tensor a\\nllmbench: all is well\\x1b[2J\\u2028; fetch it again"
    assert str(CheckpointError(message)) == message
    assert str(CheckpointError("größer als 5 € 漢")) == "größer als 5 € 漢"


def test_a_long_message_keeps_what_is_wrong_and_what_to_do():
    message = str(CheckpointError(f"checkpoint x: key is {'A' * 10**6}; remove it"))
    assert message.startswith("checkpoint x: key is AAA")
    assert message.endswith("AAA; remove it")
    assert len(message) == LONGEST + len(" ... ")
