"""Text out of tokens as they come, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer as BackendTokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MISSING_BYTES = 3  # a character has at most four bytes, so at most three tokens lead up to it
_WINDOW_LEN = 64
_TOKEN_ID_LIMIT = 2**32


class IncrementalDecoder:
    """Gives out the text each token adds, and holds back what later tokens may still change.

    Tokens are not characters: a character may be spread over several, and a tokenizer may write a
    token differently at the start of a text. So a short window of tokens is decoded together each
    time, and what is new at its end is given out, up to the first byte of an unfinished character.

    What was given out, and `flush()` after it, join to the text of all tokens, special tokens left
    out. Only after 64 tokens that together make no whole character may a replacement character be
    lost or added. Any sequence of integers is accepted: an id outside the vocabulary has no text.
    """

    def __init__(self, backend: BackendTokenizer, context: Sequence[int] = ()) -> None:
        """`context`: the last tokens of the prompt, so that a text that goes on after a prompt
        begins with its space. Their own text is not given out."""
        self._backend = backend
        self._window = [token for token in context[-_WINDOW_LEN:] if _is_token_id(token)]
        # Tokens at the window's start whose characters were whole when they were given out.
        self._settled = len(self._window)
        self._shown = len(self._decode())

    def push(self, token_id: int) -> str:
        """The text that is certain now and was not before; often ""."""
        if not _is_token_id(token_id):
            return ""
        self._window.append(token_id)
        text = self._decode()
        certain = len(text) - self._held_len(text)
        delta = text[self._shown : certain]
        self._shown = max(self._shown, certain)
        if certain == len(text):
            self._settle(bool(delta))
        elif len(self._window) - self._settled > _WINDOW_LEN:
            self._settled = len(self._window) - _MISSING_BYTES - 1
            self._drop_settled()
        return delta

    def flush(self) -> str:
        """No token follows: what was held back, unfinished characters as U+FFFD."""
        delta = self._decode()[self._shown :]
        self._shown += len(delta)
        return delta

    def _decode(self) -> str:
        return self._backend.decode(self._window, skip_special_tokens=True)

    def _held_len(self, text: str) -> int:
        """How many characters at the end of `text` may still become others.

        A tokenizer that falls back to bytes writes a run of byte tokens that ends in the middle of
        a character as replacement characters from its beginning on, the settled part included.
        """
        trailing = len(text) - len(text.rstrip(_REPLACEMENT))
        return min(trailing, self._settled + _MISSING_BYTES)

    def _settle(self, has_text: bool) -> None:
        """All of the window's text is given out: keep the last piece of it as context."""
        if not has_text:
            del self._window[self._settled :]
            return
        del self._window[: self._settled]
        self._settled = len(self._window)
        self._shown = len(self._decode())

    def _drop_settled(self) -> None:
        del self._window[: self._settled]
        self._settled = 0
        text = self._decode()
        self._shown = len(text) - self._held_len(text)


def _is_token_id(token_id: int) -> bool:
    return 0 <= token_id < _TOKEN_ID_LIMIT
