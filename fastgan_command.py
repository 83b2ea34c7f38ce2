"""The program `fastgan`, outside the package: what hinders the import of the package is said without a traceback."""

import sys


def main() -> int:
    """Run the command line of the process, and return its exit status."""
    try:
        from fastgan.cli import main as run
    except (ImportError, OSError, ValueError) as error:
        print(f"fastgan: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return run()
