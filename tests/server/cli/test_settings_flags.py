import subprocess
import sys

import pytest
from motet.cli.settings_flags import default_text, flag_name
from motet.settings import Settings, env_name


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_a_flag_of_serve_with_its_variable_and_help(run, field):
    lines = run("serve", "--help").stdout
    text = " ".join(lines.split()).replace("- ", "-")
    assert flag_name(field) in text
    assert f"[{env_name(field)}" in text
    assert str(Settings.model_fields[field].description).replace("- ", "-") in text


def test_flags_win_over_the_environment(run, monkeypatch):
    monkeypatch.setenv("MOTET_PORT", "1234")
    monkeypatch.setenv("MOTET_THREADS", "3")
    shown = {line.split()[0]: line.split()[1:] for line in _lines(run("config", "--port", 99))}
    assert shown["port"] == ["99", "--port"]
    assert shown["threads"] == ["3", "MOTET_THREADS"]
    assert shown["host"] == ["127.0.0.1", "default"]


def test_a_switch_can_be_turned_off_over_the_environment(run, monkeypatch):
    monkeypatch.setenv("MOTET_DOUBLE_QUANT", "true")
    assert "off" in _row(run("config", "--no-double-quant"), "double_quant")
    assert "on" in _row(run("config"), "double_quant")


def test_the_admin_key_is_never_printed(run, monkeypatch):
    monkeypatch.setenv("MOTET_ADMIN_KEY", "a-secret-of-the-operator")
    result = run("config")
    assert "a-secret-of-the-operator" not in result.output
    assert "***" in _row(result, "admin_key")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--port", "x"), "--port: Input should be a valid integer"),
        (("--host", ""), "--host: String should have at least 1 character"),
        (("--dtype", "float64"), "--dtype: Input should be 'bfloat16' or 'float32'"),
        (("--kv-cache-bytes", "-1"), "--kv-cache-bytes"),
        (("--chunk-len", "100000"), "max_batch_tokens"),
    ],
)
def test_a_wrong_flag_is_refused_by_its_own_name(run, args, sentence):
    result = run("config", *args)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stdout == ""


def test_a_misspelt_variable_is_refused(run, monkeypatch):
    monkeypatch.setenv("MOTET_PROT", "1")
    result = run("serve")
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: MOTET_PROT is not a setting; did you mean MOTET_PORT? "
        "Unset it or correct the name.\n"
    )


def test_the_variables_of_the_client_commands_are_no_misspelling(run, monkeypatch):
    monkeypatch.setenv("MOTET_API_KEY", "k")
    monkeypatch.setenv("MOTET_URL", "http://127.0.0.1:1")
    assert run("config").exit_code == 0


def test_defaults_read_as_one_would_type_them():
    assert default_text("max_body_bytes") == "4MiB"
    assert default_text("drain_timeout_s") == "30"
    assert default_text("double_quant") == "off"
    assert default_text("base") == ""


def test_help_does_not_import_the_model():
    code = (
        "import sys; sys.argv = ['motet', '--help']\n"
        "from motet.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def _lines(result):
    return [line for line in result.stdout.splitlines()[1:] if line.strip()]


def _row(result, field):
    return next(line for line in result.stdout.splitlines() if line.startswith(f"{field} "))
