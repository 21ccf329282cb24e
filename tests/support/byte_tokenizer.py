"""A tokenizer of bytes: ids 0 to 255 are the bytes of UTF-8, 256 ends a text."""

from collections.abc import Sequence

from motet.errors import RequestRefused


class ByteTokenizer:
    """As small as a tokenizer can be and still be one."""

    vocab_size = 257
    eos_ids = frozenset({256})

    def __init__(self, *, has_chat_template: bool = True) -> None:
        self.has_chat_template = has_chat_template

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def apply_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        if not self.has_chat_template:
            raise RequestRefused("The base has no chat template.", "no_chat_template", "messages")
        turns = (f"<{message['role']}>{message['content']}\n" for message in messages)
        return self.encode("".join(turns) + "<assistant>")

    def token_text(self, token_id: int) -> str:
        return bytes([token_id]).decode(errors="replace") if token_id < 256 else "<end>"
