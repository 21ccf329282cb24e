"""Uploads made to harm, each for the base `RandomBase.llama()` and refused by an honest server.

Sources: what the safetensors library and PEFT accept and must not be accepted from strangers, and
published vulnerabilities of servers that take uploads.
"""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tests.support.adapter_files import PREFIX, AdapterFiles, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.hostile_tensors import bent_tensors

Header = dict[str, object]

# Each takes re.match minutes on a name as long as a module's path; doubled per character.
SLOW_EXPRESSIONS = (
    "(([a-z_0-9.])+)+!",
    "(a|a|[a-z.0-9_])*$^",
    "(.*.*)*\\1x",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
)


class Hostile(NamedTuple):
    config: bytes
    weights: bytes
    says: str  # an expression that the refusal must match


def valid() -> AdapterFiles:
    return random_adapter(RandomBase.llama())


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def taken_apart(weights: bytes) -> tuple[Header, bytes]:
    """The header's JSON and the data behind it."""
    end = 8 + int.from_bytes(weights[:8], "little")
    return json.loads(weights[8:end]), weights[end:]


def corpus() -> dict[str, Hostile]:
    """By name."""
    files = valid()
    config, weights = files.config_bytes, files.weights_bytes
    cases: dict[str, Hostile] = {}
    bent = (*_whole_files(weights), *_headers(weights), *_names(weights), *bent_tensors(files))
    for name, bad_weights, says in bent:
        cases[f"weights: {name}"] = Hostile(config, bad_weights, says)
    for name, bad_config, says in (*_json(config), *_values(files), *_expressions(files)):
        cases[f"config: {name}"] = Hostile(bad_config, weights, says)
    return cases


def pickle_bomb(marker: str) -> bytes:
    """Touches the file `marker` when it is unpickled."""
    return pickle.dumps(_Command(f"touch {marker}"))


class _Command:
    def __init__(self, line: str) -> None:
        self._line = line

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self._line,)


_Case = tuple[str, bytes, str]


def _whole_files(weights: bytes) -> Iterator[_Case]:
    header, data = taken_apart(weights)
    not_whole = "not a whole safetensors file"
    yield "empty", b"", not_whole
    yield "seven bytes", weights[:7], not_whole
    yield "only the length", weights[:8], not_whole
    for length in (2**63, 2**64 - 1, 2**31, 100_000_000):
        yield f"header of {length} bytes", length.to_bytes(8, "little") + weights[8:], "claims"
    longer = len(weights).to_bytes(8, "little") + weights[8:]
    yield "header longer than the file", longer, "ends after the file"
    spaced = json.dumps(header).encode() + b" " * (1 << 20)
    yield "header over the limit", safetensors(spaced, data), "claims"
    yield "trailing byte", weights + b"\0", "follow its last tensor"
    yield "truncated", weights[:-1], "ends 1 bytes early"
    yield "zip behind", weights + _zip(), "follow its last tensor"
    yield "zip", _zip(), "save_pretrained"
    yield "tar with a link", _tar(), "save_pretrained"
    yield "pickle", pickle_bomb("/nowhere"), "save_pretrained"
    yield "pickle protocol 0", pickle.dumps(_Command("true"), 0), "save_pretrained"
    yield "gzip", b"\x1f\x8b\x08" + bytes(99), "save_pretrained"
    yield "GGUF", b"GGUF\3\0\0\0" + bytes(99), "save_pretrained"
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(99), "save_pretrained"
    yield "numpy object array", b"\x93NUMPY\1\0v\0{'descr':'|O'}" + bytes(99), "save_pretrained"


