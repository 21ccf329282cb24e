"""Stop strings: which of a request's text may be shown, while it is still being written."""

from __future__ import annotations


class StopStrings:
    """Passes text on until one of `stop` appears in it, however the text is cut into pieces.

    The stop string itself and all after it are dropped. Text that may turn out to be the
    beginning of a stop string is held back until it is known. Of several stop strings the one
    that is complete first wins, of several complete at the same character the longest; so
    what is emitted does not depend on where the pieces were cut.

    A character costs time in the number of stop strings, not in their length.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        """`stop` may be empty; its strings may not (ValueError)."""
        self._patterns = [_Pattern(text) for text in dict.fromkeys(stop)]
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared; from then on nothing is emitted."""
        return self._stopped

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece: (what can be shown now, whether a stop string has appeared)."""
        if self._stopped:
            return "", True
        if not self._patterns:  # as with most requests
            return text, False
        pending = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            complete_len = max((p.push(character) for p in self._patterns), default=0)
            if complete_len:
                self._held, self._stopped = "", True
                return pending[: end - complete_len], True
        held_len = max((p.matched_len for p in self._patterns), default=0)
        emitted_len = len(pending) - held_len
        self._held = pending[emitted_len:]
        return pending[:emitted_len], False

    def flush(self) -> str:
        """No text follows: what was held back, "" after a stop."""
        held, self._held = self._held, ""
        for pattern in self._patterns:
            pattern.matched_len = 0
        return held


class _Pattern:
    """Knuth-Morris-Pratt matching of one string, a character at a time.

    `matched_len` is the length of the longest beginning of the string that the text seen so
    far ends in.
    """

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("a stop string must not be empty; leave it out")
        self._text = text
        self._borders = _borders(text)
        self.matched_len = 0

    def push(self, character: str) -> int:
        """Take one character; the length of the string if it is complete now, else 0.

        Nothing may follow once it is complete.
        """
        matched_len = self.matched_len
        while matched_len and self._text[matched_len] != character:
            matched_len = self._borders[matched_len - 1]
        if self._text[matched_len] == character:
            matched_len += 1
        self.matched_len = matched_len
        return matched_len if matched_len == len(self._text) else 0


def _borders(text: str) -> list[int]:
    """For each prefix text[:i + 1], the length of its longest proper prefix that also ends it."""
    borders = [0]
    length = 0
    for character in text[1:]:
        while length and text[length] != character:
            length = borders[length - 1]
        if text[length] == character:
            length += 1
        borders.append(length)
    return borders
