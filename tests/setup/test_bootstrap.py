"""The first `python3 manage.py` on a machine: in a bare folder, from a package folder instead of an index."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from commerce import bootstrap

MANAGE = """
import sys
from commerce import bootstrap
bootstrap.ensure_environment(needed=["tinypackage"])
import tinypackage
print(tinypackage.VERSION, sys.prefix, *sys.argv[1:])
"""


class Checkout:
    """A folder with manage.py, the bootstrap and a lock of one package."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wheels = folder, folder / "wheels"
        (folder / "commerce").mkdir(parents=True)
        self.wheels.mkdir()
        (folder / "commerce" / "__init__.py").touch()
        shutil.copy(bootstrap.__file__, folder / "commerce")
        (folder / "manage.py").write_text(MANAGE)
        self.stamp = folder / ".venv" / ".requirements.sha256"

    def lock(self, version: str) -> None:
        wheel = self.wheels / f"tinypackage-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            info = f"tinypackage-{version}.dist-info"
            archive.writestr("tinypackage.py", f"VERSION = {version!r}\n")
            archive.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tinypackage\nVersion: {version}\n"
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", f"tinypackage.py,,\n{info}/METADATA,,\n{info}/RECORD,,\n")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (self.folder / "requirements.lock").write_text(f"tinypackage=={version} --hash=sha256:{digest}\n")

    def start(self, *arguments: str, index: bool = True) -> subprocess.Popen[str]:
        sources = {"PIP_FIND_LINKS": str(self.wheels)} if index else {"PIP_FIND_LINKS": ""}
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env={**os.environ, "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", **sources},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, index: bool = True) -> tuple[int, str, str]:
        process = self.start(*arguments, index=index)
        out, err = process.communicate(timeout=120)
        return process.returncode, out.strip(), err

    @property
    def prefix(self) -> str:
        return str(self.folder / ".venv")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    checkout.lock("1.0")
    assert checkout.run("demo", "--once") == (0, f"1.0 {checkout.prefix} demo --once", _ANY)
    return checkout


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True


_ANY = _Anything()


def test_the_second_run_installs_nothing(checkout: Checkout) -> None:
    checkout.run()
    assert checkout.run("x", index=False) == (0, f"1.0 {checkout.prefix} x", "")


def test_a_changed_lock_installs_again_and_only_once_for_two_commands(checkout: Checkout) -> None:
    checkout.lock("2.0")
    both = [checkout.start(), checkout.start()]
    answers = [process.communicate(timeout=120) for process in both]
    assert [out.split()[0] for out, _ in answers] == ["2.0", "2.0"]
    assert sum("installing the packages" in err for _, err in answers) == 1


def test_an_interrupted_installation_starts_again(checkout: Checkout) -> None:
    checkout.run()
    checkout.stamp.unlink()
    (checkout.folder / ".venv" / "half-written").touch()
    code, _, _ = checkout.run()
    assert code == 0
    assert checkout.stamp.exists()
    assert not (checkout.folder / ".venv" / "half-written").exists()


def test_without_an_index_it_says_what_to_do_and_leaves_no_stamp(checkout: Checkout) -> None:
    checkout.run()
    shutil.rmtree(checkout.wheels)
    checkout.wheels.mkdir()
    lock = checkout.folder / "requirements.lock"
    lock.write_text(lock.read_text().replace("tinypackage", "absentpackage"))
    code, out, err = checkout.run()
    assert (code, out) == (1, "")
    assert "check the network" in err
    assert "Traceback" not in err
    assert not checkout.stamp.exists()


def test_where_the_packages_are_there_nothing_happens(tmp_path: Path) -> None:
    bootstrap.ensure_environment(tmp_path, needed=["django"])
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_venv_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.lock").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        bootstrap.ensure_environment(tmp_path)
    assert not (tmp_path / ".venv").exists()
