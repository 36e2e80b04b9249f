"""The sandbox's parts by themselves: files in memory, directories with hostile contents, what code can import."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sod.errors import SandboxError
from sod.sandbox import LocalSandbox, environment, home, memory_files, refusal, watch, workspace

# Directories


def nest(directory: Path, depth: int) -> None:
    """Directories in each other, deeper than a path can be long, each with a file."""
    start = os.getcwd()
    os.chdir(directory)
    try:
        for _ in range(depth):
            os.mkdir("d" * 40)
            os.chdir("d" * 40)
            Path("file").write_bytes(b"x")
    finally:
        os.chdir(start)


def test_emptying_a_directory_that_was_made_to_resist(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    work = tmp_path / "work"
    work.mkdir()
    nest(work, 3000)
    (work / "link").symlink_to(outside)
    (work / "to-parent").symlink_to("..")
    (work / ".up-0").mkdir()
    (work / "closed" / "inner").mkdir(parents=True)
    (work / "closed" / "inner").chmod(0)
    (work / "closed").chmod(0)
    work.chmod(0o500)
    os.mkfifo(work / "closed-pipe") if os.getuid() == 0 else None
    inode = work.stat().st_ino
    workspace.empty(str(work))
    assert os.listdir(work) == []
    assert (work.stat().st_ino, work.stat().st_mode & 0o777) == (inode, 0o700)
    assert outside.read_text() == "mine"


def test_usage_counts_what_is_there_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "big").write_bytes(bytes(300_000))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "everything").symlink_to("/usr")
    used = workspace.usage(str(tmp_path))
    assert (used.num_files, used.hidden) == (5, False)
    assert 300_000 <= used.num_bytes < 400_000


def test_usage_gives_up_on_depth_and_on_many_files(tmp_path: Path) -> None:
    nest(tmp_path, workspace.MAX_DEPTH + 2)
    assert workspace.usage(str(tmp_path)).hidden
    many = tmp_path / "many"
    many.mkdir()
    for number in range(workspace.MAX_FILES + 1):
        (many / str(number)).touch()
    assert workspace.usage(str(many)).num_files > workspace.MAX_FILES


def test_the_directory_of_a_killed_owner_goes_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = "import os; from sod.sandbox.home import Home; print(Home().path); os._exit(9)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    abandoned = Path(done.stdout.strip())
    (abandoned / "left").write_text("x")
    foreign = tmp_path / "sod-sandbox-link"
    foreign.symlink_to("/usr")
    owned = home.Home()
    try:
        assert not abandoned.exists()
        assert (foreign.is_symlink(), owned.path.is_dir()) == (True, True)
        other = home.Home()  # does not touch the one that lives
        assert owned.path.is_dir()
        other.remove()
    finally:
        owned.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["sod-sandbox-link"]


# Files in memory


@pytest.mark.parametrize(
    ("content", "keep_bytes", "text", "truncated"),
    [
        (b"", 6, "", False),
        (b"abcdef", 6, "abcdef", False),
        (b"abcdefg", 6, "abc\n[... 1 bytes left out ...]\nefg", True),
        ("é".encode() * 4, 6, "é\ufffd\n[... 2 bytes left out ...]\n\ufffdé", True),
    ],
)
def test_output_keeps_head_and_tail(content: bytes, keep_bytes: int, text: str, truncated: bool) -> None:
    fd = memory_files.appendable()
    try:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        output = memory_files.read_output(fd, keep_bytes=keep_bytes)
    finally:
        os.close(fd)
    assert (output.text, output.num_bytes, output.truncated) == (text, len(content), truncated)


def test_writers_of_one_output_do_not_overwrite_each_other() -> None:
    fd = memory_files.appendable()
    try:
        os.write(fd, b"first ")
        os.lseek(fd, 0, os.SEEK_SET)
        subprocess.run([sys.executable, "-c", "print('second')"], stdout=fd, check=True)
        assert memory_files.read_output(fd, keep_bytes=100).text == "first second\n"
    finally:
        os.close(fd)


# What code can import


def test_the_environment_is_what_was_asked_for_and_what_that_needs() -> None:
    found = asyncio.run(environment.find_environment(sys.executable, ["sympy"], hidden=["/x"]))
    assert {"sympy", "mpmath"} <= found.packages.keys()
    assert not {"numpy", "torch", "pip"} & found.packages.keys()
    assert "/x" in found.hidden
    assert os.access(found.executable, os.X_OK)
    assert any(found.executable.startswith(f"{path}/") for path in found.readable)
    assert all(os.path.isabs(path) and os.path.exists(path) for path in found.packages.values())


def test_another_interpreter_brings_its_own_packages(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    (site / "greeting-1.0.dist-info").mkdir()
    (site / "greeting.py").write_text("text = 'hello'\n")
    record = "greeting.py,,\ngreeting-1.0.dist-info/METADATA,,\ngreeting-1.0.dist-info/RECORD,,\n"
    (site / "greeting-1.0.dist-info" / "RECORD").write_text(record)
    (site / "greeting-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")

    async def main() -> tuple[str, str]:
        python = str(tmp_path / "venv" / "bin" / "python")
        async with LocalSandbox(workers=1, python=python, packages=["greeting"], preload=["greeting"]) as sandbox:
            said = await sandbox.run("import greeting; print(greeting.text)")
            other = await sandbox.run("import numpy")
            return said.stdout, other.stderr

    said, complaint = asyncio.run(main())
    assert said == "hello\n"
    assert "ModuleNotFoundError: No module named 'numpy'" in complaint


def test_paths_that_lie_in_others_are_not_named_twice() -> None:
    assert environment._outermost(["/usr", "/usr/lib", "/usrlocal", "/opt"]) == ("/usr", "/usrlocal", "/opt")


# The clock


BURN = """
import time
end = time.process_time() + {seconds}
while time.process_time() < end: pass
print('done')
"""


def test_a_busy_neighbour_does_not_make_a_time_out() -> None:
    """Three others share one processor with the call, which needs four fifths of its limit."""

    async def main() -> None:
        async with LocalSandbox(workers=1, preload=()) as sandbox:
            spin = [sys.executable, "-c", "while True: pass"]
            others = [subprocess.Popen(spin, start_new_session=True) for _ in range(3)]  # noqa: ASYNC220
            try:
                result = await sandbox.run(BURN.format(seconds=0.8), timeout_s=1.0)
            finally:
                for other in others:
                    other.kill()
                    other.wait()
            assert (result.status, result.stdout) == ("ok", "done\n")
            assert result.wall_s > 1.0, "the neighbours were not busy enough for this test to mean anything"
            assert (await sandbox.run(BURN.format(seconds=1.5), timeout_s=1.0)).status == "timeout"

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        asyncio.run(main())
    finally:
        os.sched_setaffinity(0, before)


def test_sleeping_is_charged() -> None:
    async def main() -> None:
        async with LocalSandbox(workers=1, preload=()) as sandbox:
            start = time.monotonic()
            assert (await sandbox.run("import time; time.sleep(30)", timeout_s=0.5)).status == "timeout"
            assert time.monotonic() - start < 5

    asyncio.run(main())


def test_the_tree_of_a_process_and_its_memory() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytes(range(256)) * 80_000; input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            tree = list(watch.process_tree(process.pid))
            if len(tree) == 2 and watch.resident_bytes(tree[1]) > 20_000_000:
                break
            time.sleep(0.02)
        assert len(tree) == 2
        assert 20_000_000 < watch.resident_bytes(tree[1]) < 60_000_000
        process.kill()
    assert watch.resident_bytes(process.pid) == 0
    assert watch.waiting_s(process.pid) == 0


# What one call can see of another


SEARCH = """
needle = {reversed_secret!r}[::-1].encode()
found = 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb') as memory:
    for line in maps:
        bounds, rights = line.split()[:2]
        if 'rw' in rights:
            start, end = (int(bound, 16) for bound in bounds.split('-'))
            memory.seek(start)
            found += memory.read(end - start).count(needle)
