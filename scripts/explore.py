"""Explore runs and an index in a local web page.

    python scripts/explore.py runs/captioning runs/vqa
    python scripts/explore.py --index INDEX
    python scripts/explore.py RUN... --index INDEX --port 7861

There is a tab for each thing that the runs can do: search and map an index, describe, answer, localise, separate,
classify, explain. The encoders of an index's queries are those of a retrieval run given, or else of the run that the
index names. Nothing is loaded from the network, and nothing is sent there.
"""

import argparse
import logging
import sys

from mm.app import page, server
from mm.app.runs import open_index, open_run
from mm.config import clean_exit
from mm.engine import keep_freed_memory, start_logging
from mm.index import IndexDamagedError

HOST, PORT = "127.0.0.1", 7860

log = logging.getLogger("mm.app")


@clean_exit(OSError, ValueError, IndexDamagedError)
def main() -> None:
    """Load, lay out, serve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folder")
    parser.add_argument("--index", help="folder of an index")
    parser.add_argument("--host", default=HOST, help=f"address to listen at; {HOST}, which only this machine reaches")
    parser.add_argument("--port", type=int, default=PORT, help=f"{PORT}; 0 = any that is free")
    arguments = parser.parse_args()
    if not arguments.runs and not arguments.index:
        parser.error("a run folder is required, or --index")
    start_logging(stream=sys.stderr)
    server.check_installed()
    keep_freed_memory()
    runs = [open_run(run) for run in dict.fromkeys(arguments.runs)]
    if not arguments.index and any(run.task == "retrieval" for run in runs):
        log.info("there is no search and no map without --index: see scripts/build_index.py")
    searcher, embedding = open_index(arguments.index, runs) if arguments.index else (None, None)
    server.serve(lambda: page.build(runs, searcher, embedding), arguments.host, arguments.port)


if __name__ == "__main__":
    main()