def _headers(weights: bytes) -> Iterator[_Case]:
    header, data = taken_apart(weights)
    text = json.dumps(header)
    first = next(name for name in header if name != "__metadata__")
    entry = header[first]
    assert isinstance(entry, dict)

    def with_entry(**fields: object) -> bytes:
        return safetensors(json.dumps({**header, first: {**entry, **fields}}).encode(), data)

    def raw(old: str, new: str) -> bytes:
        assert old in text
        return safetensors(text.replace(old, new, 1).encode(), data)

    begin, end = entry["data_offsets"]
    shape = json.dumps(entry["shape"])
    for name, written in (
        ("empty", b""),
        ("null", b"null"),
        ("a list", b"[]"),
        ("a string", b'"x"'),
        ("cut", text.encode()[:-1]),
        ("doubled", text.encode() * 2),
        ("UTF-16", text.encode("utf-16")),
        ("byte order mark", b"\xef\xbb\xbf" + text.encode()),
        ("not UTF-8", text.encode().replace(b"F32", b"F\xff2", 1)),
        ("single quotes", text.replace('"', "'").encode()),
        ("100,000 brackets", b"[" * 100_000),
        ("100,000 objects", b'{"a":' * 100_000),
        ("deep and closed", b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"),
    ):
        yield f"header {name}", safetensors(written, data), "JSON|nested"
    deep = {**header, "__metadata__": _nested(40)}
    yield "deep metadata", safetensors(json.dumps(deep).encode(), data), "nested deeper"
    for odd in (None, [], "x", 1, {"a": 1}, {"a": None}, {"a": {"b": "c"}}):
        noted = json.dumps({**header, "__metadata__": odd}).encode()
        yield f"metadata {odd!r}", safetensors(noted, data), "object of strings"
    yield "name twice", raw("{", f"{{{json.dumps(first)}: {json.dumps(entry)}, "), "twice"
    yield "field twice", raw('"dtype": "F32"', '"dtype": "F16", "dtype": "F32"'), "twice"
    yield "metadata twice", raw("{", '{"__metadata__": {}, '), "twice"
    for number in ("NaN", "Infinity", "-Infinity", "1e400"):
        yield f"shape {number}", raw(shape, f"[{number}, 4]"), "finite"
    yield "shape of 5000 digits", raw(shape, f"[{'9' * 5000}, 4]"), "JSON"
    for odd in (True, 4.0, -1, "4", None, [4], {}):
        yield f"shape holds {odd!r}", with_entry(shape=[odd, 32]), "malformed"
    for odd in (None, 4, "4,32", {"0": 4}):
        yield f"shape is {odd!r}", with_entry(shape=odd), "malformed"
    for shape_of in ([], [0, 32], [0, 2**40], [1] * 200, [2, 2, 32]):
        yield (
            f"shape {str(shape_of)[:20]}",
            with_entry(shape=shape_of),
            "no adapter's|base needs|not follow",
        )
    for shape_of in ([2**40, 2**40], [2**62, 2], [2**63 - 1, 1], [4, 33]):
        yield f"size {shape_of}", with_entry(shape=shape_of), "does not follow"
    larger = [2**20, 2**20]
    offsets = [begin, begin + 2**42]
    yield "larger than the file", with_entry(shape=larger, data_offsets=offsets), "whole"
    for name, offsets in (
        ("reversed", [end, begin]),
        ("overlapping", [begin + 4, end + 4]),
        ("far away", [begin + 2**62, end + 2**62]),
        ("beyond 64 bits", [begin + 2**70, end + 2**70]),
    ):
        yield f"offsets {name}", with_entry(data_offsets=offsets), "not a whole safetensors file"
    for odd in ([-1, end], [begin], [begin, end, end], [False, end], "0,1", None):
        yield f"offsets {odd!r}", with_entry(data_offsets=odd), "malformed"
    for dtype in ("F64", "I8", "U64", "BOOL", "F8_E4M3", "C64", "f32", "", "F32\0"):
        yield f"dtype {dtype!r}", with_entry(dtype=dtype), "float32"
    for odd in (None, 32, ["F32"]):
        yield f"dtype {odd!r}", with_entry(dtype=odd), "malformed"
    yield "more fields", with_entry(path="/etc/passwd"), "malformed"
    yield "entry is text", safetensors(json.dumps({**header, first: "x"}).encode(), data), "malform"
    zeros = {f"t{i}": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]} for i in _9000}
    yield "9,000 tensors of no size", safetensors(json.dumps(zeros).encode()), "fit no targeted"
    ones = {
        f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in _9000
    }
    yield "9,000 tensors", safetensors(json.dumps(ones).encode(), bytes(36_000)), "begin with"


def _names(weights: bytes) -> Iterator[_Case]:
    header, data = taken_apart(weights)
    first = next(name for name in header if name != "__metadata__")
    for name in (
        "../../../../etc/passwd",
        "/etc/passwd",
        f"{PREFIX}../../x.lora_A.weight",
        f"{first}\0",
        f"{first}\n500 Internal Server Error",
        f"{first} ",
        first.upper(),
        "\u202e" + first,
        "\ud800",
        "",
        PREFIX,
        "x" * 500_000,
        f"{PREFIX}{'a.' * 200_000}lora_A.weight",
        f"{PREFIX}__class__.__init__.__globals__.lora_A.weight",
        "<script>alert(1)</script>",
        "%s%s%n{0.__class__}",
    ):
        renamed = {name if key == first else key: entry for key, entry in header.items()}
        yield f"name {name[:30]!a}", safetensors(json.dumps(renamed).encode(), data), "[a-z]"


def _json(config: bytes) -> Iterator[_Case]:
    yield from (
        ("empty", b"", "JSON"),
        ("null", b"null", "not a JSON object"),
        ("a list", b"[{}]", "not a JSON object"),
        ("cut", config[:-1], "JSON"),
        ("doubled", config * 2, "JSON"),
        ("byte order mark", b"\xef\xbb\xbf" + config, "JSON"),
        ("UTF-16", config.decode().encode("utf-16"), "JSON"),
        ("not UTF-8", config.replace(b"LORA", b"LOR\xc3", 1), "JSON"),
        ("NUL", config.replace(b"LORA", b"LORA\0", 1), "JSON"),
        ("comment", b"// x\n" + config, "JSON"),
        ("trailing comma", config.rstrip()[:-1] + b",}", "JSON"),
        ("100,000 brackets", b"[" * 100_000, "JSON"),
        ("100,000 objects", b'{"a":' * 50_000, "JSON"),
        ("key twice", config.replace(b"{", b'{"r": 4, ', 1), "twice"),
        ("escaped key twice", config.replace(b"{", b'{"\\u0072": 4, ', 1), "twice"),
        ("pickle", pickle_bomb("/nowhere"), "JSON"),
        ("YAML", b"!!python/object/apply:os.system ['true']", "JSON"),
    )
    for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400"):
        yield (
            f"alpha {number}",
            config.replace(b'"lora_alpha": 8', f'"lora_alpha": {number}'.encode()),
            "finite",
        )
    digits = config.replace(b'"r": 4', b'"r": ' + b"9" * 5000)
    yield "rank of 5000 digits", digits, "JSON|whole number"
    yield "over the size limit", config + b" " * (256 << 10), "larger|limit|bytes"