print(found - 1)  # one is the needle itself
"""


def test_a_call_finds_nothing_of_another_in_its_memory() -> None:
    secret = "the-tests-of-another-problem"

    async def main() -> None:
        async with LocalSandbox(workers=1, preload=()) as sandbox:
            if sandbox.level != "A":
                pytest.skip("without /proc a call cannot read its own memory this way")
            other = f"import time; x = {secret!r}; print(x, input()); time.sleep(30)"
            task = asyncio.create_task(sandbox.run(other, stdin=secret, files={secret: secret.encode()}))
            await asyncio.sleep(0.3)
            result = await sandbox.run(SEARCH.format(reversed_secret=secret[::-1]))
            assert (result.status, result.stdout) == ("ok", "0\n"), result.stderr
            task.cancel()

    asyncio.run(main())


# In a stock container

IN_A_CONTAINER = """
import asyncio, ctypes, errno, os, struct, sys
from sod.sandbox import LocalSandbox, kernel

ALLOW, REFUSE, NUMBERS = 0x7FFF0000, 0x00050000 | errno.EPERM, {numbers}
steps = [(0x20, 0, 0, 0)]  # load the number of the call
for number in NUMBERS:
    steps += [(0x15, 0, 1, number), (0x06, 0, 0, REFUSE)]
