// The plugin of rpcd. There is no ucode outside of OpenWrt, so it is run as JavaScript, of which its language is nearly
// a part, with ucode's functions made up for: that shows its logic, and that its commands are what a shell takes. What it
// does not show is that ucode reads the file; `pitfalls` refuses what differs between the two languages.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { check, expect, same } from './check.mjs';
import { connections, status } from './answers.mjs';

const file = new URL('../../openwrt/luci-app-pepsal/root/usr/share/rpcd/ucode/pepsal.uc', import.meta.url);
const source = readFileSync(file, 'utf8');
const code = source.replace(/^\s*\/\/.*$/gm, '').replace(/'(\\.|[^'\\])*'/g, "''");

// What is JavaScript and not 22.03's ucode, or means something else there.
const pitfalls = {
    'import or export': /\b(import|export)\b/, 'a class, new, throw, typeof or finally': /\b(class|new|throw|typeof|finally)\b/,
    'undefined': /\bundefined\b/, 'for … of or for … in': /\bfor\s*\([^;)]*\b(of|in)\b/, 'destructuring': /\b(let|const|var)\s*[[{]/,
    'do … while': /\bdo\s*\{/, 'a method of a string, an array or an object': /\.(?!(?:cursor|get|glob|open|popen|read|stat|close)\()\w+\(|\.length\b/,
    'slice(), which came later': /\bslice\(/, 'a template string': /`/, 'a trailing comma': /,\s*[\]})]/,
    'a backslash class in a regular expression, which is POSIX here': /\/[^/\n]*\\[dswb][^/\n]*\//,
};

// Functions and modules of ucode, as far as the plugin has them; anything else is an unknown name there and here.
function builtins(program, etc) {
    const fs = {
        stat: (path) => (existsSync(etc.path(path)) ? {} : null),
        glob: (pattern) => etc.glob(pattern),
        open(path, mode) {
            same(mode, 'r');
            return existsSync(etc.path(path)) ? { read: () => readFileSync(etc.path(path), 'utf8'), close: () => true } : null;
        },
        popen(command, mode) {
            same(mode, 'r');
            etc.commands.push(command);
            const { stdout, status } = spawnSync('/bin/sh', ['-c', command.replace('/usr/sbin/pepsal', program)],
                { encoding: 'utf8', maxBuffer: 1 << 26 });
            let rest = stdout;
            return {
                read(how) {
                    const end = how === 'line' ? rest.indexOf('\n') + 1 || rest.length : rest.length;
                    const text = rest.slice(0, end);
                    rest = rest.slice(end);
                    return text === '' && how === 'line' ? null : text;
                },
                close: () => status,
            };
        },
    };
    const uci = { cursor: () => ({ get: (...path) => etc.uci[path.join('.')] ?? null }) };
    return {
        require: (name) => ({ fs, uci })[name],
        length: (it) => (it === null || it === undefined ? null : it.length), push: (list, ...items) => list.push(...items),
        splice: (list, from) => list.splice(from), sort: (list, order) => list.sort(order),
        match: (text, pattern) => pattern.exec(text), trim: (text) => text.trim(), substr: (text, from, count) => text.substr(from, count),
        rtrim: (text, characters) => text.replace(new RegExp(`[${characters}]+$`), ''), int: (it) => parseInt(it, 10), json: JSON.parse,
        type: (it) => (it === null ? null : Array.isArray(it) ? 'array' : typeof it),
    };
}

export async function pluginChecks() {
    const folder = mkdtempSync(join(tmpdir(), 'pepsal-plugin-'));
    const program = join(folder, 'pepsal');
    const etc = {};

    // A router with these files, whose pepsal is this shell script.
    function answerOf(script, { uci = {}, files = {}, modules = [] } = {}) {
        Object.assign(etc, {
            commands: [], uci,
            path(path) {
                if (path === '/usr/sbin/pepsal') return program;
                if (!(path in files)) return '/nonexistent';
                const name = join(folder, path.replaceAll('/', '_'));
                writeFileSync(name, files[path]);
                return name;
            },
            glob: (pattern) => modules.filter((name) => pattern === `/lib/modules/*/${name}.ko`),
        });
        rmSync(program, { force: true });
        if (script !== null) {
            writeFileSync(program, '#!/bin/sh\n' + script);
            chmodSync(program, 0o755);
        }
        const names = builtins(program, etc);
        // What JavaScript has besides is not there in ucode.
        const others = Object.getOwnPropertyNames(globalThis).filter((name) => !(name in names) && !/^(eval|undefined|NaN|Infinity)$/.test(name));
        const plugin = new Function(...Object.keys(names), ...others, source)(...Object.values(names));
        same(Object.keys(plugin), ['luci.pepsal']);
        same(Object.keys(plugin['luci.pepsal']), ['status']);
        return JSON.parse(JSON.stringify(plugin['luci.pepsal'].status.call({ args: {} })));
    }

    const list = (items) => '{"satellite":"server","connections":[\n' + items.map((one) => JSON.stringify(one)).join(',\n') + '\n]}\n';
    const running = (items) => {
        writeFileSync(join(folder, 'status'), JSON.stringify(status) + '\n');
        writeFileSync(join(folder, 'connections'), list(items));
        return `[ "$2" = --json ] && cat ${folder}/"$1"`;
    };

    await check('plugin: nothing in it that ucode does not have', () => {
        for (const [what, pattern] of Object.entries(pitfalls)) expect(!pattern.test(code), `it has ${what}: ${pattern.exec(code)}`);
    });
    await check('plugin: the daemon’s JSON as it is', () => {
        const answer = answerOf(running(connections), {
            uci: { 'pepsal.main.enabled': '1' },
            files: { '/proc/meminfo': 'MemTotal:  124312 kB\nMemFree: 5 kB\nMemAvailable:    61004 kB\n' },
        });
        same(answer.status, status);
        same(new Set(answer.connections.map((one) => one.id)), new Set(connections.map((one) => one.id)));
        same([answer.enabled, answer.connections_complete, answer.error], [true, true, undefined]);
        same(answer.router, { total_kib: 124312, available_kib: 61004 });
        same(etc.commands, ['/usr/sbin/pepsal status --json 2>&1', '/usr/sbin/pepsal connections --json 2>/dev/null']);
    });
    await check('plugin: no connections', () => same(answerOf(running([])).connections, []));
    await check('plugin: of 1500 connections the busiest 500 of the first 1000, in a reply that ubus takes', () => {
        const many = Array.from({ length: 1500 }, (_, i) => ({ ...structuredClone(connections[2]), id: `0-${i}`, rate: { up_bps: i, down_bps: i } }));
        const answer = answerOf(running(many));
        same(answer.connections.length, 500);
        same([answer.connections[0].id, answer.connections[499].id, answer.connections_complete], ['0-999', '0-500', false]);
        // blobmsg: a header of 4, a name of 2 + length + 1, a value of 4 to 8, each padded to 4.
        const blob = (name, value) => {
            const pad = (bytes) => (bytes + 3) & ~3;
            const head = 4 + pad(3 + name.length);
            if (Array.isArray(value)) return head + value.reduce((sum, item) => sum + blob('', item), 0);
            if (value && typeof value === 'object') return head + Object.entries(value).reduce((sum, [key, item]) => sum + blob(key, item), 0);
            return head + (typeof value === 'string' ? pad(value.length + 1) : 8);
        };
        const bytes = blob('', answer);
        expect(bytes < 1 << 20, `${bytes} bytes`);
        return `${Math.round(bytes / 1024)} KiB`;
    });
    await check('plugin: pepsal is not installed', () => same(answerOf(null), { error: { code: 'not_installed' } }));
    await check('plugin: the service is stopped, and which modules are missing', () => {
        const script = 'echo "pepsal: cannot connect to it" >&2; exit 1';
        const error = { code: 'stopped', text: 'pepsal: cannot connect to it' };
        same(answerOf(script), { error, enabled: false, missing: ['kmod-nft-queue', 'kmod-tun'] });
        same(answerOf(script, { uci: { 'pepsal.main.enabled': 'on' }, files: { '/sys/module/nft_queue': '' }, modules: ['tun'] }),
            { error, enabled: true, missing: [] });
    });
    await check('plugin: what is no JSON, and what is JSON of another kind', () => {
        same(answerOf('echo \'{"version":\'').error, { code: 'garbled', text: '{"version":' });
        same(answerOf('[ "$1" = connections ] || echo null').error, { code: 'garbled', text: 'null' });
        const torn = answerOf(running(connections) + ' | sed \'s/"state":"half_closed"/"state":/\'');
        same([torn.connections.length, torn.connections_complete], [connections.length - 1, false]);
    });
    // Where there is a daemon (run.sh), as it is.
    const { PEPSAL_BIN, PEPSAL_CONTROL } = process.env;
    let real = null;
    const ask = () => answerOf(`exec '${PEPSAL_BIN}' "$@" --control '${PEPSAL_CONTROL}'`, { uci: { 'pepsal.main.enabled': '1' } });
    if (PEPSAL_CONTROL)
        await check('plugin: a daemon that runs', () => {
            real = ask();
            same([real.error, real.status.state, real.connections, real.connections_complete], [undefined, 'running', [], true]);
        });
    else if (process.env.CI) await check('plugin: a daemon that runs', () => expect(false, 'there is none: run by run.sh, as root, with namespaces'));
    else console.log('skipped: plugin: a daemon that runs: run.sh starts one, as root and where there are namespaces');
    rmSync(folder, { recursive: true });
    return real;
}
