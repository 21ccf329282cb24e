"""An adapter's two files as a multipart form, handed on part by part as the bytes come in."""

from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from motet.api.errors import WrongContentType
from motet.errors import RequestRefused

_FILENAME_CHARS = 255


class _Form:
    """The parser's callbacks: headers of the current part, and the data not handed on yet."""

    def __init__(self) -> None:
        self.data: list[tuple[str, bytes]] = []
        self.ended = False
        self._seen: set[str] = set()
        self._filename = ""
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""

    def on_part_begin(self) -> None:
        self._headers = {}

    def on_header_begin(self) -> None:
        self._field = self._value = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value

    def on_headers_finished(self) -> None:
        self._filename = _part_name(self._headers.get(b"content-disposition", b""))
        if self._filename in self._seen:
            raise RequestRefused(
                f"The form holds {self._filename!a} more than once; send each file once.",
                "repeated_part",
            )
        self._seen.add(self._filename)
        # An empty part is a file too: its name has to be judged.
        self.data.append((self._filename, b""))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.data.append((self._filename, data[start:end]))

    def on_end(self) -> None:
        self.ended = True


async def form_files(
    content_type: str, body: AsyncIterator[bytes]
) -> AsyncIterator[tuple[str, bytes]]:
    """(file name, some of its bytes) in the order sent. Holds no more than one read of `body`.

    A part is named by its filename, or by its field where it has none, so that both
    `-F adapter_config.json=@file` and a client's `files={"a": file}` work.
    Raises WrongContentType and RequestRefused.
    """
    form = _Form()
    parser = MultipartParser(
        _boundary(content_type),
        {
            "on_part_begin": form.on_part_begin,
            "on_header_begin": form.on_header_begin,
            "on_header_field": form.on_header_field,
            "on_header_value": form.on_header_value,
            "on_header_end": form.on_header_end,
            "on_headers_finished": form.on_headers_finished,
            "on_part_data": form.on_part_data,
            "on_end": form.on_end,
        },
    )
    async for chunk in body:
        try:
            parser.write(chunk)
        except FormParserError:
            raise _malformed() from None
        arrived, form.data = form.data, []
        for piece in arrived:
            yield piece
    if not form.ended:
        raise _malformed()


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise WrongContentType(
            "Send adapter_config.json and adapter_model.safetensors as multipart/form-data, such "
            "as curl's -F adapter_config.json=@adapter_config.json; or PUT each to .../files/NAME."
        )
    return boundary


def _part_name(disposition: bytes) -> str:
    _, options = parse_options_header(disposition)
    name = options.get(b"filename") or options.get(b"name") or b""
    return name.decode("utf-8", "replace")[:_FILENAME_CHARS]


def _malformed() -> RequestRefused:
    return RequestRefused(
        "The multipart form is malformed or ends early; send it again.", "invalid_multipart"
    )