steps.append((0x06, 0, 0, ALLOW))
program = b"".join(struct.pack("HBBI", *step) for step in steps)
kept = ctypes.create_string_buffer(program, len(program))
if os.getuid() == 0:  # what Docker leaves root: chown, setuid, setfcap, ... but not sys_admin
    low = 0xA804_25FB
    header = struct.pack("=Ii", kernel.CAPABILITY_VERSION_3, 0)
    kernel.checked(kernel._libc.capset(header, struct.pack("=6I", low, low, 0, 0, 0, 0)), "capset")
kernel.no_new_privileges()
assert kernel._libc.prctl(22, 2, struct.pack("H6xQ", len(steps), ctypes.addressof(kept)), 0, 0) == 0

async def main():
    async with LocalSandbox(workers=1) as sandbox:
        result = await sandbox.run("import numpy; print(numpy.arange(3).sum())")
        print(sandbox.level, result.status, result.stdout, end="")

asyncio.run(main())
"""
"""Docker's default: few capabilities, and a filter that refuses namespaces and mounts."""


@pytest.mark.skipif(os.getuid() != 0, reason="is about root")
def test_root_with_what_docker_leaves_it_gets_level_a_where_user_namespaces_are_allowed() -> None:
    script = IN_A_CONTAINER.format(numbers=())
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    if "max_user_namespaces" in done.stderr or "userns" in done.stderr:
        pytest.skip("this machine allows nobody a user namespace")
    assert done.stdout == "A ok 3\n", done.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the calls are those of x86_64")
def test_a_container_that_refuses_namespaces_gets_level_b() -> None:
    unshare, setns, mount, umount2, pivot_root = 272, 308, 165, 166, 155
    script = IN_A_CONTAINER.format(numbers=(unshare, setns, mount, umount2, pivot_root))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "B ok 3\n", done.stderr


# Refusal


def test_a_refusal_says_what_was_tried_and_what_to_do() -> None:
    message = refusal.refusal({"A": "unshare: Operation not permitted", "B": "Landlock is not available"})
    for words in (
        "level A: unshare",
        "level B: Landlock",
        "To allow it, ",
        "docker run",
        "sandbox.urls",
        "allow_unsafe",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("path", "content", "cure"),
    [
        ("apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ("max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=65536"),
        ("lsm", "capability,yama", "boot with lsm=landlock,capability,yama"),
    ],
)
def test_the_cure_names_the_switch_that_forbids(
    path: str, content: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "_content", lambda name: content if name.endswith(path) else "")
    assert any(cure in sentence for sentence in refusal.cures())


def test_an_unusable_timeout_or_file_is_refused_before_anything_starts() -> None:
    sandbox = LocalSandbox(workers=1)
    for timeout_s in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout_s must be"):
            asyncio.run(sandbox.run("1", timeout_s=timeout_s))
    with pytest.raises(ValueError, match="must be relative"):
        asyncio.run(sandbox.run("1", files={"a\0b": b""}))


def test_closing_before_the_start_is_fine() -> None:
    async def main() -> None:
        sandbox = LocalSandbox(workers=1)
        await sandbox.aclose()
        assert (await sandbox.run("1")).status == "sandbox_error"
        with pytest.raises(SandboxError, match="closed"):
            await sandbox.session().run("1")

    asyncio.run(main())
