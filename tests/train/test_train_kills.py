"""Runs that are killed or stopped lose nothing that their checkpoint holds."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_what_continues_a_run_equals_what_was_never_stopped(tmp_path):
    """40 times killed, every other time within a write, and 9 times stopped by a signal: log, grids, checkpoint."""
    program = [sys.executable, Path(__file__).with_name("kills.py"), tmp_path, "0", "40", "9"]
    done = subprocess.run([str(part) for part in program], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
