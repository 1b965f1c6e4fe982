"""Two processes compute what one does; on one process everything is a no-op."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mm import distributed
from mm.engine import Stream, checkpoint, fit

SCRIPT = Path(__file__).with_name("two_processes.py")


def test_on_one_process_all_are_no_ops() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert distributed.gather_with_gradient(x) is x
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather("x") == ["x"]
    assert distributed.broadcast("x") == "x"
    assert distributed.mean([{"a": 1.0}]) == [{"a": 1.0}]
    assert distributed.init("cpu") == torch.device("cpu")
    distributed.barrier()
    assert distributed.finish()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:one", "mps", "cuda "])
def test_devices_that_do_not_exist_are_named(device: str) -> None:
    with pytest.raises(ValueError, match=rf"the device must be cpu, cuda or cuda:<number>: got '{device}'"):
        distributed.init(device)
    with pytest.raises(ValueError, match=r"no device 'cuda:99' here: there are \d+ GPUs\. Choose cpu"):
        distributed.init("cuda:99")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def whole(start: int):
        number = start
        while True:
            yield script.data(number)
            number += 1

    streams = [Stream("pairs", whole, script.gathered_loss)]
    fit(script.build(), streams, script.Pairs(str(tmp_path / "single"), loop=script.settings(evaluate_every=0)))
    single = checkpoint.find(tmp_path / "single", "last")

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(tmp_path), str(single)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert (tmp_path / "passed").exists()