def _values(files: AdapterFiles) -> Iterator[_Case]:
    changes: list[tuple[str, Mapping[str, object], str]] = [
        ("deep note", {"auto_mapping": _nested(40)}, "nested deeper"),
        ("unknown key", {"unheard_of": 1}, "does not know"),
        ("code map", {"auto_map": {"AutoModel": "evil.py--Model"}}, "does not know"),
        ("attention code", {"_attn_implementation_internal": "evil/kernel"}, "does not know"),
        ("chat template", {"chat_template": "{{ x.__class__ }}"}, "does not know"),
        ("dunder key", {"__class__": "x", "__proto__": {}}, "does not know"),
        ("long key", {"k" * 200_000: 1}, "does not know"),
        ("20,000 keys", {f"k{i}": 1 for i in range(20_000)}, "does not know"),
        ("1,025 rank patterns", {"rank_pattern": {f"m{i}": 4 for i in range(1025)}}, "limit"),
        ("30,000 layers", {"layers_to_transform": [*range(2, 30_000)]}, "No module"),
        (
            "20,000 layer patterns",
            {"layers_to_transform": [0], "layers_pattern": ["a"] * 20_000},
            "over the limit of 32",
        ),
        ("negative layer", {"layers_to_transform": [-1]}, "whole number"),
        ("layer 2**64", {"layers_to_transform": 2**64}, "whole number"),
        ("true layer", {"layers_to_transform": [True]}, "whole number"),
        ("20,000 targets", {"target_modules": [f"m{i}" for i in range(20_000)]}, "no adaptable"),
        ("long target", {"target_modules": ["q" * 200_000]}, "plain module names"),
        ("dotted target", {"target_modules": ["a." * 50_000]}, "plain module names"),
        ("number as target", {"target_modules": [1]}, "plain module names"),
        ("object as targets", {"target_modules": {"q_proj": 1}}, "list of names"),
        ("path as target", {"target_modules": ["../q_proj"]}, "plain module names"),
        ("saved modules", {"modules_to_save": ["lm_head"]}, "are missing"),
        ("saved everything", {"modules_to_save": ["e"] * 20_000}, "of whole modules only|twice"),
        ("replicated layers", {"layer_replication": [[0, 1000000]]}, "not served"),
        ("other base", {"init_lora_weights": "pissa_niter_1000000"}, "Convert it to plain LoRA"),
        ("other method", {"peft_type": "NEWLORA"}, "found no home"),
        ("method as a list", {"peft_type": ["LORA"]}, "found no home"),
    ]
    for rank in (True, 0, -1, 257, 2**63, 4.0, "4", [4], {}):
        changes.append((f"rank {rank!r}", {"r": rank}, "whole number"))
        changes.append((f"rank pattern {rank!r}", {"rank_pattern": {"q_proj": rank}}, "whole"))
    for alpha in (False, 0, -1, -0.0, 1e10, 1e308, "8", [8]):
        changes.append((f"alpha {alpha!r}", {"lora_alpha": alpha}, "positive number"))
        changes.append((f"alpha pattern {alpha!r}", {"alpha_pattern": {"q_proj": alpha}}, "posit"))
    for flag in (1, "true", [], {}):
        changes.append((f"flag {flag!r}", {"use_dora": flag}, "true or false"))
    for name, values, says in changes:
        yield name, json.dumps({**files.config, **values}).encode(), says


def _expressions(files: AdapterFiles) -> Iterator[_Case]:
    for text in SLOW_EXPRESSIONS:
        for key, value in (
            ("target_modules", ["q_proj", text]),
            ("exclude_modules", [text]),
            ("rank_pattern", {text: 4}),
            ("alpha_pattern", {text: 4}),
            ("rank_pattern", {"^" + text: 4}),
        ):
            config = {**files.config, key: value}
            yield (
                f"{text} in {key} {type(value).__name__} {len(str(value))}",
                json.dumps(config).encode(),
                "never run|plain module names",
            )
        config = {**files.config, "layers_to_transform": [0], "layers_pattern": text}
        yield f"{text} in layers_pattern", json.dumps(config).encode(), "plain name"


_9000 = range(9000)


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../adapter_model.safetensors", bytes(1_000_000))
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("adapter_model.safetensors")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()
