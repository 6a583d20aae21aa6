"""Trees of ``/proc`` and ``/sys`` as the kernel writes them, and torch's own text."""

import sys
from pathlib import Path

import pytest

from planner.base.units import GIB
from planner.hardware.linux_host import read_host, read_torch
from planner.hardware.machine_readings import HostReading, TorchReading
from tests.nvml.stand_in import installed_torch


class TestHost:
    MEMINFO = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n"

    def tree(self, root: Path, cgroup: str, files: dict[str, str]) -> HostReading:
        files = {
            "proc/meminfo": self.MEMINFO,
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: A CPU @ 3 GHz\n",
            "proc/self/cgroup": cgroup,
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        }
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_host(root)

    def test_no_control_group(self, tmp_path: Path) -> None:
        host = self.tree(tmp_path, "", {})
        assert host.cpu_name == "A CPU @ 3 GHz"
        assert (host.total_bytes, host.available_bytes) == (16 * GIB, 8 * GIB)
        assert host.cores >= 1

    @pytest.mark.parametrize(("status", "counted_gib"), [("online", 12), ("offline", 16)])
    def test_memory_of_a_superchips_gpu_is_not_the_hosts(
        self, tmp_path: Path, status: str, counted_gib: int
    ) -> None:
        """Linux counts it once the driver has brought it online."""
        gpu, node = "proc/driver/nvidia/gpus/0009:01:00.0", "sys/devices/system/node/node1"
        for name, text in {
            f"{gpu}/numa_status": f"Node:      1\nStatus:    {status}\nAddress:   0\n",
            f"{node}/meminfo": (
                f"Node 1 MemTotal:  {4 * GIB // 1024} kB\nNode 1 MemFree:  {3 * GIB // 1024} kB\n"
            ),
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        host = self.tree(tmp_path, "", {})
        assert host.machine_bytes == host.total_bytes == counted_gib * GIB
        assert host.available_bytes == (5 if status == "online" else 8) * GIB

    def test_second_version(self, tmp_path: Path) -> None:
        """A limit of a group above counts; a page cache that can be dropped is free."""
        host = self.tree(
            tmp_path,
            "0::/job/step\n",
            {
                "job/memory.max": f"{4 * GIB}\n",
                "job/memory.current": f"{3 * GIB}\n",
                "job/memory.stat": f"anon 5\ninactive_file {1 * GIB}\nactive_file 7\n",
                "job/step/memory.max": "max\n",
                "job/step/memory.current": f"{3 * GIB}\n",
                "job/step/memory.stat": "inactive_file 0\n",
            },
        )
        assert (host.total_bytes, host.available_bytes) == (4 * GIB, 2 * GIB)

    def test_first_version(self, tmp_path: Path) -> None:
        """In a container the path is the host's, and its files are those of the root."""
        host = self.tree(
            tmp_path,
            "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/\n0::/\n",
            {
                "memory/memory.limit_in_bytes": f"{2 * GIB}\n",
                "memory/memory.usage_in_bytes": f"{1 * GIB}\n",
                "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}\n",
            },
        )
        assert (host.total_bytes, host.available_bytes) == (2 * GIB, 3 * GIB // 2)

    def test_no_limit(self, tmp_path: Path) -> None:
        """The first version writes a huge number for none."""
        host = self.tree(
            tmp_path,
            "4:memory:/\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": f"{1 * GIB}\n",
                "memory/memory.stat": "total_inactive_file 0\n",
            },
        )
        assert (host.total_bytes, host.available_bytes) == (16 * GIB, 8 * GIB)

    def test_over_the_limit(self, tmp_path: Path) -> None:
        host = self.tree(
            tmp_path,
            "0::/\n",
            {"memory.max": "1000", "memory.current": "2000", "memory.stat": ""},
        )
        assert (host.total_bytes, host.available_bytes) == (1000, 0)

    def test_this_machine(self) -> None:
        host = read_host()
        assert 0 < host.available_bytes <= host.total_bytes
        assert host.cpu_name

    @pytest.mark.parametrize(
        ("cgroup", "files", "cores"),
        [
            ("0::/job\n", {"job/cpu.max": "100000 100000\n", "cpu.max": "max 100000\n"}, 1),
            ("0::/job\n", {"job/cpu.max": "50000 100000\n"}, 1),
            ("0::/job\n", {"job/cpu.max": "garbage\n"}, None),
            (
                "3:cpu,cpuacct:/\n",
                {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
                1,
            ),
            (
                "3:cpu,cpuacct:/\n",
                {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
                None,
            ),
        ],
    )
    def test_share_of_the_processors(
        self, tmp_path: Path, cgroup: str, files: dict[str, str], cores: int | None
    ) -> None:
        """By quota, rounded up, and never more than affinity leaves."""
        found = self.tree(tmp_path, cgroup, files)
        assert found.cores == (cores or read_host().cores)

    def test_file_systems(self, tmp_path: Path) -> None:
        host = read_host(output=tmp_path)
        assert host.disk_free_bytes is not None
        assert read_host(output=tmp_path / "nowhere").disk_free_bytes is None
        assert self.tree(tmp_path, "", {}).shm_bytes is None


class TestTorch:
    @pytest.mark.parametrize(
        ("version", "cuda"), [("2.13.0+cu130", "13.0"), ("2.11.0+cu126", "12.6"), ("2.9.0", None)]
    )
    def test_installed(
        self, version: str, cuda: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file is read; the stand-in for torch raises where it is imported."""
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.syspath_prepend(installed_torch(tmp_path, version))
        assert read_torch() == TorchReading(version=version, cuda=cuda)

    def test_a_torch_without_its_text(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        root = installed_torch(tmp_path, "2.9.0")
        monkeypatch.syspath_prepend(root)
        (root / "torch" / "version.py").write_bytes(b"\xff")
        assert read_torch() is None
        (root / "torch" / "version.py").write_text("# nothing")
        assert read_torch() is None
