"""What the library costs, beside its floors: the same work done by others, in one run, interleaved.

    make bench                                   # everything, three rounds, on a private server with fsync on
    make bench ARGS="append read --rounds 5"     # some of it
    python -m benchmarks --help

One module a topic in `topics`; `core` and `series` run the rounds, `server` and `meter` give databases and count time and CPU,
`document`, `page` and `plot` show what was found. docs/benchmarks.md says how to read it. Nothing is asserted here: on a
shared machine a time is no fact. The goals are those of docs/design.md, section 10.
"""
