#!/bin/sh
# What PBS says of a job, in the words that Snakemake wants: running, success or failed.
told=$(qstat -x -f "$1" 2>&1)
case $? in
    0) ;;
    # no such job: its history is gone, and nobody knows how it ended
    153 | 35) echo failed && exit 0 ;;
    # the server does not answer; that says nothing of the job
    *) echo running && exit 0 ;;
esac
state=$(printf '%s\n' "$told" | sed -n 's/^ *job_state = //p')
code=$(printf '%s\n' "$told" | sed -n 's/^ *Exit_status = //p')
case $state in
    F | C | X) if [ "$code" = 0 ]; then echo success; else echo failed; fi ;;
    *) echo running ;;
esac
