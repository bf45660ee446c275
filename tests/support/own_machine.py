"""A machine of its own for a command, which sees no other process, network or session of Ray.

``ray stop`` and ``ray symmetric-run`` end every Ray that they see.
"""

import subprocess

import pytest

ADDRESS = "10.0.0.1"
_SET_UP = f"""
mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray
mount --bind /dev/null /etc/resolv.conf
ip link set lo up
ip link add eth0 type veth peer name eth1
ip link set eth1 up
ip addr add {ADDRESS}/24 dev eth0
ip link set eth0 up
"""
"""Nothing answers at a name server of before, and whoever asks would wait for it."""


def on_own_machine(*command: str) -> list[str]:
    """Return a command that runs ``command`` on a machine of its own, which ends with it."""
    # bash, as the first process, takes in those that lose their parent
    script = f'set -eu; {{ {_SET_UP} }} >&2; set +e; "$@"; exit $?'
    own = ["unshare", "--pid", "--net", "--mount", "--mount-proc", "--fork", "--kill-child"]
    return [*own, "bash", "-c", script, "machine", *command]


@pytest.fixture(scope="session")
def may_own_machine() -> None:
    """Skips the test where this user may not make a machine."""
    try:
        made = subprocess.run(on_own_machine("true"), capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if made.returncode != 0:
        pytest.skip(f"needs the right to make namespaces: {made.stderr.decode()}")
