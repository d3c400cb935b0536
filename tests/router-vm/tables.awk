# SPDX-License-Identifier: MIT OR Apache-2.0
# The figures of the reports, each line with the machine's name before it, as Markdown.

function has(list, word) { return index(" " list " ", " " word " ") > 0 }
function add(list, word) { return has(list, word) ? list : (list == "" ? word : list " " word) }

$2 == "rss" { rss[$1] = $3; small = add(small, $1) }
$2 == "memory" {
    for (at = 4; at <= 8; at++) memory[$1, $3, at] = $at
    small = add(small, $1)
}
$2 == "slots" { for (at = 4; at <= 8; at++) slots[$1, $3, at] = $at; many = $1 }
# cost SIZE PATH WAY AMOUNT busy NANOSECONDS from LEAST to MOST; an instruction takes two (run.sh: icount).
$2 == "cost" && $7 == "busy" {
    unit = 2 * ($3 == "connections" ? 1 : $6 * 1.048576)
    cost[$1, $3, $4, $5] = $8 / unit
    cheapest[$1, $3, $4, $5] = $10 / unit
    dearest[$1, $3, $4, $5] = $12 / unit
    counted = add(counted, $1)
    paths = add(paths, $4)
    if ($3 != "connections") sizes = add(sizes, $3)
}

function row(name, when, at,    i, list, n) {
    printf "| %s |", name
    n = split(small, list, " ")
    for (i = 1; i <= n; i++) printf " %s |", (list[i], when, at) in memory ? memory[list[i], when, at] : "-"
    printf "\n"
}

# Thousands of instructions per MB of the router alone: less what client and server need without one.
function own(arch, size, path, way) { return cost[arch, size, path, way] - cost[arch, size, "direct", way] }

# How far apart the direct transfers are: what is left of a difference smaller than that says nothing.
function spread(arch, size, way) { return dearest[arch, size, "direct", way] - cheapest[arch, size, "direct", way] }

# The columns that both tables of instructions have.
function head(n, list,    i) {
    printf "\n| path |"
    for (i = 1; i <= n; i++) printf " %s up | %s down |", list[i], list[i]
    printf "\n|---|"
    for (i = 1; i <= n; i++) printf "---:|---:|"
    printf "\n"
}

# Both ways to look at it, of the packets that the bound is for, and which of them the bound is for.
function bound(    i, k, n, list, way, whole, part) {
    printf "\nThe bound, at most %s times masquerading, is on what the whole machine spends on an MB with `nic` packets: one machine\n", most
    printf "is client, router and server, and the goal was set for the work of all of them on a transfer. A router on its own\n"
    printf "pays its share alone; that ratio is higher, because the ends\047 work is in neither side of it. It is told beside the\n"
    printf "other, found by taking off what the same transfer costs over one cable without a router; run.sh does not judge it.\n"
    printf "In brackets: the dearest single transfer, in proportion to the average one without pepsal.\n"
    printf "\n| machine | way | whole machine, bound %s | router\047s own share, no bound |\n|---|---|---:|---:|\n", most
    n = split(counted, list, " ")
    for (i = 1; i <= n; i++) for (k = 0; k < 2; k++) {
        way = k ? "down" : "up"
        whole = cost[list[i], "nic", "masquerade", way]
        part = own(list[i], "nic", "masquerade", way)
        printf "| %s | %s |", list[i], way
        if (!cost[list[i], "nic", "pepsal", way] || part <= spread(list[i], "nic", way)) { printf " - | - |\n"; continue }
        printf " %.2f (%.2f) |", cost[list[i], "nic", "pepsal", way] / whole, dearest[list[i], "nic", "pepsal", way] / whole
        printf " %.2f |\n", own(list[i], "nic", "pepsal", way) / part
    }
}

