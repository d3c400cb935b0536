// What the plugin answers, recorded: the documented examples of the daemon's JSON (tests/control), as they are and in
// the states that a page has to cope with.
import { readFileSync } from 'node:fs';

const example = (name) => JSON.parse(readFileSync(new URL(`../control/examples/${name}.json`, import.meta.url)));
export const status = example('status');
export const connections = example('connections').connections;

const changed = (change) => {
    const copy = structuredClone(status);
    change(copy);
    return copy;
};
const reply = (more) => ({
    enabled: true, status, connections, connections_complete: true,
    router: { total_kib: 124312, available_kib: 61004 }, ...more,
});

export const running = reply();

// None yet: a daemon that has just started.
export const fresh = reply({
    connections: [],
    status: changed((it) => {
        it.uptime_s = 0;
        it.congestion = null;
        it.link = { rate_up_bps: null, rate_down_bps: null, rtt_ms: null };
        it.auto_pass = { threshold_ms: null, passing: false };
        it.slots = { used: 0, peak: 0, max: 1024 };
        it.memory.used_bytes = 0;
        it.connections = { connecting: 0, relaying: 0, half_closed: 0 };
        for (const name of ['seen', 'stolen', 'repeated', 'returned']) it.syns[name] = 0;
        for (const name of Object.keys(it.syns.passed)) it.syns.passed[name] = 0;
        it.bytes = { up: 0, down: 0 };
        it.rate = { up_bps: 0, down_bps: 0 };
        it.handshake_rtt = { satellite_ms: null, lan_ms: null };
        it.warnings = [];
        it.samples = { interval_s: 1, up_bps: [], down_bps: [], connections: [] };
    }),
});

// 500 of 700: as many as the plugin lists, the busiest last so that the page has to sort.
export const crowd = reply({
    connections_complete: false,
    connections: Array.from({ length: 500 }, (_, i) => {
        const connection = structuredClone(connections[i % connections.length]);
        connection.id = `0-${i}`;
        connection.client = `192.168.${1 + (i >> 8)}.${i & 255}:${40000 + i}`;
        connection.rate = { up_bps: i * 10, down_bps: i * 1000 };
        if (i === 499) connection.client = connection.server = '[2001:db8:1234:5678:9abc:def0:1234:5678]:50118';
        return connection;
    }),
    status: changed((it) => {
        it.slots = { used: 700, peak: 1024, max: 1024 };
        it.connections = { connecting: 60, relaying: 600, half_closed: 40 };
        it.syns.passed.full = 5120;
        it.warnings = [
            { code: 'slots_full', text: 'all slots are in use' },
            { code: 'of_a_later_version', text: 'something <b>new</b> is the matter' },
        ];
    }),
});

export const hub = reply({ status: changed((it) => ((it.satellite = 'client'), (it.transparent = true))) });
export const passing = reply({ status: changed((it) => {
    it.auto_pass = { threshold_ms: 200, passing: true };
    it.warnings = [{ code: 'auto_passing', text: '' }, { code: 'satellite_not_slow', text: '' }];
}) });
export const ending = reply({ status: changed((it) => ((it.state = 'ending'), (it.warnings = [{ code: 'ending', text: '' }]))) });

export const older = reply({ status: changed((it) => delete it.memory) });

export const off = { enabled: false, missing: [], error: { code: 'stopped', text: 'cannot reach the daemon' } };
export const dead = { enabled: true, missing: [], error: { code: 'stopped', text: 'cannot <img src=x onerror="hacked=1"> reach' } };
export const moduleMissing = { enabled: true, missing: ['kmod-nft-queue'], error: { code: 'stopped', text: '' } };
export const notInstalled = { error: { code: 'not_installed' } };
export const garbled = { enabled: true, missing: [], error: { code: 'garbled', text: '{"version":' } };
export const failed = { error: { code: 'failed', text: 'left-hand side is null' } };
