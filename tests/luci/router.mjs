// The router that the browser sees: the stand-in and the package's files over HTTP on loopback, the answers of ubus as
// recorded, and UCI files, which it reads and notes down again when they are saved.
import { createServer } from 'node:http';
import { existsSync, readFileSync } from 'node:fs';
import { extname, join, normalize } from 'node:path';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' };

// A UCI file as LuCI's uci module has it: sections with their options, lists as arrays.
export function parseUci(text) {
    const sections = [];
    for (const line of text.split('\n')) {
        const [, keyword, name, value] = /^\s*(config|option|list)\s+(\S+)(?:\s+'([^']*)')?\s*$/.exec(line) || [];
        if (keyword === 'config')
            sections.push({ '.type': name, '.name': value || `cfg${sections.length}`, '.anonymous': !value });
        else if (keyword === 'option') sections.at(-1)[name] = value;
        else if (keyword === 'list') (sections.at(-1)[name] ??= []).push(value);
    }
    return sections;
}

export function formatUci(sections) {
    return sections.map((section) => {
        const lines = [`config ${section['.type']}` + (section['.anonymous'] ? '' : ` '${section['.name']}'`)];
        for (const [name, value] of Object.entries(section)) {
            if (name.startsWith('.')) continue;
            for (const item of [].concat(value)) lines.push(`\t${Array.isArray(value) ? 'list' : 'option'} ${name} '${item}'`);
        }
        return lines.join('\n') + '\n';
    }).join('\n');
}

// answer: what luci.pepsal's status says. null: no such object; a number: ubus' code of a call that failed.
export async function router(folders, config) {
    const state = { answer: null, config, asked: 0, asking: 0, mostAsking: 0, saved: null, delay: 0, url: '' };
    const server = createServer((request, response) => {
        const path = normalize(new URL(request.url, 'http://router').pathname);
        const reply = (code, body, type) => response.writeHead(code, { 'Content-Type': type ?? 'application/json' }).end(body);
        let body = '';
        request.on('data', (bytes) => (body += bytes));
        request.on('end', () => {
            if (path === '/ubus') {
                const { id } = JSON.parse(body);
                const error = { code: -32000, message: 'Object not found' };
                const result = typeof state.answer === 'number' ? [state.answer] : [0, state.answer];
                const text = JSON.stringify({ jsonrpc: '2.0', id, ...(state.answer === null ? { error } : { result }) });
                state.asked++;
                state.mostAsking = Math.max(state.mostAsking, ++state.asking);
                setTimeout(() => (state.asking--, reply(200, text)), state.delay);
            } else if (path === '/uci/pepsal') {
                if (request.method === 'POST') state.saved = JSON.parse(body);
                reply(200, JSON.stringify(parseUci(state.config)));
            } else {
                const file = folders.map(([prefix, folder]) => path.startsWith(prefix) && join(folder, path.slice(prefix.length)))
                    .find((name) => name && existsSync(name));
                if (file) reply(200, readFileSync(file), TYPES[extname(file)]);
                else reply(404, 'no such file');
            }
        });
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    state.url = `http://127.0.0.1:${server.address().port}`;
    state.close = () => (server.closeAllConnections(), server.close());
    return state;
}
