"""`hub:` against a server that speaks the hub's HTTP API, with the real client in a process of its own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import hub_checkpoints as hub
import pytest

from llmbench.checkpoints.hub import small_files
from llmbench.checkpoints.resolve import BUNDLED
from llmbench.errors import CheckpointError

REPO, SHA, OLD = "GSAI-ML/LLaDA-8B-Instruct", "0123456789abcdef0123456789abcdef01234567", "f" * 40
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


class Hub(ThreadingHTTPServer):
    """One repository at two commits; `asked` are the files that somebody wanted to read.

    `status` answers everything with a page, `broken` names a file that ends in its middle.
    """

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.asked, self.gated = folder, [], False
        self.status, self.broken, self.commit = None, "", None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlparse(self.path).path)
        if self.server.status:
            return self.page(self.server.status)
        api = f"/api/models/{REPO}"
        if not path.removeprefix("/api/models").startswith(f"/{REPO}"):
            return self.refuse(404, "RepoNotFound")
        if path.startswith(f"/{REPO}/resolve/"):
            revision, _, name = path.removeprefix(f"/{REPO}/resolve/").partition("/")
            return self.file(revision, name)
        revision = path.removeprefix(api).strip("/").partition("/")[2].partition("/")[0] or "main"
        if revision not in ("main", SHA, OLD):
            return self.refuse(404, "RevisionNotFound")
        commit = OLD if revision == OLD else SHA
        files = sorted(file for file in self.server.folder.iterdir() if file.is_file())
        if "/tree/" in path:
            return self.say([self.leaf(file) for file in files])
        return self.say({"id": REPO, "modelId": REPO, "sha": commit, "private": False, "tags": [],
                         "gated": "manual" if self.server.gated else False,
                         "siblings": [{"rfilename": file.name} for file in files]})  # fmt: skip

    def leaf(self, file):
        found = {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": etag(file)[:40]}
        if file.suffix == ".safetensors":
            found["lfs"] = {"oid": etag(file), "size": found["size"], "pointerSize": 130}
        return found

    def file(self, revision, name):
        if self.server.gated:
            return self.refuse(401, "GatedRepo")
        if name not in {path.name for path in self.server.folder.iterdir()}:
            return self.refuse(404, "EntryNotFound")
        path = self.server.folder / name
        content, begin = path.read_bytes(), 0
        if self.headers.get("Range"):
            begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{etag(path)}"')
        self.send_header("X-Repo-Commit", self.server.commit or (SHA if revision == "main" else revision))
        self.send_header("Accept-Ranges", "bytes")
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if self.command == "GET":
            self.server.asked.append(name)
            self.close_connection = name == self.server.broken
            self.wfile.write(content[begin : len(content) // 2 if self.close_connection else None])
        return None

    def page(self, status):
        body = b"<html>Please log in</html>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def say(self, values):
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def etag(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path):
    hub.write(tmp_path / "repository", "llada")
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"a pickle")
    (tmp_path / "repository" / "consolidated.safetensors").write_bytes(b"the same weights once more")
    made = Hub(tmp_path / "repository")
    threading.Thread(target=made.serve_forever, args=[0.02], daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


FETCH = """
import json, sys, time
time.sleep = lambda seconds: None  # the client's pauses before it tries again
from llmbench.errors import CheckpointError
from llmbench.checkpoints import hub
try:
    found = hub.small_files(sys.argv[1])
    if len(sys.argv) > 2:
        hub.weight_files(found)
    print(json.dumps({"name": found.name, "files": sorted(path.name for path in found.folder.iterdir())}))
except CheckpointError as error:
    print(json.dumps({"refused": str(error)}))
