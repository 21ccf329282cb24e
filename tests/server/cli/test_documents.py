"""What README and docs say is what the program does."""

import re
from pathlib import Path

import pytest
from motet.cli.config import markdown_table
from motet.settings import CLIENT_VARIABLES, KERNEL_VARIABLES, Settings, env_name

ROOT = Path(__file__).parents[3]
DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def _text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_s_settings_table_is_the_program_s(run):
    """After a change of settings: paste what `motet config --markdown` prints into the README."""
    assert markdown_table() in _text("README.md")
    assert run("config", "--markdown").stdout.strip() == markdown_table()
    for field in Settings.model_fields:
        assert f"`{env_name(field)}`" in markdown_table()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_in_the_documents_exists(run, name):
    written = r"(?:^|`|\$\()motet ((?:tenants|keys|adapters) [a-z-]+|[a-z]+)\b"
    commands = set(re.findall(written, _text(name), re.MULTILINE))
    known = {
        "serve",
        "quantize",
        "merge",
        "generate",
        "profile",
        "tune",
        "config",
        "usage",
        "audit",
    }
    changes = ("create", "list", "rename", "suspend", "resume", "delete", "rotate")
    known |= {f"tenants {sub}" for sub in (*changes, "quota", "admin-key")}
    known |= {f"keys {sub}" for sub in ("create", "list", "rotate", "revoke")}
    known |= {f"adapters {sub}" for sub in ("push", "import", "list", "rm", "check")}
    assert commands <= known
    for command in sorted(commands):
        assert run(*command.split(), "--help").exit_code == 0


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", _text(name)):
        assert (ROOT / name).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_variable_in_the_documents_is_one(name):
    settings = {env_name(field) for field in Settings.model_fields}
    variables = settings | CLIENT_VARIABLES | KERNEL_VARIABLES
    assert set(re.findall(r"\bMOTET_[A-Z_]+\b", _text(name))) <= variables
