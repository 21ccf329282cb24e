import re
from pathlib import Path

import pytest
from motet.errors import InvalidSetting
from motet.settings import KERNEL_VARIABLES, Settings, env_name, is_loopback
from motet_kernels.cpu import native_build
from pydantic import ValidationError


def test_every_setting_has_a_help_text_and_a_variable() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert env_name(name) == f"MOTET_{name.upper()}"


def test_a_setting_cannot_be_changed_later() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_flags_win_over_the_environment_and_that_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOTET_PORT", "9000")
    monkeypatch.setenv("MOTET_HOST", "localhost")
    monkeypatch.setenv("MOTET_DATA_DIR", "/srv/motet")
    monkeypatch.setenv("MOTET_BASE", "")  # as compose files pass what is not set
    settings = Settings.load({"port": 9001, "host": None})
    assert (settings.port, settings.host, settings.base) == (9001, "localhost", None)
    assert settings.data_dir == Path("/srv/motet")
    assert settings.max_n == 16


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("2GiB", 2 * 1024**3), ("256MiB", 256 * 1024**2), ("12345", 12345)]
)
def test_sizes_may_be_written_with_units(
    monkeypatch: pytest.MonkeyPatch, text: str, num_bytes: int
) -> None:
    monkeypatch.setenv("MOTET_KV_CACHE_BYTES", text)
    assert Settings.load().kv_cache_bytes == num_bytes
    assert Settings.load({"kv_cache_bytes": text}).kv_cache_bytes == num_bytes


def test_a_misspelt_variable_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOTET_MAX_NUM_SEQ", "3")
    with pytest.raises(InvalidSetting, match="did you mean MOTET_MAX_NUM_SEQS"):
        Settings.load()


def test_a_variable_of_the_kernels_is_no_misspelt_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    read = set(re.findall(r"MOTET_\w+", Path(native_build.__file__).read_text()))
    assert read == KERNEL_VARIABLES
    for name in read:
        monkeypatch.setenv(name, "/srv/cache")
    Settings.load()


def test_a_misspelt_flag_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidSetting, match="did you mean MOTET_PORT"):
        Settings.load({"prot": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "-1"),
        ("port", "65536"),
        ("port", "http"),
        ("device", "tpu"),
        ("dtype", "float16"),
        ("kv_cache_bytes", "0"),
        ("kv_cache_bytes", "-5"),
        ("kv_cache_bytes", "2 parsecs"),
        ("max_num_seqs", "0"),
        ("log_format", "xml"),
        ("drain_timeout_s", "0"),
        ("drain_timeout_s", "nan"),
        ("admin_key", "short"),
        ("max_json_depth", "1000"),
    ],
)
def test_a_wrong_value_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(env_name(name), value)
    with pytest.raises(InvalidSetting, match=f"^{env_name(name)}: "):
        Settings.load()


def test_every_wrong_value_is_told_at_once() -> None:
    with pytest.raises(InvalidSetting) as error:
        Settings.load({"port": -1, "device": "tpu"})
    assert [each.partition(":")[0] for each in error.value.message.splitlines()] == [
        "MOTET_PORT",
        "MOTET_DEVICE",
    ]


def test_a_pass_must_hold_a_chunk_beside_the_running_sequences() -> None:
    with pytest.raises(InvalidSetting, match="keep every prompt out"):
        Settings.load({"max_batch_tokens": 100})
    Settings.load({"max_batch_tokens": 192})


def test_the_admin_key_is_not_shown() -> None:
    settings = Settings.load({"admin_key": "a-key-of-sixteen-or-more"})
    assert "sixteen" not in repr(settings)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