"""


@pytest.fixture
def fetch(server, tmp_path):
    """Runs the client in a process of its own, with a cache of its own."""

    def run(place, *more, script=FETCH, **environment):
        own = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1",
               "HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_ETAG_TIMEOUT": "5", "OMP_NUM_THREADS": "1"}  # fmt: skip
        outer = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        done = subprocess.run(
            [sys.executable, "-c", script, place, *more], env=outer | own | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}

    return run


def refusal(result):
    assert "\n" not in result["refused"]
    return result["refused"]


SMALL = ["config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]


def test_the_small_files_come_alone_then_the_weights_and_nothing_else(server, fetch):
    found = fetch(REPO)
    assert (found["name"], found["files"]) == (f"hub:{REPO}@{SHA}", SMALL)
    assert "%" not in found["stderr"]
    whole = fetch(REPO, "weights")
    assert whole["files"] == sorted([*SMALL, FIRST, SECOND])
    assert "%" in whole["stderr"]  # a bar
    assert set(server.asked) == {*SMALL, FIRST, SECOND}  # no code, no pickle, no second copy
    again = len(server.asked)
    assert "%" not in fetch(REPO, "weights")["stderr"]
    assert len(server.asked) == again


def test_a_revision_is_a_commit_or_a_branch(fetch):
    assert fetch(f"{REPO}@{OLD}")["name"] == f"hub:{REPO}@{OLD}"
    assert fetch(f"{REPO}@main")["name"] == f"hub:{REPO}@{SHA}"
    assert "has no revision v9" in refusal(fetch(f"{REPO}@v9"))


@pytest.mark.parametrize("place", ["LLaDA", "a/b/c", "a/b@", "a b/c", "../b/c", ""])
def test_a_name_that_is_none(place):
    with pytest.raises(CheckpointError, match="write hub:ORG/NAME or hub:ORG/NAME@REVISION"):
        small_files(place)


def test_a_repository_that_is_not_there(fetch):
    assert "the hub knows no such repository, or it is private" in refusal(fetch("GSAI-ML/LLaDA-9B"))


def test_a_gated_repository_says_where_to_ask(server, fetch):
    server.gated = True
    message = refusal(fetch(REPO))
    assert f"gated; accept its licence at https://huggingface.co/{REPO}, then log in with `hf auth login`" in message
    message = refusal(fetch(REPO, HF_TOKEN="hf_of_somebody_else"))
    assert "gated, and your token's account has no access" in message
    assert "hf_of_somebody_else" not in message


def test_without_a_network_the_cache_serves_and_says_what_it_lacks(server, fetch):
    assert "not in the cache, and HF_HUB_OFFLINE is set" in refusal(fetch(REPO, HF_HUB_OFFLINE="1"))
    nowhere = "http://127.0.0.1:9"
    unreachable = fetch(REPO, HF_ENDPOINT=nowhere)
    assert "not in the cache, and the hub cannot be reached (" in refusal(unreachable)
    assert unreachable["stderr"] == ""  # one line, and not one for every retry
    fetch(REPO)
    assert "not in the cache, and HF_HUB_OFFLINE is set" in refusal(fetch(REPO, "weights", HF_HUB_OFFLINE="1"))
    whole = fetch(REPO, "weights")
    for outage in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": nowhere}):
        later = fetch(REPO, "weights", **outage)
        assert (later["name"], later["files"]) == (whole["name"], whole["files"])
    assert fetch(f"{REPO}@{SHA}", "weights", HF_HUB_OFFLINE="1")["name"] == whole["name"]


@pytest.mark.parametrize(
    ("said", "variable"),
    [
        ({"HF_HUB_OFFLINE": "on"}, "HF_HUB_OFFLINE"),
        ({"HF_HUB_OFFLINE": "True"}, "HF_HUB_OFFLINE"),
        ({"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "yes"}, "TRANSFORMERS_OFFLINE"),
        ({"HF_HUB_OFFLINE": "0"}, None),
        ({"HF_HUB_OFFLINE": "false"}, None),
        ({"HF_HUB_OFFLINE": "off", "TRANSFORMERS_OFFLINE": "1"}, None),
    ],
)
def test_offline_is_what_the_hubs_library_takes_for_it(server, fetch, said, variable):
    found = fetch(REPO, **said)
    if variable is None:
        assert found["name"] == f"hub:{REPO}@{SHA}"
        assert server.asked
    else:
        assert f"not in the cache, and {variable} is set; unset it once" in refusal(found)
        assert server.asked == []


def test_a_repository_of_pickles(server, fetch):
    for path in server.folder.glob("model*"):
        path.unlink()
    assert "has no model.safetensors; pickled weights are never fetched" in refusal(fetch(REPO, "weights"))
    assert "pytorch_model.bin" not in set(server.asked)


RESOLVE = """
import json, sys
from huggingface_hub import snapshot_download
from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.job import HardwareConfig
from llmbench.errors import CheckpointError
place, folder = sys.argv[1:]
told = {}
try:
    resolve_checkpoint(place, family="autoregressive")
except CheckpointError as error:
    told["wrong"] = str(error)
def too_long(files):
    raise CheckpointError(f"the context is {files.context}, {len(files.tokenize('WORDS'))} tokens")
try:
    resolve_checkpoint(place, family="diffusion", require=too_long)
except CheckpointError as error:
    told["unfit"] = str(error)
described = resolve_checkpoint(place, "dummy", family="diffusion")
told["early"] = [path.name for path in described.path.glob("*.safetensors")]
files = resolve_checkpoint(place, family="diffusion")
loaded = load_checkpoint(files, HardwareConfig(device="cpu", dtype="float32"), "real")
local = resolve_checkpoint(folder)
told |= {"name": files.name, "digest": files.digest, "local": local.digest, "bytes": loaded.weight_bytes}
snapshot_download(place.removeprefix("hub:"), allow_patterns=["model.safetensors"])  # another program
told["together"] = [path.name for path in sorted(files.path.glob("*.safetensors"))]
told["again"] = resolve_checkpoint(place, family="diffusion").digest
target = next(path for path in files.path.glob("model-*.safetensors")).resolve()
damaged = bytearray(target.read_bytes())
damaged[-1] ^= 1
target.write_bytes(damaged)
try:
    resolve_checkpoint(place)
