"""2,000 bent uploads over the real route: accepted or refused, never anything else."""

from collections import Counter

import hypothesis
from safetensors.torch import load

from tests.support.hostile_costs import counted
from tests.support.hostile_mutations import BOUNDARY, Upload, uploads
from tests.support.live_server import LiveServer

NUM_UPLOADS = 2000
PATH = "/v1/adapters/mutated"
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
REFUSED = {400, 413, 422}


def test_every_bent_upload_is_accepted_or_refused(server: LiveServer) -> None:
    outcomes: Counter[tuple[str, int]] = Counter()
    root = server.settings.data_dir
    staging = root / "adapters" / "staging"
    with server.client("acme") as client:
        # What is imported at the first use is not the uploads' doing.
        client.put(PATH, content=b"", headers=HEADERS)
        kept = client.get("/v1/adapters").json()

        @hypothesis.settings(
            max_examples=NUM_UPLOADS, deadline=None, derandomize=True, database=None
        )
        @hypothesis.given(upload=uploads())
        def send(upload: Upload) -> None:
            with counted() as costs:
                reply = client.put(PATH, content=upload.body, headers=HEADERS)
            outcomes[upload.what, reply.status_code] += 1
            hypothesis.event(f"{upload.what}: {reply.status_code}")
            costs.require_modest(root)
            assert list(staging.iterdir()) == []
            if reply.status_code == 201:
                if upload.what != "form":
                    tensors = load(upload.weights)  # the library reads what we read
                    num_parameters = sum(each.numel() for each in tensors.values())
                    assert num_parameters == reply.json()["num_parameters"]
                assert client.delete(PATH).status_code == 200
            else:
                assert reply.status_code in REFUSED, reply.text
                message = reply.json()["error"]["message"]
                assert message.isascii()
                assert message.isprintable()
                assert len(reply.content) < 8192
                assert str(root) not in reply.text
            assert client.get("/v1/adapters").json() == kept

        send()
    by_status = Counter({200: 0})
    for (_, status), count in outcomes.items():
        by_status[status] += count
    assert by_status.total() >= NUM_UPLOADS
    # Or else the mutations are too wild, or too tame, to show anything.
    assert by_status[201] >= NUM_UPLOADS // 50, outcomes
    assert by_status[422] >= NUM_UPLOADS // 4, outcomes
