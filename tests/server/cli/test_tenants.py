import csv
import io
import json
import time

import pytest
from motet.database import database_file
from motet.settings import Settings
from motet.tenancy.usage import Amount

from tests.support.tenants import opened_tenancy, owner_of


@pytest.fixture
def opened(run, tmp_path):
    """Opens what the commands write to: their default data directory is under the test's."""
    return lambda: opened_tenancy(database_file(tmp_path / Settings().data_dir))


@pytest.fixture
def owner(opened):
    """The name of the tenant whose key it is, as a server that starts now would say."""

    def ask(key):
        with opened() as tenancy:
            return owner_of(tenancy, key)

    return ask


def key_ids(opened, name):
    with opened() as tenancy:
        return tenancy.tenants.get(name).key_ids


def test_create_prints_the_key_alone_on_stdout(run, owner):
    result = run("tenants", "create", "red")
    assert owner(result.stdout.strip()) == "red"
    assert "shown this once" in result.stderr
    assert "every request needs a key" in result.stderr
    assert "every request needs a key" not in run("tenants", "create", "blue").stderr


def test_list_shows_names_states_and_key_ids_but_no_keys(run, opened):
    key = run("tenants", "create", "red").stdout.strip()
    run("tenants", "create", "blue")
    run("tenants", "suspend", "blue")
    shown = run("tenants", "list").stdout
    red, blue = sorted(shown.splitlines()[1:], reverse=True)
    assert red.split()[0] == "red"
    assert "active" in red
    assert key_ids(opened, "red")[0] in red
    assert "suspended" in blue
    assert key not in shown


def test_an_empty_list_says_what_to_do(run):
    result = run("tenants", "list")
    assert result.stdout == ""
    assert "motet tenants create NAME" in result.stderr


def test_suspend_and_resume(run, owner):
    key = run("tenants", "create", "red").stdout.strip()
    assert run("tenants", "suspend", "red").stdout == "Suspended tenant red.\n"
    assert owner(key) is None
    run("tenants", "resume", "red")
    assert owner(key) == "red"


def test_rename(run, owner):
    key = run("tenants", "create", "red").stdout.strip()
    assert run("tenants", "rename", "red", "green").stdout == "Tenant red is now green.\n"
    assert owner(key) == "green"


def test_delete_asks_first(run, owner):
    key = run("tenants", "create", "red").stdout.strip()
    assert run("tenants", "delete", "red", input="n\n").exit_code == 1
    assert owner(key) == "red"
    assert run("tenants", "delete", "red", "--yes").stdout == "Deleted tenant red.\n"
    assert owner(key) is None
    assert "No tenants" in run("tenants", "list").stderr


def test_rotate_replaces_all_keys(run, owner):
    old = run("tenants", "create", "red").stdout.strip()
    new = run("tenants", "rotate", "red").stdout.strip()
    assert [owner(key) for key in (old, new)] == [None, "red"]


def test_keys_come_and_go_one_by_one(run, opened, owner):
    first = run("tenants", "create", "red").stdout.strip()
    args = ("--scope", "infer", "--scope", "admin", "--label", "laptop", "--days", "2")
    second = run("keys", "create", "red", *args).stdout.strip()
    with opened() as tenancy:
        caller = tenancy.ring.authenticate(second)
        (key,) = [one for one in tenancy.keys.list("red") if one.id == caller.key_id]
    assert caller.scopes == {"infer", "admin"}
    assert abs(key.expires_at - time.time() - 2 * 24 * 3600) < 60
    shown = run("keys", "list", "red").stdout
    assert "admin,infer" in shown
    assert "laptop" in shown
    assert second not in shown
    third = run("keys", "rotate", "red", key.id, "--grace-s", "60").stdout.strip()
    assert [owner(each) for each in (first, second, third)] == ["red"] * 3
    run("keys", "revoke", "red", key.id)
    assert [owner(each) for each in (first, second, third)] == ["red", None, "red"]


def test_the_admin_key_is_made_once_and_replaced(run, opened):
    old = run("tenants", "admin-key").stdout.strip()
    new = run("tenants", "admin-key").stdout.strip()
    with opened() as tenancy:
        assert not tenancy.ring.is_admin(old)
        assert tenancy.ring.is_admin(new)


def test_quotas_are_shown_and_set(run, opened):
    run("tenants", "create", "red")
    run("tenants", "quota", "red", "--set", "max-adapters=3", "--set", "tokens_per_minute=500")
    shown = run("tenants", "quota", "red", "--set", "max_adapters=default").stdout
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines()[1:]}
    assert lines["tokens_per_minute"] == ["500", "tenant"]
    assert lines["max_adapters"] == ["-", "default"]
    assert lines["max_rank"] == ["256", "default"]
    with opened() as tenancy:
        assert tenancy.ring.quota("red").tokens_per_minute == 500


def test_usage_as_a_table_and_as_csv(run, opened):
    run("tenants", "create", "red")
    run("tenants", "create", "blue")
    with opened() as tenancy:
        tenancy.usage.add("red", "sql", Amount(1, 20, 30))
        tenancy.usage.add("blue", None, Amount(2, 40, 60))
        tenancy.try_flush()
    shown = run("usage").stdout
    assert "(base)" in shown
    rows = list(csv.DictReader(io.StringIO(run("usage", "--csv", "--tenant", "red").stdout)))
    assert [(row["tenant"], row["adapter"], row["completion_tokens"]) for row in rows] == [
        ("red", "sql", "30")
    ]
    assert len(run("usage", "--csv", "--until", "2020-01-01").stdout.splitlines()) == 1


def test_the_audit_log_names_who_typed_the_command(run):
    run("tenants", "create", "red")
    run("tenants", "suspend", "red")
    lines = [json.loads(line) for line in run("audit", "--json").stdout.splitlines()]
    assert [(line["action"], line["actor"]) for line in lines] == [
        ("tenant.created", "cli"),
        ("key.created", "cli"),
        ("tenant.suspended", "cli"),
    ]
    assert "tenant.suspended" in run("audit", "--limit", "1").stdout
    assert json.loads(run("audit", "--json", "--after", lines[1]["id"]).stdout) == lines[2]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("tenants", "create", "Red!"), "is not a valid tenant name"),
        (("tenants", "create", "x", "--scope", "root"), "is not a scope"),
        (("tenants", "suspend", "nobody"), "There is no tenant named 'nobody'"),
        (("tenants", "rotate", "nobody"), "There is no tenant named 'nobody'"),
        (("tenants", "delete", "nobody"), "There is no tenant named 'nobody'"),
        (("keys", "list", "nobody"), "There is no tenant named 'nobody'"),
        (("keys", "revoke", "red", "0123"), "no key with that id"),
        (("keys", "create", "red", "--days", "-1"), "must lie in the future"),
        (("tenants", "quota", "red", "--set", "max_adapters"), "LIMIT=NUMBER"),
        (("tenants", "quota", "red", "--set", "speed=1"), "is not a limit"),
        (("tenants", "quota", "red", "--set", "max_rank=0"), "must be at least 1"),
    ],
)
def test_refusals_are_sentences(run, args, sentence):
    run("tenants", "create", "red")
    result = run(*args)
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