except CheckpointError as error:
    told["damaged"] = str(error)
print(json.dumps(told))
"""


def test_what_would_have_to_be_edited_is_said_with_the_way_to_a_copy(server, fetch):
    hub.edit(server.folder / "config.json", rope_theta=...)
    said = fetch(f"hub:{REPO}", script=REFUSED)["said"]
    assert said.startswith(
        f"checkpoint hub:{REPO}@{SHA}: config.json has no rope_theta; add it (in a copy: hf download "
    )
    assert said.endswith(f"hf download {REPO} --local-dir FOLDER, then checkpoint=local model.checkpoint=FOLDER)")


def test_a_checkpoint_of_the_hub_is_the_folder_it_would_be(server, fetch, tmp_path):
    local = shutil.copytree(server.folder, tmp_path / "local")
    (server.folder / "model.safetensors").write_bytes(b"the same weights in one file")
    told = fetch(f"hub:{REPO}", str(local), script=RESOLVE)
    assert told["name"] == f"hub:{REPO}@{SHA}"
    assert told["digest"] == told["local"]
    assert told["bytes"] > 0
    assert told["early"] == []  # what is wrong was said before the weights came
    assert "is diffusion, the decoder is autoregressive" in told["wrong"]
    assert told["unfit"] == "the context is 128, 5 tokens"
    assert told["together"] == [FIRST, SECOND, "model.safetensors"]
    assert told["again"] == told["digest"]  # what the index lists counts, not what another program fetched beside it
    assert "was damaged after its download; delete " in told["damaged"]
    assert not hub.ran(server.folder.parent)


REFUSED = """
import json, sys
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.errors import CheckpointError
try:
    resolve_checkpoint(sys.argv[1])
except CheckpointError as error:
    print(json.dumps({"said": str(error)}))
"""

PREPARE = """
import json, sys
from hydra import compose, initialize_config_dir
from llmbench.checkpoints import hub
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.conf_files import conf_folder
from llmbench.config.build import build_job
from llmbench.job.prepare import conditions, prepare_job
place = sys.argv[1]
asked = ["model=llama_server", "metric=speed", "hardware=cpu", "workload.prompts=4", f"model.checkpoint='{place}'"]
def planned():
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        prepared = prepare_job(build_job(compose("config", overrides=asked)))
    return [prepared.identity, prepared.signatures, conditions(prepared, "", {})], prepared.checkpoint.path
first, folder = planned()
before = sorted(path.name for path in folder.glob("*.safetensors"))
resolve_checkpoint(place, family="autoregressive")
hub.small_files.cache_clear()  # as in a process of its own
print(json.dumps({"first": first, "later": planned()[0], "before": before,
                  "after": sorted(path.name for path in folder.glob("*.safetensors"))}))
"""


def test_a_servers_identity_is_the_same_before_and_after_its_weights_arrive(server, fetch):
    server.folder = BUNDLED / "llama"
    told = fetch(f"hub:{REPO}", script=PREPARE)
    assert (told["before"], told["after"]) == ([], ["model.safetensors"])
    assert told["later"] == told["first"]


def test_a_download_that_broke_off_is_one_line_and_goes_on_later(server, fetch):
    server.broken = SECOND
    assert "; the same command goes on from there" in refusal(fetch(REPO, "weights"))
    server.broken = ""
    assert fetch(REPO, "weights")["files"] == sorted([*SMALL, FIRST, SECOND])


def test_a_mirror_that_sends_another_commit_is_refused(server, fetch):
    server.commit = "1" * 40
    assert f"hub:{REPO}@{OLD}: the hub has none of config.json, " in (said := refusal(fetch(f"{REPO}@{OLD}")))
    assert "or answered with the files of another commit" in said


def test_what_does_not_answer_as_a_hub_should_is_said_with_what_to_do(server, fetch):
    for status in (401, 403):
        server.status = status
        assert f"the hub refuses ({status}); log in with `hf auth login` or HF_TOKEN" in refusal(fetch(REPO))
        message = refusal(fetch(REPO, HF_TOKEN="hf_that_expired"))
        assert f"the hub refuses ({status}); your token may be wrong or expired" in message
        assert "hf_that_expired" not in message
    server.status = 200  # and a page: the network's own
    assert f"what answers at {server.address} is no Hugging Face hub; check HF_ENDPOINT" in refusal(fetch(REPO))
