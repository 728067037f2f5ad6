"""Two runs on a Ray node of another installation of Python that holds other code; prints what happened as JSON.

The first run is by a driver whose folder the node sees, the second by one whose folder is gone, as a folder of a login
node is for the nodes of a cluster. A program of its own: it runs from a copy, and a process keeps Ray's token.

    python -P other_python_run.py FOLDER    with FOLDER/driver on the search path, made by `make_folders`
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MINE = """import sys
value = {value}


class Say:
    def run(self, payload):
        return [value, __file__, sys.prefix]
"""


def make_folders(folder: Path) -> None:
    """`driver` and `node` with a package each of two names, contents differ; `venv`, whose Python finds `node`'s."""
    for value, where in enumerate(("driver", "node")):
        (folder / where / "mine").mkdir(parents=True)
        (folder / where / "mine" / "__init__.py").write_text(MINE.format(value=value))
        shutil.copytree(
            ROOT / "cluster", folder / where / "cluster", ignore=shutil.ignore_patterns("__pycache__")
        )
    with (folder / "node" / "cluster" / "limits.py").open("a") as edited:
        edited.write("# edited on the node\n")
    venv.create(folder / "venv", symlinks=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    import ray

    found = [*site.getsitepackages(), str(Path(ray.__file__).parents[1])]
    (packages / "found.pth").write_text("\n".join([str(folder / "node"), *dict.fromkeys(found)]) + "\n")


def one_run(address: str) -> dict[str, object]:
    from mine import Say

    from cluster import OtherCode, RayExecutor, Resources, Unit

    with RayExecutor(address, packages=["mine"]) as executor:
        try:
            (outcome,) = executor.execute([Unit("a", None)], Say, Resources(num_cpus=1))
        except OtherCode as other:
            return {"refused": str(other)}
    return {"error": outcome.error, "result": outcome.result}


def main(folder: Path) -> None:
    port = 25000 + 3 * (os.getpid() % 500)  # below the ephemeral ports; another run of the tests takes others
    command = [
        str(folder / "venv" / "bin" / "python"), "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={port + 1}", "--num-cpus=1",
        f"--dashboard-agent-listen-port={port + 2}", "--include-dashboard=false", "--object-store-memory=80000000",
        "--disable-usage-stats",
    ]  # fmt: skip
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    log = folder / "node.log"
    with tempfile.TemporaryDirectory(prefix="taba-o", dir="/tmp") as short, log.open("w") as written:
        node = subprocess.Popen(
            [*command, f"--temp-dir={short}/r"], env=own, cwd=folder / "node", stdout=written, stderr=written
        )
        try:
            while "runtime started" not in log.read_text():
                assert node.poll() is None, log.read_text()
                time.sleep(0.1)
            seen = one_run(f"127.0.0.1:{port}")
            (folder / "driver").rename(folder / "moved")
            gone = one_run(f"127.0.0.1:{port}")
        finally:
            node.terminate()
            node.wait(60)
    print(json.dumps({"seen": seen, "gone": gone}))


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"
    main(Path(sys.argv[1]))
