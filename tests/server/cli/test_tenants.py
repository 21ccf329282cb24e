import pytest
from motet.database import database_file
from motet.settings import Settings

from tests.support.tenants import opened_tenants


@pytest.fixture
def stored(run, tmp_path):
    """The tenants the commands write to: their default data directory is under the test's."""
    with opened_tenants(database_file(tmp_path / Settings().data_dir)) as opened:
        yield opened


def test_create_prints_the_key_alone_on_stdout(run, stored):
    result = run("tenants", "create", "red")
    key = result.stdout.strip()
    assert stored.authenticate(key) == "red"
    assert "shown this once" in result.stderr
    assert "every request needs a key" in result.stderr
    assert "every request needs a key" not in run("tenants", "create", "blue").stderr


def test_list_shows_names_states_and_key_ids_but_no_keys(run, stored):
    key = run("tenants", "create", "red").stdout.strip()
    run("tenants", "create", "blue")
    run("tenants", "revoke", "blue")
    shown = run("tenants", "list").stdout
    red, blue = sorted(shown.splitlines()[1:], reverse=True)
    assert red.split()[0] == "red"
    assert "active" in red
    assert stored.get("red").key_ids[0] in red
    assert "revoked" in blue
    assert key not in shown


def test_an_empty_list_says_what_to_do(run):
    result = run("tenants", "list")
    assert result.stdout == ""
    assert "motet tenants create NAME" in result.stderr


def test_revoke_ends_every_key(run, stored):
    key = run("tenants", "create", "red").stdout.strip()
    assert run("tenants", "revoke", "red").stdout == "Revoked tenant red.\n"
    assert stored.authenticate(key) is None


def test_one_key_can_be_ended_alone(run, stored):
    first = run("tenants", "create", "red").stdout.strip()
    second = run("tenants", "rotate", "red", "--keep").stdout.strip()
    run("tenants", "revoke", "red", "--key-id", stored.get("red").key_ids[0])
    alive = {stored.authenticate(first), stored.authenticate(second)}
    assert alive == {None, "red"}


def test_rotate_replaces_the_key(run, stored):
    old = run("tenants", "create", "red").stdout.strip()
    new = run("tenants", "rotate", "red").stdout.strip()
    assert stored.authenticate(old) is None
    assert stored.authenticate(new) == "red"


def test_the_admin_key_is_made_once_and_replaced(run, stored):
    old = run("tenants", "admin-key").stdout.strip()
    new = run("tenants", "admin-key").stdout.strip()
    assert not stored.is_admin(old)
    assert stored.is_admin(new)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("create", "Red!"), "is not a valid tenant name"),
        (("revoke", "nobody"), "There is no tenant named 'nobody'"),
        (("rotate", "nobody"), "There is no tenant named 'nobody'"),
    ],
)
def test_refusals_are_sentences(run, args, sentence):
    result = run("tenants", *args)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_name_in_use_is_refused(run):
    run("tenants", "create", "red")
    result = run("tenants", "create", "red")
    assert result.exit_code == 2
    assert "There is a tenant named 'red' already" in result.stderr


def test_a_data_directory_that_cannot_be_made_is_a_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("tenants", "list", "--data-dir", tmp_path / "file" / "data")
    assert result.exit_code == 2
    assert "Not a directory" in result.stderr
    assert "Check the rights to the data directory" in result.stderr