function table(arch,    i, j, k, n, m, size, path, way, list, names, value, base) {
    n = split(sizes, list, " ")
    m = split(paths, names, " ")
    printf "\n### %s\n\nThousand instructions per MB, client, router and server together (the bound is on the ratios of pepsal, `nic`):\n", arch
    head(n, list)
    for (j = 1; j <= m; j++) if ((arch, list[1], names[j], "up") in cost) {
        printf "| %s |", label[names[j]]
        for (i = 1; i <= n; i++) for (k = 0; k < 2; k++) {
            way = k ? "down" : "up"
            value = cost[arch, list[i], names[j], way]
            base = cost[arch, list[i], "masquerade", way]
            if (value) printf " %.0f (%.2f) |", value / 1000, base ? value / base : 0; else printf " - |"
        }
        printf "\n"
    }
    printf "\nThe router\047s own share, that is less the direct cable\047s (no bound on these ratios; `-`: the transfers over\n"
    printf "the cable differ among each other by more than all that masquerading takes):\n"
    head(n, list)
    for (j = 1; j <= m; j++) if (names[j] != "direct" && (arch, list[1], names[j], "up") in cost) {
        printf "| %s |", label[names[j]]
        for (i = 1; i <= n; i++) for (k = 0; k < 2; k++) {
            way = k ? "down" : "up"
            base = own(arch, list[i], "masquerade", way)
            if (!cost[arch, list[i], names[j], way] || base <= spread(arch, list[i], way)) { printf " - |"; continue }
            value = own(arch, list[i], names[j], way)
            printf " %.0f (%.2f) |", value / 1000, value / base
        }
        printf "\n"
    }
    printf "\nConnections, one after the other, each with 1 KiB there:\n\n"
    printf "| path | thousand instructions per connection | connections per second at 500 million instructions |\n|---|---:|---:|\n"
    for (j = 1; j <= m; j++) {
        value = cost[arch, "connections", names[j], "-"]
        if (value) printf "| %s | %.0f | %.0f |\n", label[names[j]], value / 1000, 500e6 / value
    }
}

END {
    label["direct"] = "no router: one cable"
    label["forward"] = "forwarding"
    label["masquerade"] = "forwarding, conntrack, masquerade"
    label["pepsal"] = "pepsal"
    label["early"] = "pepsal, early handshake"
    label["copy"] = "pepsal, copying instead of splicing"
    printf "# pepsal on emulated routers\n\nMade by `%s`.\n", command
    if (small != "") {
        n = split(small, list, " ")
        printf "\n## Memory\n\nOne machine of 64 MB (128 MB for x86_64 and aarch64, whose kernels are larger) is client, router and server at\n"
        printf "once: 512 connections, of which 20 transfer with every byte checked. In kB, the largest of many readings; slab,\n"
        printf "sockets and memory taken are the whole machine's, with both ends in it.\n\n|  |"
        for (i = 1; i <= n; i++) printf " %s |", list[i]
        printf "\n|---|"
        for (i = 1; i <= n; i++) printf "---:|"
        printf "\n| daemon, idle, 1024 slots: RSS |"
        for (i = 1; i <= n; i++) printf " %s |", rss[list[i]]
        printf "\n"
        row("512 connections: RSS", "open", 4)
        row("512 connections, 20 transfers: RSS", "active", 4)
        row("the same: pipes of the daemon", "active", 5)
        row("slab before", "before", 6)
        row("slab, 512 connections", "open", 6)
        row("slab, 512 connections, 20 transfers", "active", 6)
        row("socket buffers, 512 connections, 20 transfers", "active", 7)
        row("memory taken before", "before", 8)
        row("memory taken, 512 connections", "open", 8)
        row("memory taken, 512 connections, 20 transfers", "active", 8)
    }
    if (many != "") {
        printf "\n16,384 connections at a time through one daemon, on a machine of 1 GB (%s), that is client, router and server too:\n", many
        printf "four sockets each and two entries of conntrack.\n\n| kB | before | all open, idle | 20 transfer | per connection |\n|---|---:|---:|---:|---:|\n"
        split("daemon: RSS, pipes, slab, socket buffers, memory taken", figure, ", ")
        for (at = 4; at <= 8; at++) if (at != 5) {
            printf "| %s | %d | %d | %d |", figure[at - 3], slots[many, "before", at], slots[many, "open", at], slots[many, "active", at]
            printf " %.1f |\n", (slots[many, "open", at] - slots[many, "before", at]) / 16384
        }
    }
    if (counted != "") {
        printf "\n## Cost\n\nThe emulator counts instructions (`-icount shift=1,sleep=off`: each takes 2 ns of the machine's time, waiting takes\n"
        printf "none), so the time that its one processor was not idle is a number of instructions, and a busy host changes\n"
        printf "nothing. In brackets: the ratio to forwarding with conntrack and masquerading. Packets: `large`, segments of up to\n"
        printf "64 KiB as the kernel makes them; `nic`, as Ethernet devices do: frames of 1500 bytes, merged on their way into the\n"
        printf "router (GRO) and cut up on their way out; `frames`, 1500 bytes everywhere.\n"
        bound()
        n = split(counted, list, " ")
        for (i = 1; i <= n; i++) table(list[i])
    }
}
