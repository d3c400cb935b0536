# From run.sh's samples of sockets (ss -tin): the sender of the satellite's leg, one line for each sample.
#   awk -f tests/satlab/trace.awk target/satlab/trace
# Columns: seconds, host, unsent and unacknowledged bytes, then ss's own words.
$1 == "trace" {
    seed = $2; name = $3; mode = $4; at = $5; host = $6; waiting = $8; peer = $10
    if (waiting == 0) next
    crosses = mode == "cubic" || mode == "bbr" || (host == "term" && peer ~ /^10\.5\./) || (host == "hub" && peer ~ /^10\.2\./) ||
        (mode == "terminal" && host == "server")
    if (!crosses) next
    if (name " " mode " " seed != title) { title = name " " mode " " seed; print "\n" title }
    line = sprintf("%6.1f %-6s %9d", at, host, waiting)
    for (n = 11; n <= NF; n++) {
        if ($n ~ /^(cubic|bbr|hybla|reno|rtt:|cwnd:|ssthresh:|unacked:|lost:|sacked:|retrans:|rwnd_limited:|sndbuf_limited:|notsent:|bytes_acked:|rcv_space:|snd_wnd:|bbr:)/ || $n ~ /^bbr/) line = line " " $n
        if ($n ~ /^(pacing_rate|delivery_rate|send)$/) line = line " " $n ":" $(n + 1)
    }
    print line
}
