"""jitvm bench: guest speed beside other emulators, on the same images in the same run.

The files, in the order of the work:

    workloads.py      the guests, their iteration counts and instruction counts
    runners.py        how each emulator is called (jitvm, QEMU, Bochs, unicorn)
    measure.py        one run of one process, timed at the guest's marks
    session.py        calibration, interleaved rounds, medians
    startup.py        start-up and SeaBIOS rows
    jitvm_stats.py    what is read from jitvm's statistics
    stats.py          median, geometric mean, ratio, spread
    report.py         tables
    ab.py             runs with and without an optimisation
    chart.py          charts as SVG
    html.py           a page with charts
    results.py        results as JSON, and what an older file says
    errors.py         what goes wrong
    cli.py            the command line
    unicorn_guest.py  the child process that runs unicorn
"""

from jitvm.bench.cli import main

__all__ = ["main"]
